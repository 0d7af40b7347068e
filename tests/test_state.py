"""Growing a training state: the grown model trains on exactly as the small one would have."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run, configuration, make_model
from torch import Tensor, nn

from xtool.archs import build, read_model
from xtool.axes import layout
from xtool.checkpoint import Reader, load, model_reader, save
from xtool.header import Header
from xtool.lineage import step
from xtool.storage import Source
from xtool.surgery import state
from xtool.surgery.operators import StatefulOperator
from xtool.surgery.plan import Plan, plan
from xtool.surgery.proof import Proof, compare
from xtool.training import loop
from xtool.training.optimizers import Factors, Slot, make
from xtool.training.optimizers.adamw import MOMENTS

SHAPE = ["--d-model", 8, "--n-layers", 2, "--precision", "fp64", "--threads", 1, "-q"]
# Eps so large that it matters, and a decay that does.
DIALS = ["--batch-size", 32, "--lr", 0.01, "--weight-decay", 0.1, "--adam-eps", 1e-3]
CLONE = ["--method", "clone", "--no-noise", "-q"]
ON = ["--threads", 1, "-q", "--schedule", "constant", "--steps", 10]


MADE: dict[tuple[str, ...], dict[str, bytes]] = {}


def begin(xtool: Run, data: Path, *dials: object) -> None:
    """Train small.st for five steps and keep its state, and go on from it to a.st."""
    key = tuple(map(str, dials))
    if key not in MADE:
        args = ["--steps", 5, "--keep-state", "-o", "small.st"]
        done = xtool("train", data, *SHAPE, *DIALS, *args, *dials)
        assert done.code == 0, done.err
        go_on(xtool, data, "small.resume.st", "a.st")
        names = ["small.st", "small.resume.st", "a.st"]
        MADE[key] = {name: data.with_name(name).read_bytes() for name in names}
    for name, content in MADE[key].items():
        data.with_name(name).write_bytes(content)


def go_on(xtool: Run, data: Path, parent: str, out: str, *args: object) -> None:
    done = xtool("train", data, "--from", parent, *ON, "-o", out, *args)
    assert done.code == 0, done.err


def apart(small: str, grown: str) -> Proof:
    with Source(Path(small)) as one, Source(Path(grown)) as other:
        return compare(model_reader(one), model_reader(other), 0)


def both_go_on(xtool: Run, data: Path, *growth: object) -> Proof:
    """Ten steps of the small and of the grown state, and how far their logits are then apart."""
    done = xtool("grow", "small.resume.st", *growth, "-o", "grown.resume.st")
    assert done.code == 0, done.err
    go_on(xtool, data, "grown.resume.st", "b.st")
    return apart("a.st", "b.st")


ONE, TWO, TIED = ["--n-heads", 1], ["--n-heads", 2], ["--tied-head"]
CASES = {
    "one head": [*ONE, "--bias", "all"],
    "one head, tied": [*ONE, *TIED, "--bias", "all"],
    "two heads": [*TWO, "--bias", "all"],
    "two heads, tied": [*TWO, *TIED],
    "rmsnorm": [*TWO, "--norm", "rmsnorm", "--activation", "swiglu", "--positions", "sinusoidal"],
    "rmsnorm, tied": [*ONE, *TIED, "--norm", "rmsnorm"],
    "no norm": [*TWO, "--norm", "none", "--score-scale", "none", "--bias", "all"],
    "rotary, grouped": [
        *["--n-heads", 4, "--n-kv-heads", 2, "--d-head", 6, "--positions", "rotary"],
        *["--bias", "all"],
    ],
    "two-layer head": [*ONE, "--d-hidden", 6, "--bias", "mlp"],
    "values that write": ["--preset", "counting", "--dropout-hidden", 0, "--n-layers", 1],
}


@pytest.mark.parametrize("case", CASES)
def test_a_cloned_state_trains_on_as_the_small_one(case: str, data: Path, xtool: Run) -> None:
    begin(xtool, data, *CASES[case])
    found = both_go_on(xtool, data, "--to", 24, *CLONE)
    assert found.difference <= 1e-10 * found.largest, found
    assert apart("small.st", "a.st").difference > 1e-3 * found.largest


@pytest.mark.parametrize("optimizer", ["lion", "muon", "sgd"])
@pytest.mark.parametrize("case", ["two heads", "rotary, grouped", "rmsnorm, tied"])
def test_a_cloned_state_of_any_optimizer_trains_on_as_the_small_one(
    optimizer: str,
    case: str,
    data: Path,
    xtool: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Torch's Muon makes the singular values equal in bfloat16, which hides what is exact.
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda x: x)
    begin(xtool, data, *CASES[case], "--optimizer", optimizer)
    found = both_go_on(xtool, data, "--to", 32, *CLONE)
    assert found.difference <= 1e-10 * found.largest, found
    assert apart("small.st", "a.st").difference > 1e-3 * found.largest


@pytest.mark.parametrize(
    "growth", [["--d-ff", 64], ["--d-head", 8], ["--to", 16, "--d-ff", 96], ["--n-heads", 6]]
)
def test_one_axis_may_be_cloned_more_often_than_another(
    growth: list[object], data: Path, xtool: Run
) -> None:
    begin(xtool, data, *CASES["two heads"])
    found = both_go_on(xtool, data, *growth, *CLONE)
    assert found.difference <= 1e-10 * found.largest, found


def reset(rule: state.Rule) -> state.Rule:
    return replace(rule, gradient=0.0)


def without(name: str) -> Callable[[state.Rule], state.Rule]:
    return lambda rule: replace(rule, factors=replace(rule.factors, **{name: 1.0}))


@pytest.mark.parametrize(
    "broken",
    [reset, without("lr"), without("eps"), without("decay")],
    ids=["moments reset", "lr not divided", "eps not scaled", "decay not scaled"],
)
def test_every_part_of_the_rule_is_needed(
    broken: Callable[[state.Rule], state.Rule],
    data: Path,
    xtool: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begin(xtool, data, *CASES["one head, tied"])
    rule = state.rule
    monkeypatch.setattr(state, "rule", lambda *args: broken(rule(*args)))
    found = both_go_on(xtool, data, "--to", 24, *CLONE)
    assert found.difference > 1e-6 * found.largest, found


def test_the_counters_are_needed(data: Path, xtool: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(xtool, data, *CASES["two heads"])
    kept = state.slot_tensors
    monkeypatch.setattr(
        state, "slot_tensors", lambda n, f, ages: kept(n, f, tuple(age * 0 for age in ages))
    )
    found = both_go_on(xtool, data, "--to", 24, *CLONE)
    assert found.difference > 1e-6 * found.largest, found


def planned(path: Path, method: str, dials: dict[str, Any], **changes: int) -> tuple[Source, Plan]:
    source = Source(path)
    reader = Reader(source, layout(source.require_header().config))
    return source, plan(reader, changes, method, dials, 0)


def rule_of(chosen: Plan, name: str) -> state.Rule:
    operator = chosen.operator
    assert isinstance(operator, StatefulOperator)
    return state.rule(chosen.growth, name, operator.carry(chosen.growth, name), "adamw")


def test_the_rule_of_duplication_is_the_published_table(tmp_path: Path) -> None:
    """HyperCloning's tensors by kind; q of a single head has the root of k of its scores."""
    k = 3.0
    block, vector = (1 / k, 1 / k, 1 / k, k), (1 / k, 1.0, 1 / k, 1.0)
    table = {
        "embed.weight": vector,
        "embed.positions": vector,
        "blocks.0.mlp.up.weight": block,
        "blocks.1.mlp.down.weight": block,
        "blocks.1.attention.k.weight": block,
        "blocks.1.attention.q.weight": (k**-0.5, k**-1.5, k**-0.5, k**1.5),
        "blocks.1.attention.q.bias": (k**-0.5, k**-0.5, k**-0.5, k**0.5),
        "blocks.1.attention.o.bias": vector,
        "blocks.0.mlp_norm.weight": vector,
        "blocks.0.mlp_norm.bias": vector,
    }
    head = (1.0, 1 / k, 1.0, k)
    free = {"head.norm.weight": vector, "head.norm.bias": vector, "head.weight": head}
    tied = {"head.norm.weight": head, "head.norm.bias": head}
    for is_tied, more in ((False, free), (True, tied)):
        make_model(tmp_path / "a.st", n_heads=1, bias="all", tied_head=is_tied)
        source, chosen = planned(tmp_path / "a.st", "clone", {"noise": False}, d_model=48)
        for name, (gradient, lr, eps, decay) in (table | more).items():
            found = rule_of(chosen, name)
            numbers = (found.gradient, found.factors.lr, found.factors.eps, found.factors.decay)
            assert numbers == pytest.approx((gradient, lr, eps, decay)), (is_tied, name)
        source.__exit__(None, None, None)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    symbols = torch.arange(27).repeat(4)[:96].view(8, 12)
    targets = symbols % 3
    nn.functional.cross_entropy(model(symbols).transpose(1, 2), targets).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("norm", ["none", "layernorm", "rmsnorm"])
@pytest.mark.parametrize(
    ("method", "changes"),
    [("clone", {"d_model": 48}), ("pad", {"d_model": 40, "n_layers": 3}), ("pad", {"d_head": 12})],
)
def test_the_gradient_of_carried_entries_is_what_the_rule_says(
    method: str, changes: dict[str, int], norm: str, tmp_path: Path, xtool: Run
) -> None:
    make_model(tmp_path / "a.st", norm=norm, n_heads=1 if method == "clone" else 2, bias="all")
    flags = [
        part for name, size in changes.items() for part in ("--" + name.replace("_", "-"), size)
    ]
    noise = ["--no-noise"] if method == "clone" else []
    assert xtool("grow", "a.st", "--method", method, *flags, *noise, "-o", "b.st").code == 0
    old, new = (gradients(read_model(tmp_path / n)[2].eval()) for n in ("a.st", "b.st"))
    source, chosen = planned(tmp_path / "a.st", method, {"noise": False}, **changes)
    seen = 0
    for name, gradient in new.items():
        growth = chosen.growth
        writes = growth.new.axes(name)[0].factors == ("d_model",) or name.startswith("embed")
        averaged = (
            norm == "layernorm" and growth.ratio("d_model") > 1 and method == "pad" and writes
        )
        if growth.source(name) != name or averaged:
            continue
        seen += 1
        operator = chosen.operator
        assert isinstance(operator, StatefulOperator)
        carry = operator.carry(growth, name)
        found = growth.maps(name, carry.along)
        carried = torch.ones(gradient.shape, dtype=torch.bool)
        wanted = old[name]
        for axis, one in enumerate(found):
            wanted = wanted.index_select(axis, one.clamp(min=0))
            carried &= (one >= 0).view([-1 if axis == at else 1 for at in range(len(found))])
        wanted = wanted * rule_of(chosen, name).gradient
        assert torch.allclose(gradient[carried], wanted[carried], rtol=1e-9, atol=1e-12), name
    assert seen > 8
    source.__exit__(None, None, None)


def test_a_grown_state_grows_again(data: Path, xtool: Run) -> None:
    begin(xtool, data, *CASES["one head, tied"])
    assert xtool("grow", "small.resume.st", "--to", 16, *CLONE).code == 0
    go_on(xtool, data, "small.resume.st", "e.st", "--steps", 4, "--keep-state")
    go_on(xtool, data, "small-16.resume.st", "b.st", "--steps", 4, "--keep-state")
    assert xtool("grow", "b.resume.st", "--to", 48, *CLONE).code == 0
    go_on(xtool, data, "e.resume.st", "c.st")
    go_on(xtool, data, "b-48.resume.st", "d.st")
    found = apart("c.st", "d.st")
    assert found.difference <= 1e-10 * found.largest, found
    name = "optimizer/blocks.0.mlp.up.weight/"
    tensors = load(Path("b-48.resume.st"))[1]
    assert tensors[name + "factors"].tolist() == pytest.approx([1 / 6, 1 / 6, 6.0])
    assert tensors[name + "age.1"].tolist() == [9] * 48


def test_new_layers_have_no_moments_and_their_own_counter(
    data: Path, xtool: Run, tmp_path: Path
) -> None:
    begin(xtool, data, *CASES["two heads"])
    assert xtool("grow", "small.resume.st", "--n-layers", 4, "-o", "deep.resume.st").code == 0
    old, new = (load(tmp_path / f"{name}.resume.st")[1] for name in ("small", "deep"))
    for name, tensor in new.items():
        part, owner, kept = name.partition("/")[0], name, name.rpartition("/")[2]
        if part != "optimizer":
            continue
        is_new = owner.startswith(("optimizer/blocks.2.", "optimizer/blocks.3."))
        if kept in ("exp_avg", "exp_avg_sq"):
            assert bool(tensor.any()) != is_new, name
            assert is_new or torch.equal(tensor, old[name])
        elif kept == "factors":
            assert tensor.tolist() == [1.0, 1.0, 1.0]
        else:
            assert tensor.unique().tolist() == [0 if is_new else 5], name
    before = {n: t for n, t in new.items() if n.startswith("model/")}
    go_on(xtool, data, "deep.resume.st", "b.st", "--steps", 1)
    after = load(tmp_path / "b.st")[1]
    for name in ("blocks.2.attention.o.weight", "blocks.3.mlp.down.weight"):
        # Of Adam's first step nothing is longer than the rate: its correction is that of age 1.
        change = (after[name] - before[f"model/{name}"]).abs()
        assert 0 < change.max() <= 0.01


def test_new_entries_begin_with_a_counter_of_their_own(
    data: Path, xtool: Run, tmp_path: Path
) -> None:
    begin(xtool, data, *TWO, "--norm", "rmsnorm", "--weight-decay", 0, "--adam-eps", 1e-12)
    assert xtool("grow", "small.resume.st", "--to", 12, "-o", "wide.resume.st").code == 0
    name = "blocks.0.mlp.up.weight"
    before = load(tmp_path / "wide.resume.st")[1]
    assert before[f"optimizer/{name}/age.1"].tolist() == [5] * 8 + [0] * 4
    assert not before[f"optimizer/{name}/exp_avg"][:, 8:].any()
    assert torch.equal(
        before[f"optimizer/{name}/exp_avg"][:32, :8],
        load(tmp_path / "small.resume.st")[1][f"optimizer/{name}/exp_avg"],
    )
    gain = before["optimizer/head.norm.weight/factors"].tolist()
    root = (8 / 12) ** 0.5
    assert gain == pytest.approx([root, 1 / root, 1 / root])
    go_on(xtool, data, "wide.resume.st", "b.st", "--steps", 1)
    new = load(tmp_path / "b.st")[1]["blocks.0.attention.o.weight"]
    change = (new - before["model/blocks.0.attention.o.weight"]).abs()[8:]
    assert change.max() == pytest.approx(0.01, rel=1e-6), "a first step is as long as the rate"


def memory(*moments: Tensor) -> dict[str, Tensor]:
    return {name: one.clone() for name, one in zip(MOMENTS, moments, strict=True)}


def test_entries_of_any_age_are_corrected_for_it() -> None:
    """AdamW written out, with a counter for every entry."""
    torch.manual_seed(0)
    model = nn.Linear(5, 4).double()
    ages = (torch.tensor([9, 9, 0, 3]), torch.tensor([9, 0, 9, 5, 9]))
    dials = {"lr": 0.1, "beta1": 0.8, "beta2": 0.95, "adam_eps": 1e-4, "weight_decay": 0.2}
    dials["optimizer"] = "adamw"
    first, second = torch.randn(4, 5).double(), torch.rand(4, 5).double()
    slots = {
        "weight": Slot(Factors(0.5, 2.0, 3.0), ages, memory(first, second)),
        "bias": Slot(Factors(), ages[:1], memory(first[:, 0], second[:, 0])),
    }
    (optimizer,) = make(model, layout(configuration()), dials, slots)
    weight, age = model.weight.detach().clone(), torch.minimum(ages[0][:, None], ages[1][None, :])
    age = age.double()
    for n in range(1, 41):
        gradient = torch.randn(4, 5).double()
        model.weight.grad, model.bias.grad = gradient.clone(), torch.zeros(4).double()
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * group["lr_factor"]
        optimizer.step()
        first = 0.8 * first + 0.2 * gradient
        second = 0.95 * second + 0.05 * gradient**2
        unbiased = first / (1 - 0.8 ** (age + n)), second / (1 - 0.95 ** (age + n))
        weight = weight * (1 - 0.05 * 0.6) - 0.05 * unbiased[0] / (unbiased[1].sqrt() + 2e-4)
        assert torch.allclose(model.weight, weight, rtol=0, atol=1e-12), n


@pytest.mark.parametrize(
    "growth", [["--to", 16, *CLONE], ["--to", 12, "--n-layers", 3, "--method", "pad"]]
)
def test_a_stopped_run_from_a_grown_state_resumes_to_the_same_bytes(
    growth: list[object],
    data: Path,
    xtool: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begin(xtool, data, *TWO, "--precision", "fp32", "--dropout", 0.2)
    assert xtool("grow", "small.resume.st", *growth, "-o", "g.resume.st").code == 0
    run = ["train", data, "--from", "g.resume.st", "--steps", 12, "--threads", 1, "--keep-state"]
    run += ["--label", "x", "-q"]
    assert xtool(*run, "-o", "straight.st").code == 0
    one_step = loop._Loop._step

    def stopping(self: Any) -> None:
        one_step(self)
        if self.run.position.step == 7:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(loop._Loop, "_step", stopping)
        assert xtool(*run, "-o", "m.st").code == 130
    stopped = (tmp_path / "m.resume.st").read_bytes()
    assert xtool(*run, "-o", "m.st", "--resume").code == 0
    for part in (".st", ".resume.st"):
        straight, resumed = tmp_path / f"straight{part}", tmp_path / f"m{part}"
        assert straight.read_bytes() == resumed.read_bytes(), part
    names = load(tmp_path / "m.st")[1]
    assert not any("optimizer" in name or "factors" in name for name in names)
    (tmp_path / "m.resume.st").write_bytes(stopped)
    header, tensors = load(tmp_path / "m.resume.st")
    for held in ("embed.weight/factors", "blocks.1.mlp.up.weight/age.1"):
        name = f"optimizer/{held}"
        save(tmp_path / "m.resume.st", header, tensors | {name: tensors[name] * 0 + 8})
        assert xtool(*run, "-o", "m.st", "--resume", "--force").code == 0
        assert (tmp_path / "m.st").read_bytes() != (tmp_path / "straight.st").read_bytes(), name


def test_the_lineage_goes_on_and_the_run_is_a_new_one(
    data: Path, xtool: Run, tmp_path: Path
) -> None:
    begin(xtool, data, *CASES["two heads"])
    assert xtool("grow", "small.resume.st", "--to", 16, *CLONE).out == "small-16.resume.st\n"
    small, grown = (load(tmp_path / f"{n}.resume.st")[0] for n in ("small", "small-16"))
    assert grown.training["progress"]["steps"] == grown.training["position"]["step"] == 0
    assert grown.training["progress"]["lineage_steps"] == 5
    assert grown.lineage[-1].inputs == {"state": small.digest}
    assert grown.lineage[-1].options["at_step"] == 5
    done = xtool("train", data, "--from", "small-16.resume.st", *ON, "--lr", 0.5, "--beta1", 0.5)
    assert done.out == "small-16-gpt.st\n"
    header = load(tmp_path / "small-16-gpt.st")[0]
    assert [one.command for one in header.lineage] == ["prepare", "train", "grow", "train"]
    assert header.lineage[-1].inputs["from"] == grown.digest
    assert header.training["progress"]["lineage_steps"] == 15
    dials = header.training["dials"]
    assert (dials["lr"], dials["beta1"], dials["weight_decay"]) == (0.5, 0.5, 0.1)


def test_another_memory_of_the_gradient_is_spoken_of(data: Path, xtool: Run) -> None:
    begin(xtool, data, *CASES["two heads"])
    done = xtool("train", data, "--from", "small.resume.st", "--beta1", 0.5, "--steps", 0)
    assert done.code == 0
    assert "`beta1` is 0.5, the state's moments were made with 0.9" in done.err


@pytest.mark.parametrize("method", ["double", "identity", "random"])
def test_an_operator_without_a_rule_starts_the_optimizer_anew(
    method: str, data: Path, xtool: Run, tmp_path: Path
) -> None:
    begin(xtool, data, *CASES["two heads"])
    done = xtool("grow", "small.resume.st", "--to", 16, "--method", method, "-o", "g.resume.st")
    assert f"optimizer: starts anew, `{method}` has no rule for its state" in done.err
    tensors = load(tmp_path / "g.resume.st")[1]
    kept = {n: t for n, t in tensors.items() if n.startswith("optimizer/")}
    assert not any(t.any() for n, t in kept.items() if not n.endswith("/factors"))
    assert xtool("grow", "small.st", "--to", 16, "--method", method, "-o", "g.st").code == 0
    for parent, out in (("g.st", "b.st"), ("g.resume.st", "c.st")):
        go_on(xtool, data, parent, out)
    one, other = (load(tmp_path / name)[1] for name in ("b.st", "c.st"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_clipping_is_spoken_of(data: Path, xtool: Run) -> None:
    begin(xtool, data, *TWO, "--clip", 1)
    done = xtool("grow", "small.resume.st", "--to", 16)
    assert "the norm of all gradients, which growing changes" in done.err


def test_a_grown_state_is_inspected_checked_and_the_same_each_time(
    data: Path, xtool: Run, tmp_path: Path
) -> None:
    begin(xtool, data, *CASES["two heads"])
    for out in ("b.resume.st", "c.resume.st"):
        assert xtool("grow", "small.resume.st", "--to", 16, "-o", out).code == 0
    assert (tmp_path / "b.resume.st").read_bytes() == (tmp_path / "c.resume.st").read_bytes()
    done = xtool("check", "b.resume.st", "small.resume.st")
    assert (done.code, done.out.count("ok ")) == (0, 2)
    assert xtool("grow", "small.resume.st", "--to", 16, *CLONE).code == 0
    shown = xtool("inspect", "small-16.resume.st").out
    assert "lr x 0.5, eps x 0.5, decay x 2" in shown
    assert "at_step=5" in shown
    header, tensors = load(tmp_path / "b.resume.st")
    name = "optimizer/embed.weight/factors"
    save(tmp_path / "b.resume.st", header, tensors | {name: -tensors[name]})
    done = xtool("check", "b.resume.st")
    assert (done.code, "must be three doubles above 0" in done.out) == (3, True)


def test_the_proof_runs_on_the_model_that_was_written(
    data: Path, xtool: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(xtool, data, *CASES["two heads"])
    rows = Plan.rows
    monkeypatch.setattr(Plan, "rows", lambda *args: rows(*args) * 1.001)
    done = xtool("grow", "small.resume.st", "--to", 16)
    assert (done.code, "promised to be exact" in done.err) == (3, True)
    assert not (tmp_path / "small-16.resume.st").exists()


def test_growing_a_state_says_what_it_would_do(data: Path, xtool: Run, tmp_path: Path) -> None:
    begin(xtool, data, *CASES["two heads"])
    done = xtool("grow", "small.resume.st", "--to", 16, "--dry-run")
    assert (done.code, done.out) == (0, "")
    assert "small-16.resume.st" in done.err
    assert not (tmp_path / "small-16.resume.st").exists()


UP = "blocks.0.mlp.up.weight"


def lost(name: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {n: t for n, t in tensors.items() if n != name}


def cut(name: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: tensors | {name: tensors[name][:1]}


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lost(f"model/{UP}"), UP),
        (cut(f"model/{UP}"), UP),
        (lost(f"optimizer/{UP}/exp_avg"), f"lacks the optimizer's state of `{UP}`"),
        (cut(f"optimizer/{UP}/exp_avg_sq"), f"`optimizer/{UP}/exp_avg_sq` has shape"),
        (lost(f"optimizer/{UP}/factors"), f"lacks the optimizer's state of `{UP}`"),
        (cut(f"optimizer/{UP}/age.1"), f"`optimizer/{UP}/age.1` has shape"),
        (lambda t: t | {"optimizer/x/exp_avg": torch.ones(2)}, "unknown tensor"),
        (lambda t: t | {f"optimizer/{UP}/factors": torch.zeros(3).double()}, "above 0"),
        (lambda t: t | {f"optimizer/{UP}/age.0": torch.full((64,), -1)}, "whole numbers from 0"),
        (lambda t: {n: v for n, v in t.items() if n.startswith("model/")}, "lacks the optimizer's")
    ],
)  # fmt: skip
def test_a_state_that_lacks_something_is_one_clear_error(
    harm: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    message: str,
    data: Path,
    xtool: Run,
    tmp_path: Path,
) -> None:
    path = tmp_path / "g.resume.st"
    header, tensors = state_file()
    save(path, header, harm(tensors))
    for done in (
        xtool("grow", "g.resume.st", "--to", 32, "-o", "out.resume.st"),
        xtool("train", data, "--from", "g.resume.st", "--steps", 1, "-o", "out.st"),
    ):
        assert done.code == 1, done
        assert done.err.startswith("error: ")
        assert message in done.err
    assert sorted(os.listdir(tmp_path)) == ["data.st", "g.resume.st"]
    assert xtool("check", "g.resume.st").code == 3


def test_squares_below_zero_are_no_state_to_go_on_from(
    data: Path, xtool: Run, tmp_path: Path
) -> None:
    header, tensors = state_file()
    name = f"optimizer/{UP}/exp_avg_sq"
    save(tmp_path / "g.resume.st", header, tensors | {name: -tensors[name]})
    done = xtool("train", data, "--from", "g.resume.st", "--steps", 1, "-o", "out.st")
    assert (done.code, f"`{name}` is below 0" in done.err) == (1, True)


def state_file() -> tuple[Header, dict[str, Tensor]]:
    """A grown state of a tiny model, all in memory."""
    config = configuration(n_layers=1)
    model = build(config)
    tensors = {f"model/{name}": torch.ones_like(p) for name, p in model.named_parameters()}
    for name, p in model.named_parameters():
        ages = tuple(torch.full((size,), 5) for size in p.shape)
        tensors |= state.slot_tensors(name, Factors(), ages)
        tensors |= {f"optimizer/{name}/{m}": torch.ones_like(p) for m in MOMENTS}
    training: Any = {"position": state.START}
    made = step("grow", {}, {}, 0)
    return Header(kind="resume", config=config, training=training, lineage=[made]), tensors


def test_a_grown_state_is_no_run_to_resume(data: Path, xtool: Run, tmp_path: Path) -> None:
    begin(xtool, data, *CASES["two heads"])
    assert xtool("grow", "small.resume.st", "--to", 16, "-q").code == 0
    before = (tmp_path / "small-16.resume.st").read_bytes()
    done = xtool("train", data, "--steps", 3, "--threads", 1, "-o", "small-16.st", "--resume")
    assert done.code == 1
    assert "was made by `grow`" in done.err
    assert "`--from small-16.resume.st`" in done.err
    for force in ([], ["--force"], ["--resume"]):
        args = ["--from", "small-16.resume.st", "-o", "small-16.st", *force]
        done = xtool("train", data, *args)
        assert done.code == 2, done
        assert "is both an output and another file" in done.err
    assert (tmp_path / "small-16.resume.st").read_bytes() == before


def test_heads_of_keys_that_become_several_keep_the_function_and_copy_the_moments(
    data: Path, xtool: Run
) -> None:
    begin(xtool, data, "--n-heads", 4, "--n-kv-heads", 2, "--positions", "rotary")
    done = xtool("grow", "small.resume.st", "--n-kv-heads", 4, "-o", "grown.resume.st")
    assert done.code == 0, done.err
    assert "their moments are copied, which is not exact" in done.err
    old, new = (load(Path(name), "resume")[1] for name in ("small.resume.st", "grown.resume.st"))
    name = "optimizer/blocks.0.attention.k.weight/exp_avg"
    one, several = old[name].view(2, -1), new[name].view(4, -1)
    assert torch.equal(several[0], several[1])  # queries 0 and 1 shared the first head
    assert torch.allclose(several[::2] / several[::2].norm(), one / one.norm())
    go_on(xtool, data, "grown.resume.st", "b.st")
