"""The size of the lowest loss under a budget, against all sizes."""

import json
import random
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from conftest import Run, configuration, make_model
from matplotlib.figure import Figure
from torch import nn

from xtool.archs import Child, build, canonical, read_model, size_of, start, stored_names
from xtool.archs import count as parameters
from xtool.axes import layout
from xtool.checkpoint import save
from xtool.commands._budget import amount
from xtool.corpora._normalise import ALPHABET
from xtool.dataset import Split, write_dataset
from xtool.errors import UsageError
from xtool.evaluation import budgets
from xtool.evaluation.mixes import Body, Mix, best_mixes, exchanges
from xtool.evaluation.score import scores
from xtool.evaluation.search import MOST, Losses, explore, on_front, search
from xtool.header import Header
from xtool.lineage import step
from xtool.plots._draw import request
from xtool.plots.front import ENTRY as FRONT
from xtool.rows import row
from xtool.storage import Source
from xtool.surgery.slice import slice_model
from xtool.tasks import open_data, task_of
from xtool.tasks.counting import counts
from xtool.tokenizers.char import CharTokenizer

LAYERS, WIDTHS = 4, 4
MIXES = [*product(range(WIDTHS), repeat=LAYERS)]
COSTS = [[0, 4, 12, 28]] * LAYERS
WITHIN = 0.002


def synthetic(seed: int) -> dict[Mix, float]:
    """Losses of all mixes: layers that matter differently, pairs that suit each other or do not.

    In some, layers of far apart widths cost more, as where mixes were not trained, or uniform sizes
    have gains of their own.
    """
    draw = random.Random(seed)
    weight = [draw.uniform(0, 0.1) for _ in range(LAYERS)]
    bend = [draw.uniform(0.3, 1.5) for _ in range(LAYERS)]
    pair = {pair: draw.uniform(-0.4, 0.4) for pair in product(range(LAYERS), repeat=2)}
    strange, own = draw.choice([0.0, 0.01]), draw.choice([0.0, -0.02, 0.03])
    found = {}
    for mix in MIXES:
        lost = [
            w * (1 - (n / (WIDTHS - 1)) ** p) for w, n, p in zip(weight, mix, bend, strict=True)
        ]
        both = sum(
            pair[i, j] * lost[i] * lost[j] / (weight[i] + weight[j])
            for i in range(LAYERS)
            for j in range(i)
        )
        apart = strange * sum(abs(n - fmean(mix)) for n in mix) / LAYERS
        found[mix] = 2 + sum(lost) + both + sum(lost) ** 2 + apart + draw.gauss(0, 1e-4)
        found[mix] += own * (len({*mix}) == 1 and mix[0] < WIDTHS - 1)
    return found


@pytest.mark.parametrize("keep", [1, 5])
def test_the_knapsack_gives_the_best_mixes_of_the_sum_under_every_budget(keep: int) -> None:
    draw = random.Random(keep)
    for _ in range(30):
        values = [[draw.uniform(-1, 1) for _ in range(3)] for _ in range(4)]
        costs = [[draw.randint(0, 9) for _ in range(3)] for _ in range(4)]
        budget = draw.randint(0, 36)
        expected = sorted(
            (sum(v[n] for v, n in zip(values, mix, strict=True)), mix)
            for mix in product(range(3), repeat=4)
            if sum(c[n] for c, n in zip(costs, mix, strict=True)) <= budget
        )[:keep]
        found = best_mixes(values, costs, budget, keep)
        assert [mix for _, mix in found] == [mix for _, mix in expected]


@pytest.mark.parametrize("seed", range(10))
def test_a_tenth_of_the_evaluations_finds_the_best_of_all_sizes_under_any_budget(seed: int) -> None:
    body, known = Body(100, COSTS), synthetic(seed)
    for budget in range(100, 212, 13):
        losses = Losses(lambda place: known[place[1]], MOST)
        best = search([body], budget, losses)[0][1]
        least = min(loss for mix, loss in known.items() if body.cost(mix) <= budget)
        assert body.cost(best) <= budget
        assert known[best] <= least + WITHIN, budget
        assert len(losses.known) <= 25


def test_exchanges_are_the_mixes_that_differ_in_one_or_two_layers() -> None:
    mix, every = (0, 1, 2, 1), product(range(3), repeat=4)
    near = {m for m in every if sum(a != b for a, b in zip(mix, m, strict=True)) <= 2}
    assert exchanges(mix, range(3)) == near


def test_the_answer_may_be_a_uniform_size() -> None:
    known = {mix: 3 - fmean(mix) / 9 + 0.2 * (len({*mix}) > 1) for mix in MIXES}
    losses = Losses(lambda place: known[place[1]], MOST)
    assert search([Body(0, COSTS)], 60, losses)[0] == (0, (2, 2, 2, 2))


@pytest.mark.parametrize("better", [0, 1])
def test_of_several_bodies_the_better_one_is_searched(better: int) -> None:
    bodies = [Body(0, COSTS), Body(40, [[0, 6, 18, 42]] * LAYERS)]
    known = [synthetic(1), synthetic(2)]

    def evaluate(place: tuple[int, Mix]) -> float:
        return known[place[0]][place[1]] + (0.5 if place[0] != better else 0)

    for budget in (41, 70, 100, 150):
        losses = Losses(evaluate, MOST)
        best = search(bodies, budget, losses)[0]
        fitting = [mix for mix in MIXES if bodies[better].cost(mix) <= budget]
        assert best[0] == better
        assert known[better][best[1]] <= min(known[better][mix] for mix in fitting) + WITHIN
    assert search(bodies, -1, Losses(evaluate, MOST)) == []


def test_more_bodies_than_evaluations_stay_within_the_limit() -> None:
    bodies = [Body(n, COSTS) for n in range(40)]
    losses = Losses(lambda place: 3 - place[0] / 50 - fmean(place[1]) / 9, MOST)
    assert search(bodies, 75, losses)[0][0] > 20
    assert len(losses.known) == MOST


def test_the_front_holds_what_nothing_beats_in_both() -> None:
    points = [(1, 5.0), (2, 4.0), (2, 4.5), (3, 4.0), (4, 1.0)]
    assert on_front(points) == [True, True, False, False, True]
    body, known = Body(0, COSTS), synthetic(3)
    losses = Losses(lambda place: known[place[1]], 100)
    explore([body], [100, 80, 60, 40, 20, 10], losses)
    assert {body.uniform(n) for n in range(WIDTHS)} <= {mix for _, mix in losses.known}
    assert len(losses.known) == len(body.design(body.uniform(2))) + 6


@pytest.mark.parametrize(
    ("kind", "text", "number"),
    [
        ("params", "2000", 2000), ("params", "120k", 120_000), ("params", "1.5M", 1_500_000),
        ("latency", "3ms", 0.003), ("latency", "500us", 0.0005), ("latency", "1s", 1),
    ],
)  # fmt: skip
def test_a_budget_is_a_number_with_its_unit(kind: str, text: str, number: float) -> None:
    assert amount(kind, text) == pytest.approx(number)


@pytest.mark.parametrize(
    ("kind", "text"), [("params", "3ms"), ("params", "0"), ("latency", "3"), ("latency", "-1ms")]
)
def test_another_budget_is_refused(kind: str, text: str) -> None:
    with pytest.raises(UsageError, match="no budget"):
        amount(kind, text)


@pytest.fixture(scope="module")
def nested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model, trained in every mix of its feed-forward widths, beside its data."""
    folder = tmp_path_factory.mktemp("nested")
    inputs = torch.randint(27, (96, 12), generator=torch.Generator().manual_seed(2))
    splits = {"train": Split(inputs, counts(inputs, 2))}
    splits["dev"] = Split(inputs[:32], splits["train"].targets[:32])
    task: dict[str, Any] = {"name": "counting", "length": 12, "cap": 2}
    about: dict[str, Any] = {"task": task, "tokenizer": CharTokenizer(ALPHABET).header()}
    digest = write_dataset(folder / "data.st", Header(kind="data", **about), splits)
    dials = {"d_model": 8, "n_layers": 3, "d_ff": 32, "norm": "rmsnorm", "nest": "d_ff=4"}
    config = configuration(**dials)
    config["nest"] = canonical(config)
    model = build(config)
    start(model, layout(config), 0)
    adam = torch.optim.Adam(model.parameters(), lr=0.02)
    mixes = [size_of(config, {"d_ff": [*mix]}).changes for mix in product((4, 32), repeat=3)]
    children = [Child(model, config, changes) for changes in mixes if changes]
    for child in children * 5:
        logits = child.bind()(inputs).flatten(0, 1)
        nn.functional.cross_entropy(logits, splits["train"].targets.flatten().long()).backward()
        adam.step()
        adam.zero_grad()
    state = model.state_dict()
    about |= {"config": config, "lineage": [step("train", {}, {"data": digest}, 0)]}
    tensors = {name: state[name] for name in stored_names(model, layout(config))}
    save(folder / "m.st", Header(kind="model", **about), tensors)
    return folder / "m.st"


def exhaustive(path: Path) -> dict[tuple[int, ...], tuple[int, float]]:
    """Parameters and loss of every mix, each from a file of its own."""
    examples, found = open_data(path.with_name("data.st")), {}
    for mix in product((4, 32), repeat=3):
        small, width = path.with_name("small.st"), [*mix] if len({*mix}) > 1 else mix[0]
        slice_model(path, small, {"d_ff": width}, inside=False)
        model = read_model(small)[2]
        loss = scores(model, task_of(examples.header, ""), examples.stored("dev"))["loss"].mean()
        found[mix] = parameters(model), float(loss)
        small.unlink()
    return found


def test_slice_cuts_the_best_size_within_a_number_of_parameters(nested: Path, xtool: Run) -> None:
    every = exhaustive(nested)
    sizes = budgets.Sizes(read_model(nested)[0].config)
    body = sizes.by_params()[0]
    places = {mix: tuple(map((4, 32).index, mix)) for mix in every}
    assert {mix: body.cost(places[mix]) for mix in every} == {m: n for m, (n, _) in every.items()}
    for budget in sorted({number for number, _ in every.values()})[1:-1:2]:
        done = xtool("slice", nested, "--params", budget, "--force", "-o", "cut.st", "--threads", 1)
        assert (done.code, done.out) == (0, "cut.st\n"), done.err
        model = read_model(Path("cut.st"))[2]
        with Source(Path("cut.st")) as source:
            width = source.require_header("model").config["d_ff"]
        mix = tuple(width) if isinstance(width, list) else (width,) * 3
        least = min(loss for number, loss in every.values() if number <= budget)
        assert parameters(model) <= budget
        assert every[mix][1] <= least + WITHIN
        assert f"loss {every[mix][1]:.4f} (the whole model {every[32, 32, 32][1]:.4f})" in done.err


def test_a_budget_that_the_whole_model_keeps_takes_it_whole(nested: Path, xtool: Run) -> None:
    done = xtool("slice", nested, "--params", "1M", "-o", "cut.st", "--threads", 1)
    assert (done.code, done.out) == (0, "cut.st\n"), done.err
    header, _, model = read_model(Path("cut.st"))
    assert header.config["d_ff"] == 32
    assert header.config["nest"] is None
    asked = json.loads(
        xtool("evaluate", nested, "--size", "d_ff=32", "--format", "jsonl").out.splitlines()[0]
    )
    assert parameters(model) == asked["params"]


def test_slice_cuts_what_keeps_a_time_when_it_is_timed_again(
    nested: Path, xtool: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def seconds(path: Path, replica: int | None, size: budgets.Size, *rest: object) -> float:
        width = size.changes.get("d_ff", 32)
        each = width if isinstance(width, list) else [width] * 3
        asked.append(each)
        # Mixes are slower than the uniform sizes say.
        return 1e-3 + sum(each) * 1e-6 * (1.2 if len({*each}) > 1 else 1)

    monkeypatch.setattr(budgets, "seconds", seconds)
    done = xtool("slice", nested, "--latency", "1.075ms", "-o", "cut.st", "--threads", 1)
    assert done.code == 0, done.err
    width = read_model(Path("cut.st"))[0].config["d_ff"]
    each = width if isinstance(width, list) else [width] * 3
    assert sum(each) * (1.2 if len({*each}) > 1 else 1) <= 75
    assert asked[-1] == each
    done = xtool("slice", nested, "--latency", "1.001ms", "-o", "none.st")
    assert done.code == 2
    assert "the smallest, `d_ff=4`, costs 1.01 ms" in done.err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--params", "100"], "no size is within 100 parameters: the smallest, `d_ff=4`, costs"),
        (["--params", "1k", "--d-ff", "16"], "`--params`, `--d-ff` exclude each other"),
        (["--params", "1k", "--latency", "1ms"], "`--params`, `--latency` exclude each other"),
        (["--params", "1k", "--fold", "2"], "`--params`, `--fold` exclude each other"),
        (["--params", "1k", "--examples", "99"], "`--examples` is 99, dev has 32"),
    ],
)
def test_what_no_size_can_be_is_refused_and_nothing_is_left(
    args: list[str], message: str, nested: Path, xtool: Run
) -> None:
    before = {*nested.parent.iterdir()}
    done = xtool("slice", nested, *args)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert {*nested.parent.iterdir()} == before


def test_a_model_that_is_not_nested_has_no_sizes_to_choose_from(xtool: Run, tmp_path: Path) -> None:
    make_model(tmp_path / "plain.st")
    done = xtool("slice", "plain.st", "--params", "1k")
    assert done.code == 2
    assert "is not nested" in done.err
    assert "--nest" in done.err


def test_the_rows_of_a_front_say_which_sizes_no_other_beats(nested: Path, xtool: Run) -> None:
    done = xtool("evaluate", nested, "--front", 5, "--threads", 1, "--format", "jsonl")
    assert done.code == 0, done.err
    found = [json.loads(line) for line in done.out.splitlines()]
    losses = {one["size"]: one for one in found if one["metric"] == "loss"}
    assert 4 < len(losses) <= 8
    assert {"d_ff=4", "d_ff=32"} <= {*losses}
    for one in losses.values():
        beaten = any(
            other["params"] <= one["params"] and other["value"] < one["value"]
            for other in losses.values()
        )
        assert one["front"] == str(not beaten).lower()
        assert one["low"] < one["value"] < one["high"]
        same = xtool("evaluate", nested, "--size", one["size"], "--format", "jsonl").out
        plain = next(r for line in same.splitlines() if (r := json.loads(line))["metric"] == "loss")
        assert plain["value"] == one["value"]
        assert plain["params"] == one["params"]
    assert {one["front"] for one in found} == {"true", "false"}


def test_a_front_is_of_one_nested_model_on_one_split(nested: Path, xtool: Run) -> None:
    for more in (["--size", "4"], ["--split", "train,dev"], ["--speed"], ["--against", nested]):
        done = xtool("evaluate", nested, "--front", 2, *more)
        assert (done.code, done.out) == (2, "")
        assert "--front" in done.err
    make_model(Path("plain.st"))
    done = xtool("evaluate", "plain.st", "--front", 2, "--data", nested.with_name("data.st"))
    assert done.code == 2
    assert "is not nested" in done.err


def test_a_front_is_a_line_with_the_beaten_sizes_and_twins_beside_it() -> None:
    sizes = [
        ("d_ff=4", 10, 3.0, "true"),
        ("d_ff=4,32", 15, 3.5, "false"),
        ("d_ff=32", 20, 2, "true"),
    ]
    columns = {"metric": "loss", "split": "dev"}
    found = [row(label="m", params=n, value=v, size=s, front=f, **columns) for s, n, v, f in sizes]
    found += [row(label="twin", params=20, value=v, seed=v, **columns) for v in (1, 3)]
    axes = Figure().subplots()
    FRONT(axes, request(found, "front", None, None, None))
    drawn = {line.get_label(): line for line in axes.get_lines()}
    assert [*drawn["m: front"].get_xydata()[:, 1]] == [3, 2]
    assert [*drawn["m: beaten"].get_xydata()[:, 1]] == [3.5]
    assert [*drawn["twin"].get_xydata()[0]] == [20, 2]
    assert [*drawn["uniform sizes"].get_xydata()[:, 0]] == [10, 20]
    assert drawn["m: beaten"].get_linestyle() == drawn["twin"].get_linestyle() == "None"
