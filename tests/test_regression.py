"""In-context regression: the functions, the exact methods, and tables of a user's own."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run

from xtool.checkpoint import load, save
from xtool.corpora import Text
from xtool.intervals import estimate
from xtool.tasks import open_data, task_of
from xtool.tasks._functions import function_of, variance_of
from xtool.tasks._solvers import errors_of, lasso
from xtool.tasks._table import parts_of
from xtool.training.costs import costs_of

TASK = {"dims": 6, "points": 15, "noise": 0.0, "nonzero": 2, "depth": 3, "hidden": 40}


def task(function: str, **more: Any) -> dict[str, Any]:
    return TASK | {"function": function} | more


@pytest.mark.parametrize("function", ["linear", "sparse", "tree", "relu"])
def test_values_have_mean_0_and_the_variance_that_is_said(function: str) -> None:
    own = task(function)
    x, y = function_of(own)(6000, torch.Generator().manual_seed(0))
    assert x.shape == (6000, 15, 6)
    for moment, wanted in ((x.mean(), 0), (x.var(), 1), (y[:, 0].mean(), 0)):
        assert float(moment) == pytest.approx(wanted, abs=0.1)
    assert float(y.var()) == pytest.approx(variance_of(own), rel=0.06)
    again = function_of(own)(6000, torch.Generator().manual_seed(0))
    assert torch.equal(again.y, y)


def test_functions_are_what_they_say() -> None:
    draw = torch.Generator().manual_seed
    x, y = function_of(task("sparse"))(50, draw(0))
    weights = torch.linalg.lstsq(x.double(), y.double()[..., None]).solution[..., 0]
    assert ((weights.abs() > 1e-4).sum(1) == 2).all()
    x, y = function_of(task("tree"))(50, draw(0))
    for points, values in zip(x, y, strict=True):
        assert len(set(values.tolist())) <= 8, "a leaf each"
        signs: dict[tuple[bool, ...], float] = {}
        for point, value in zip(points, values, strict=True):
            assert signs.setdefault(tuple((point > 0).tolist()), float(value)) == float(value)
    x, y = function_of(task("sparse"), dims=3)(50, draw(0))
    weights = torch.linalg.lstsq(x[..., :3].double(), y.double()[..., None]).solution[..., 0]
    assert ((weights.abs() > 1e-4).sum(1) == 2).all(), "a part of the numbers that are not 0"
    x, y = function_of(task("tree"), dims=1)(50, draw(0))
    assert all(len(set(values.tolist())) == 2 for values in y), "each node asks for the sign of it"
    noisy, clean = (function_of(task("linear", noise=n))(400, draw(0)) for n in (0.5, 0.0))
    assert torch.equal(noisy.x, clean.x)
    assert float((noisy.y - clean.y).std()) == pytest.approx(0.5, rel=0.03)


def test_least_squares_has_the_error_that_theory_gives() -> None:
    own = task("linear", dims=10, points=31)
    found = function_of(own)(1280, torch.Generator().manual_seed(0))
    errors = errors_of(found, own)["least_squares"].double()
    for known in range(10):
        mean = estimate(errors[:, known].tolist())
        wide = 1.5 * ((mean.high or 0) - mean.value)  # of ten intervals one may miss
        assert abs(mean.value - (1 - known / 10)) <= wide
    assert float(errors[:, 11:].mean(0).max()) < 1e-9
    # Over all numbers of pairs it is (d + 1) / 2n.
    assert float(errors.mean()) == pytest.approx(11 / 62, rel=0.05)


def test_ridge_is_the_closed_form_under_noise_and_beats_least_squares() -> None:
    own = task("linear", noise=0.5)
    found = function_of(own)(300, torch.Generator().manual_seed(0))
    errors = errors_of(found, own)
    assert float(errors["ridge"].mean()) < float(errors["least_squares"].mean())
    x, y = found.x[7].double(), found.y[7].double()
    inner = x[:9].T @ x[:9] + 0.25 * torch.eye(6, dtype=torch.float64)
    weights = torch.linalg.inv(inner) @ x[:9].T @ y[:9]
    wanted = (weights @ x[9] - y[9]) ** 2 / 6
    assert float(errors["ridge"][7, 9]) == pytest.approx(float(wanted), rel=1e-5)


def test_lasso_is_scikit_learns() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, y = function_of(task("sparse", noise=0.2, skew=1.0))(6, torch.Generator().manual_seed(0))
    x, y = x.double(), y.double()
    found = lasso(x, y, 1.0)
    for prompt in range(6):
        for known in (1, 2, 4, 7, 14):
            reference = linear_model.Lasso(
                alpha=0.01, fit_intercept=False, tol=1e-12, max_iter=10**6
            ).fit(x[prompt, :known].numpy(), y[prompt, :known].numpy())
            (wanted,) = reference.predict(x[prompt, known : known + 1].numpy())
            assert float(found[prompt, known]) == pytest.approx(wanted, abs=1e-6)


def test_the_scale_of_points_is_nothing_to_lasso() -> None:
    one, other = (
        errors_of(function_of(dials)(4, torch.Generator().manual_seed(0)), dials, with_trees=False)
        for dials in (task("sparse"), task("sparse", scale=1e5))
    )
    torch.testing.assert_close(one["lasso"], other["lasso"], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"function": "bogus"}, "`function`"),
        ({"noise": "x"}, "`noise`"),
        ({"noise": None}, "`noise`"),
        ({"scale": -2.0}, "`--scale` is -2.0"),
        ({"curriculum": {"grow_every": 0}}, "`--grow-every` is 0"),
        ({"curriculum": {"points_from": "a"}}, "`points_from`"),
        ({"sizes": {"epoch": 1 << 62, "dev": 8, "test": 8}}, "the header's epoch"),
    ],
    ids=str,
)
def test_headers_of_prompts_are_held_to_what_is_prepared(
    changes: dict[str, Any], message: str, xtool: Run, tmp_path: Path
) -> None:
    small = ["--dims", 3, "--points", 5, "--dev-size", 8, "--test-size", 8]
    assert xtool("prepare", "regression", *small, "-o", "a.st").code == 0
    header, tensors = load(tmp_path / "a.st")
    odd = header.model_copy(update={"task": header.task | changes})
    save(tmp_path / "odd.st", odd, tensors)
    done = xtool("train", "odd.st", "--steps", 1, "-o", "m.st")
    assert (done.code, message in done.err, "fault" in done.err) == (1, True, False), done.err


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("dev.targets", 1, "prompts of 5 points have 1 targets"),
        ("dev.extra.least_squares", 1, "no errors of its targets"),
        ("dev.extra.own", 0, ""),
    ],
)
def test_tensors_of_prompts_have_a_value_a_point(
    name: str, code: int, message: str, xtool: Run, tmp_path: Path
) -> None:
    small = ["--dims", 3, "--points", 5, "--dev-size", 8, "--test-size", 8]
    assert xtool("prepare", "regression", *small, "-o", "a.st").code == 0
    header, tensors = load(tmp_path / "a.st")
    if name == "dev.targets":
        tensors = {own: one for own, one in tensors.items() if not own.startswith("dev.extra")}
    tensors[name] = torch.zeros(8, 1)
    save(tmp_path / "odd.st", header, tensors)
    done = xtool("train", "odd.st", "--steps", 1, "-o", "m.st")
    assert (done.code, message in done.err, "fault" in done.err) == (code, True, False), done.err
    if code == 0:
        done = xtool("evaluate", "m.st", "--by-examples", "--format", "csv")
        assert (done.code, "own" in done.out, "ridge" in done.out) == (0, False, False), done
        assert "least squares" in done.out


def test_an_epoch_that_is_drawn_takes_no_memory(xtool: Run) -> None:
    small = ["--dims", 3, "--points", 5, "--dev-size", 8, "--test-size", 8, "--epoch-size", 10**11]
    assert xtool("prepare", "regression", *small, "-o", "a.st").code == 0
    shape = ["--d-model", 8, "--n-heads", 1, "--n-layers", 1, "--threads", 1]
    assert xtool("train", "a.st", *shape, "--steps", 1, "-o", "m.st").code == 0


def test_lasso_obeys_its_optimality_condition_and_finds_sparse_weights_sooner() -> None:
    own = task("sparse", dims=12, points=20)
    found = function_of(own)(200, torch.Generator().manual_seed(0))
    errors = errors_of(found, own)
    assert float(errors["lasso"][:, 8].mean()) < 0.5 * float(errors["least_squares"][:, 8].mean())
    nearest, averaging = (float(errors[name].mean()) for name in ("nearest", "averaging"))
    assert float(errors["lasso"].mean()) < min(nearest, averaging)


def test_prompts_are_stored_reproducibly_and_training_ones_are_not(
    xtool: Run, tmp_path: Path
) -> None:
    small = ["--dims", 3, "--points", 5, "--dev-size", 8, "--test-size", 8]
    for name in ("a.st", "b.st"):
        assert xtool("prepare", "regression", *small, "-o", name).code == 0
    assert (tmp_path / "a.st").read_bytes() == (tmp_path / "b.st").read_bytes()
    _, tensors = load(tmp_path / "a.st")
    assert tensors["dev.inputs"].shape == (8, 10, 3)
    assert not any(name.startswith("train") for name in tensors)
    x, y = tensors["dev.inputs"][:, ::2], tensors["dev.targets"]
    values = tensors["dev.inputs"][:, 1::2]
    assert torch.equal(values[..., 0], y)
    assert not values[..., 1:].any()
    assert x.shape == (8, 5, 3)
    args = ["train", "a.st", "--d-model", 8, "--n-heads", 1, "--n-layers", 1, "--threads", 1]
    args += ["--steps", 4, "--batch-size", 4]
    assert xtool(*args, "-o", "m.st").code == 0
    assert xtool(*args, "-o", "n.st").code == 0
    assert (tmp_path / "m.st").read_bytes() == (tmp_path / "n.st").read_bytes()
    assert xtool(*args, "--replicas", 2, "-o", "two.st").code == 0
    assert xtool("slice", "two.st", "--replica", 0, "-o", "first.st").code == 0
    one, first = (load(tmp_path / f"{name}.st")[1] for name in ("m", "first"))
    for name, tensor in one.items():
        torch.testing.assert_close(first[name], tensor, rtol=1e-4, atol=1e-5)


def test_a_table_of_numbers_is_a_function_too(xtool: Run, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 2, generator=generator)
    y = 3 * x[:, 0] - x[:, 1] + 5
    lines = [
        ",".join(f"{v:.6f}" for v in (*a, b)) for a, b in zip(x.tolist(), y.tolist(), strict=True)
    ]
    (tmp_path / "my.csv").write_text("\n".join(["wide,high,price", *lines]) + "\n")
    done = xtool("prepare", "regression", "my.csv", "--points", 8, "--dev-size", 20, "-o", "t.st")
    assert done.code == 0, done.err
    header, tensors = load(tmp_path / "t.st")
    assert header.task["scaling"]["columns"] == ["wide", "high", "price"]
    assert tensors["train.rows"].shape == (240, 3)
    (tmp_path / "my.csv").write_text("\n".join(["RI,Na,null", *lines]) + "\n")
    assert xtool("prepare", "regression", "my.csv", "--points", 8, "-o", "u.st").code == 0
    assert load(tmp_path / "u.st")[0].task["scaling"]["columns"] == ["RI", "Na", "null"]
    assert float(tensors["dev.extra.least_squares"][:, 4:].mean()) < 1e-6
    train = ["--d-model", 8, "--n-heads", 1, "--n-layers", 1, "--steps", 2, "-o", "m.st"]
    assert xtool("train", "t.st", *train).code == 0


def test_dev_and_test_do_not_scale_a_table(tmp_path: Path) -> None:
    rows = torch.randn(400, 2, generator=torch.Generator().manual_seed(3))
    lines = "\n".join(f"{a:.6f},{b:.6f}" for a, b in rows.tolist())
    (train, dev, test), scaling = parts_of(Text("my.csv", lines, ""), 8, seed=0)
    assert [len(part) for part in (train, dev, test)] == [320, 40, 40]
    torch.testing.assert_close(train.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(train.std(0), torch.ones(2))
    assert float(dev.mean(0).abs().max()) > 1e-3
    mean, spread = (torch.tensor(scaling[name]) for name in ("mean", "sd"))
    back = torch.cat([train, dev, test]) * spread + mean
    torch.testing.assert_close(back.sort(0).values, rows.sort(0).values, atol=1e-4, rtol=0)


FAR = "\n".join(["x,y", *(f"{'1e60' if n == 31 else n % 7},{n % 5}" for n in range(400))])


@pytest.mark.parametrize("arch", [[], ["--arch", "looped", "--n-loops", 2]], ids=str)
def test_fitted_growth_reads_functions_that_are_drawn(arch: list[Any], xtool: Run) -> None:
    small = ["--dims", 3, "--points", 6, "--dev-size", 8, "--test-size", 8]
    assert xtool("prepare", "regression", *small, "-o", "r.st").code == 0
    shape = ["--d-model", 8, "--n-heads", 1, "--n-layers", 1, "--batch-size", 8, "--threads", 1]
    assert xtool("train", "r.st", *arch, *shape, "--steps", 2, "-o", "m.st").code == 0
    fit = ["--method", "learned", "--data", "r.st", "--fit-steps", 3, "--fit-batch", 8]
    done = xtool("grow", "m.st", "--to", 16, *fit, "-o", "g.st")
    assert (done.code, "fit: 3 steps, training loss" in done.err) == (0, True), done


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n3,x\n", "row 3, `b` is 'x', not a number of at most 1e+100"),
        ("1,2\n3,\n", "row 2, `column 2` is empty"),
        ("1,2\n3,4,5\n", "row 2 has 3 columns, the first one 2"),
        ("1,2\n" * 400, "all values of `column 1` in the rows to train on are equal"),
        ("\n\n1,2\n3,x\n", "row 4, `column 2` is 'x'"),
        ('a,b\n1,"2\n3,4\n', "is not CSV"),
        ("a,b\r1,2\r3,x\r", "row 3, `b` is 'x'"),
        ("1,2\n3,1e300\n", "`column 2` is '1e300'"),
        ("a;b\n1;2\n3;4\n", "1 columns, 2 of each are needed"),
        ("1,2\n3,nan\n", "`column 2` is 'nan'"),
        ("1,2\n3,1_00\n", "`column 2` is '1_00'"),
        ("nan,nan\n1,2\n3,4\n", "row 1, `column 1` is 'nan'"),
        ("NA,NA\n1,2\n3,4\n", "row 1, `column 1` is 'NA'"),
        ("1,2\n3,4\n", "need 310: dev and test are a tenth each"),
        ("a,2020\n1,2\n3,4\n", "a heading is a first row without numbers"),
        (FAR, "row 33, `x` is 1e+60, more than 1e+06 standard deviations from the rows"),
        ("1\n2\n", "2 rows of 1 columns"),
    ],
)
def test_tables_that_cannot_be_read(text: str, message: str, xtool: Run, tmp_path: Path) -> None:
    (tmp_path / "my.csv").write_text(text)
    done = xtool("prepare", "regression", "my.csv", "-o", "t.st")
    assert (done.code, message in done.err) == (1, True), done
    assert not (tmp_path / "t.st").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--dims", 0], "`--dims` is 0"),
        (["--function", "sparse", "--nonzero", 99], "it must be 1 to `--dims` (10)"),
        (["--noise", -1], "`--noise` is -1.0, it must be 0 to 1e+06"),
        (["--scale", 0], "`--scale` is 0.0, it must be 1e-06 to 1e+06"),
        (["--skew", 99], "`--skew` is 99.0, it must be 0 to 20"),
        (["--dev-size", 0], "`--dev-size` is 0"),
        (["--epoch-size", 2 << 40], "it must be at most 1099511627776"),
    ],
)
def test_sizes_that_cannot_be(args: list[Any], message: str, xtool: Run) -> None:
    done = xtool("prepare", "regression", *args, "-o", "t.st")
    assert (done.code, message in done.err) == (2, True), done


def test_shifted_points_have_the_spread_that_they_say() -> None:
    own = task("linear", dims=4, points=20, scale=2.0, skew=2.0)
    x, y = function_of(own)(4000, torch.Generator().manual_seed(0))
    assert float(x.square().sum(2).mean()) == pytest.approx(4 * 2**2, rel=0.05)
    assert float(y.square().mean()) == pytest.approx(variance_of(own), rel=0.1)
    # Inside a prompt the variance falls as 1/i^2.
    long = function_of({**own, "points": 2000})(20, torch.Generator().manual_seed(1)).x
    spread = torch.linalg.eigvalsh(long.transpose(1, 2) @ long / 2000).flip(1).mean(0)
    wanted = torch.arange(1, 5) ** -2.0
    torch.testing.assert_close(spread / spread.sum(), wanted / wanted.sum(), rtol=0.1, atol=0.01)


def test_a_curriculum_grows_the_prompts(xtool: Run, tmp_path: Path) -> None:
    args = ["--dims", 4, "--points", 9, "--dims-from", 2, "--points-from", 4, "--grow-every", 3]
    sizes = ["--dev-size", 8, "--test-size", 8]
    assert xtool("prepare", "regression", *args, *sizes, "-o", "c.st").code == 0
    data = open_data(tmp_path / "c.st")
    task = task_of(data.header, "c.st")

    def drawn(step: int) -> tuple[int, int]:
        x, _ = task.draw(data.header, None, 5, torch.Generator().manual_seed(0), step)
        points = x[:, ::2]
        return points.shape[1], int((points != 0).any(1).any(0).sum())

    assert [drawn(step) for step in (0, 2, 3, 6, 9, 99)] == [
        (4, 2), (4, 2), (6, 3), (8, 4), (9, 4), (9, 4)
    ]  # fmt: skip
    shape = ["--arch", "looped", "--n-loops", 2, "--d-model", 8, "--n-heads", 1, "--threads", 1]
    train = ["train", "c.st", *shape, "--steps", 5, "--batch-size", 4]
    assert xtool(*train, "--watch", "-o", "m.st").code == 0
    # Three steps of 8 positions, two of 12.
    header = load(tmp_path / "m.st")[0]
    each = [costs_of({**header.config, "context": 2 * points})[0][1] for points in (4, 6)]
    assert header.training["progress"]["flops"] == 4 * (3 * each[0] + 2 * each[1])
    assert task.lengths(data.header) == [(0, 8), (3, 12), (6, 16), (9, 18)]
    own = [json.loads(line) for line in (tmp_path / "m.rows.jsonl").read_text().splitlines()]
    rates = {one["metric"]: one["value"] for one in own if "per_second" in one["metric"]}
    assert rates["flops_per_second"] / rates["tokens_per_second"] == pytest.approx(
        (3 * each[0] + 2 * each[1]) / (3 * 8 + 2 * 12)
    )
    for name, more, message in (
        ("long", ["--dims", 4, "--points", 10], "a prompt has 20 positions"),
        ("wide", ["--dims", 5, "--points", 9], "its points have 5 `dims`, the model reads 4"),
    ):
        assert xtool("prepare", "regression", *more, *sizes, "-o", f"{name}.st").code == 0
        done = xtool("evaluate", "m.st", "--data", f"{name}.st")
        assert (done.code, message in done.err) == (1, True), done
    assert (
        xtool("prepare", "regression", "--dims", 4, "--points", 5, *sizes, "-o", "s.st").code == 0
    )
    assert xtool("evaluate", "m.st", "--data", "s.st").code == 0
    # The error is over the variance of the data at hand, for models as for exact methods.
    scaled = ["--dims", 4, "--points", 9, "--scale", 10, *sizes, "-o", "far.st"]
    assert xtool("prepare", "regression", *scaled).code == 0
    done = xtool("evaluate", "m.st", "--data", "far.st", "--by-examples", "--format", "jsonl")
    rows = [json.loads(line) for line in done.out.splitlines()]
    first = {r["label"]: r["value"] for r in rows if r.get("examples") == 0}
    assert first["m"] == pytest.approx(first["least squares"], rel=0.5)
    shown = xtool("inspect", "c.st", "--examples", 1).out
    assert re.search(r"target( +-?\d+\.\d\d){9}\n", shown)
    shown = xtool("sample", "m.st", "--examples", 2).out
    assert re.fullmatch(r"((target|model )( +-?\d+\.\d\d){9}\n){4}", shown)
    done = xtool("sample", "m.st", "--examples", 2, "--split", "train")
    assert (done.code, "are drawn as they are trained on" in done.err) == (2, True)
    assert xtool(*train, "--positions", "rotary", "-o", "r.st").code == 0
    assert xtool("evaluate", "r.st", "--data", "long.st").code == 0
    placed = [*train, "--positions", "rotary", "--attention", "structure-mlp"]
    assert xtool(*placed, "-o", "p.st").code == 0
    done = xtool("evaluate", "p.st", "--data", "long.st")
    assert (done.code, "a prompt has 20 positions" in done.err) == (1, True), done
    for flags, message in (
        (["--dims-from", 11], "`--dims-from` is 11"),
        (["--scale", 0], "`--scale` is 0"),
        (["--skew", -1], "`--skew` is -1"),
    ):
        done = xtool("prepare", "regression", *flags, "-o", "x.st")
        assert (done.code, message in done.err) == (2, True), done


def test_trees_are_fitted_where_they_are_asked_for() -> None:
    pytest.importorskip("sklearn")
    # A tree of depth 1 with many points is found by a greedy one.
    own = task("tree", dims=2, depth=1, points=32)
    found = errors_of(function_of(own)(12, torch.Generator().manual_seed(0)), own, with_trees=True)
    assert {"tree", "boosted_trees"} < set(found)
    for name in ("tree", "boosted_trees"):
        assert found[name].shape == (12, 32)
        assert float(found[name][:, 24:].mean()) < 0.2 < float(found[name][:, 1].mean())
    assert float(found["tree"][:, 28:].mean()) < float(found["least_squares"][:, 28:].mean()) / 3
