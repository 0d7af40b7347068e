"""Nested models: a file cut out of one is the model in that size, to the bit."""

import contextlib
import json
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run, configuration, make_model
from torch import Tensor, nn

from xtool.archs import (
    Child,
    build,
    canonical,
    count,
    flops,
    is_trained,
    label_of,
    parse_size,
    read_model,
    size_of,
    sized,
    sizes_of,
    start,
    start_sizes,
    stored_names,
)
from xtool.averages import paired
from xtool.axes import fixed, layout
from xtool.checkpoint import load, save
from xtool.dataset import Split
from xtool.errors import UsageError
from xtool.evaluation.importance import calibrating, sort_units
from xtool.header import Header
from xtool.rows import row
from xtool.surgery.slice import slice_model
from xtool.tasks import Shape, open_data
from xtool.training import loop
from xtool.training.costs import costs_of
from xtool.training.replicas import Replicas

SHAPE = Shape(21, 12, 21)
CASES = 208


def drawn(seed: int) -> tuple[dict[str, Any], dict[str, Any], torch.dtype]:
    """A configuration, a size of it and a type, all at random."""
    draw = random.Random(seed)
    heads, groups = draw.choice([(4, 4), (4, 2), (8, 4), (6, 2)])
    d_head, layers = draw.choice([4, 8]), draw.choice([1, 2, 3])
    width = heads * d_head
    dials: dict[str, Any] = {
        "d_model": width,
        "n_heads": heads,
        "n_kv_heads": groups,
        "n_layers": layers,
        "d_ff": draw.choice([24, 33, 4 * width]),
        "bias": draw.choice(["all", "mlp", "none"]),
        "norm": draw.choice(["layernorm", "rmsnorm"]),
        "positions": draw.choice(["learned", "rotary", "sinusoidal", "none"]),
        "activation": draw.choice(["gelu", "swiglu"]),
        "causal": draw.choice([True, True, False]),
    }
    dials["tied_head"] = draw.choice([True, False])
    if draw.random() < 0.2:
        dials["attention"] = draw.choice(["qk-norm", "window", "key-importance", "head-gate"])
    size: dict[str, Any] = {}
    if draw.random() < 0.7:
        part = draw.randint(1, groups)
        size["n_heads"], size["d_model"] = part * heads // groups, draw.choice([4, 9, width])
    if draw.random() < 0.7:
        each = [draw.choice([7, 16, dials["d_ff"]]) for _ in range(layers)]
        size["d_ff"] = each if draw.random() < 0.5 else each[0]
    if draw.random() < 0.4 and not isinstance(size.get("d_ff"), list):
        size["n_layers"] = draw.randint(1, layers)
    smaller = {name: n for name, n in size.items() if n != dials[name]}
    if draw.random() < 0.5 and smaller and not isinstance(size.get("d_ff"), list):
        # Then the size may have gains of its own, if every mixture of its axes can be built.
        named = {"nest": " ".join(f"{name}={n}" for name, n in smaller.items())}
        named["nest_gain"] = draw.choice(["own", "own", "shared"])
        with contextlib.suppress(UsageError):
            canonical(configuration("gpt", SHAPE, **dials, **named))
            dials |= named
    return dials, size, draw.choice([torch.float32, torch.bfloat16])


def made(dials: dict[str, Any], dtype: torch.dtype) -> tuple[dict[str, Any], nn.Module]:
    """A model with every value away from its first one."""
    config = configuration("gpt", SHAPE, **dials)
    config["nest"] = canonical(config)
    model, ours = build(config), layout(config)
    start(model, ours, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
    return config, model.to(dtype).eval()


def written(path: Path, config: dict[str, Any], model: nn.Module) -> None:
    state = model.state_dict()
    tensors = {name: state[name] for name in stored_names(model, layout(config))}
    save(path, Header(kind="model", config=config), tensors)


def equal(seed: int, folder: Path) -> bool:
    """Whether a random size through the file gives the logits of the parent in that size."""
    dials, changes, dtype = drawn(seed)
    config, model = made(dials, dtype)
    size = parse_size(label_of(changes), config) if changes else size_of(config, {})
    draw = random.Random(seed)
    rows = draw.choice([(1, 1), (1, 12), (3, 12), (2, 5)])
    inputs = torch.randint(21, rows, generator=torch.Generator().manual_seed(seed))
    child = Child(model, config, size.changes).bind(contiguous=rows == (1, 1))
    written(folder / "large.st", config, model)
    free = rows == (2, 5) and "context" not in fixed(config)
    shorter = {"context": 5} if free and draw.random() < 0.5 else {}
    if size.changes or shorter:
        slice_model(folder / "large.st", folder / "small.st", {**size.changes, **shorter})
    else:
        written(folder / "small.st", config, model)
    small = read_model(folder / "small.st")[2].eval()
    (folder / "small.st").unlink()
    (folder / "large.st").unlink()
    with torch.inference_mode():
        return torch.equal(child(inputs), small(inputs))


@pytest.mark.parametrize("block", range(8))
def test_a_file_equals_its_parent_in_that_size_to_the_bit(block: int, tmp_path: Path) -> None:
    seeds = range(block, CASES, 8)
    assert [seed for seed in seeds if not equal(seed, tmp_path)] == []


def bias_on_the_wrong_axis(monkeypatch: pytest.MonkeyPatch) -> None:
    """The output bias is gathered from the end, as if it had heads."""
    own = Child.bind

    def wrong(self: Child, contiguous: bool = False) -> nn.Module:
        module = own(self, contiguous)
        for small, large in zip(module.blocks, self.whole.blocks, strict=False):  # type: ignore[arg-type]
            if small.attention.o.bias is not None:
                end = large.attention.o.bias[-len(small.attention.o.bias) :]
                small.attention.o._parameters["bias"] = end
        return module

    monkeypatch.setattr(Child, "bind", wrong)


def norm_before_the_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each norm divides by the statistics of another width."""
    own = Child.bind

    def wrong(self: Child, contiguous: bool = False) -> nn.Module:
        module = own(self, contiguous)
        wide = self.whole.get_parameter("head.norm.weight").numel()
        for one in module.modules():
            if isinstance(one, nn.RMSNorm | nn.LayerNorm):
                narrow = one.normalized_shape[0]

                def cut(_: Any, args: Any, out: Tensor, narrow: int = narrow) -> Tensor:
                    return out * (narrow / wide) ** 0.5

                one.register_forward_hook(cut)
        return module

    monkeypatch.setattr(Child, "bind", wrong)


def attention_residual_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The block's output lacks what came in before attention."""
    own = Child.bind

    def wrong(self: Child, contiguous: bool = False) -> nn.Module:
        module = own(self, contiguous)
        for block in module.blocks:  # type: ignore[union-attr]
            block.residual = False
        return module

    monkeypatch.setattr(Child, "bind", wrong)


def scale_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention's scores keep no scale of their own."""
    own = Child.bind

    def wrong(self: Child, contiguous: bool = False) -> nn.Module:
        module = own(self, contiguous)
        for block in module.blocks:  # type: ignore[union-attr]
            block.attention.scale = 1.0
        return module

    monkeypatch.setattr(Child, "bind", wrong)


@pytest.mark.parametrize(
    "plant",
    [bias_on_the_wrong_axis, norm_before_the_cut, attention_residual_dropped, scale_missing],
)
def test_each_fault_of_the_study_is_found(
    plant: Callable[[pytest.MonkeyPatch], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    assert not all(equal(seed, tmp_path) for seed in range(24))


@pytest.mark.parametrize("tied", [True, False])
def test_every_size_starts_sane(tied: bool) -> None:
    dials = {"d_model": 64, "n_heads": 4, "tied_head": tied, "nest": "d_model=16,32"}
    config = configuration("gpt", SHAPE, **dials)
    config["nest"] = canonical(config)
    model = build(config)
    start(model, layout({**config}), 0)
    start_sizes(model, config)
    plain = build(config)
    start(plain, layout(config), 0)
    scaled, first = (m.get_parameter("blocks.0.mlp.up.weight") for m in (model, plain))
    for columns, width in ((slice(16), 16), (slice(16, 32), 32), (slice(32, 64), 64)):
        factor = (64 / width) ** (1 / 3)
        torch.testing.assert_close(scaled[:, columns], factor * first[:, columns])
    inputs = torch.randint(21, (64, 12), generator=torch.Generator().manual_seed(0))
    for size in sizes_of(config):
        logits = (
            Child(model, config, size.changes).bind()(inputs) if size.changes else model(inputs)
        )
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), inputs.roll(1, 1).flatten())
        assert abs(float(loss.detach()) - 3.04) < 0.5, "ln 21 is 3.04"


def test_a_slice_of_a_slice_is_the_direct_slice(tmp_path: Path) -> None:
    config = configuration("gpt", SHAPE, d_model=32, n_heads=4, nest="d_model=8,16", bias="all")
    config["nest"] = canonical(config)
    model = build(config)
    start(model, layout(config), 0)
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.add_(0.01 * number)
    written(tmp_path / "32.st", config, model)
    slice_model(tmp_path / "32.st", tmp_path / "16.st", {"d_model": 16}, untrained_ok=False)
    slice_model(tmp_path / "16.st", tmp_path / "16-8.st", {"d_model": 8}, untrained_ok=False)
    slice_model(tmp_path / "32.st", tmp_path / "8.st", {"d_model": 8}, untrained_ok=False)
    (one, first), (other, second) = load(tmp_path / "8.st"), load(tmp_path / "16-8.st")
    assert one.config == other.config
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not any(name.startswith("sizes.") for name in first)
    kept = read_model(tmp_path / "16.st")[0].config
    assert (kept["nest"], kept["arch"]) == ("d_model=8,16", "gpt")


def test_a_slice_along_one_nested_axis_keeps_what_is_nested_along_the_other(tmp_path: Path) -> None:
    dials = {"d_model": 16, "n_heads": 2, "d_ff": 32, "nest": "d_model=8 d_ff=16"}
    written(tmp_path / "a.st", *made(dials, torch.float32))
    both = {"d_model": 8, "d_ff": 16}
    slice_model(tmp_path / "a.st", tmp_path / "f.st", {"d_ff": 16}, untrained_ok=False)
    slice_model(tmp_path / "f.st", tmp_path / "two.st", both, untrained_ok=False)
    slice_model(tmp_path / "a.st", tmp_path / "one.st", both, untrained_ok=False)
    (first, one), (second, two) = load(tmp_path / "one.st"), load(tmp_path / "two.st")
    assert first.config == second.config
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    # So it does with fewer positions, which are no other size.
    slice_model(tmp_path / "a.st", tmp_path / "short.st", {"context": 5}, untrained_ok=False)
    slice_model(tmp_path / "short.st", tmp_path / "two.st", both, untrained_ok=False)
    two = load(tmp_path / "two.st")[1]
    assert all(torch.equal(one[n], two[n]) for n in one if n != "embed.positions")


def test_the_whole_of_a_grid_and_mixes_of_it_count_as_trained() -> None:
    config = configuration("gpt", SHAPE, d_model=32, n_heads=4, n_layers=2)
    config["nest"] = canonical(config | {"nest": "d_model=1/2 d_ff=16,64"})
    assert config["nest"] == "d_model=16,32 d_ff=16,64,128"
    assert sizes_of(config)[0].label == "d_model=16 d_ff=16"
    assert len(sizes_of(config)) == 6
    for changes, trained in (
        ({"d_model": 16, "d_ff": 64}, True),
        ({"d_ff": [16, 128]}, True),
        ({"d_ff": [16, 32]}, False),
        ({"n_layers": 1}, False),
        ({"d_model": 8}, False),
        ({"d_model": 16, "d_ff": 64, "n_heads": 1}, False),
    ):
        assert is_trained(config, sized(config, changes)) == trained, changes


@pytest.mark.parametrize("arch", ["gpt", "matryoshka"])
@pytest.mark.parametrize("gain", ["own", "shared"])
@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_those_of_the_file_and_of_the_closed_form(
    arch: str, gain: str, tied: bool, tmp_path: Path
) -> None:
    dials = {"d_model": 32, "n_heads": 4, "tied_head": tied, "nest_gain": gain, "norm": "rmsnorm"}
    config = configuration(arch, SHAPE, nest="d_model=8,16,32", **dials)
    model = build(config)
    start(model, layout(config), 0)
    written(tmp_path / "large.st", config, model)
    for d in (8, 16, 32):
        inside = 2 * (2 * d + 4 * d * d + 8 * d * d)  # norms, attention, feed-forward
        closed = 21 * d * (1 if tied else 2) + 12 * d + inside + d
        found = read_model(tmp_path / "large.st", size={"d_model": d} if d < 32 else None)[2]
        more = 2 * (2 * 2 * 32 + 32) if (d == 32 and gain == "own") else 0
        assert count(found) == closed + more
        if d < 32:
            slice_model(tmp_path / "large.st", tmp_path / f"{d}.st", {"d_model": d})
            stored = sum(t.numel() for t in load(tmp_path / f"{d}.st")[1].values())
            own = 2 * 2 * d + d if (d == 16 and gain == "own") else 0
            assert stored == closed + own


def test_only_the_sizes_of_a_step_get_gradients_and_the_largest_is_not_distilled() -> None:
    config = configuration("gpt", SHAPE, d_model=16, n_heads=2, nest="d_model=8", n_layers=1)
    config["nest"] = canonical(config)
    torch.manual_seed(0)
    inputs = torch.randint(21, (1, 4, 12))

    def gradient(distill: float, weights: str, small_only: bool = False) -> Tensor:
        own = config | {"nest_distill": distill, "nest_weights": weights}
        model = build(own).double()
        start(model, layout(own), 0)
        who = Replicas(model.train(), own, 1)
        assert who.nested is not None
        if small_only:
            who.nested.chosen = [0]
        loss = nn.functional.cross_entropy

        def each(logits: Tensor, targets: Tensor) -> Tensor:
            return loss(logits.transpose(1, 2), targets.long(), reduction="none")

        who.losses(each, inputs, inputs).sum().backward()
        found = model.get_parameter("blocks.0.mlp.up.weight").grad
        assert found is not None
        return found

    small = gradient(0.5, "1,1", small_only=True)
    assert not small[32:].any()
    assert not small[:, 8:].any()
    assert small[:32, :8].any()
    # What only the large one has sees no distance between the two.
    mostly = gradient(1.0, "1,1"), gradient(0.0, "1,1")
    torch.testing.assert_close(mostly[0][32:], mostly[1][32:])
    assert not torch.allclose(mostly[0][:32, :8], mostly[1][:32, :8])


@pytest.mark.parametrize("schedule", ["joint", "sandwich", "random"])
def test_nested_heads_cost_what_a_schedule_trains(schedule: str) -> None:
    dials = {"nest": "head=2,4,8", "nest_drawn": 1, "nest_schedule": schedule}
    config = configuration("gpt", SHAPE, **dials)
    plain = {**config, "nest": None}
    body = 3 * flops({**plain, "d_model": 16}) - 3 * flops({**plain, "n_layers": 0})
    heads = [3 * flops({**plain, "d_model": n, "n_layers": 0}) for n in (2, 4, 8, 16)]
    drawn = {"joint": sum(heads), "random": sum(heads) // 4}
    drawn["sandwich"] = heads[0] + heads[3] + (heads[1] + heads[2]) // 2
    assert costs_of(config)[-1][1] == body + drawn[schedule]


def test_mixed_sizes_cost_the_mean_of_what_they_may_be() -> None:
    config = configuration(
        "gpt", SHAPE, nest="d_ff=8,24", nest_mix=True, nest_drawn=1, nest_schedule="joint"
    )
    widths = [8, 24, config["d_ff"]]
    mixes = [3 * flops(sized(config, {"d_ff": [one, other]})) for one in widths for other in widths]
    ends = [3 * flops(sized(config, {"d_ff": width})) for width in (8, config["d_ff"])]
    assert costs_of(config)[-1][1] == sum(ends) + sum(mixes) // 9


def test_every_gain_of_a_model_whose_sizes_are_mixed_is_trained(xtool: Run, tmp_path: Path) -> None:
    config = configuration("gpt", SHAPE, nest="d_ff=8,24", nest_mix=True, n_layers=3)
    config["nest"] = canonical(config)
    model = build(config).train()
    start(model, layout(config), 0)
    nested = Replicas(model, config, 1).nested
    assert nested is not None
    symbols = torch.randint(21, (2, 12), generator=torch.Generator().manual_seed(0))
    for step in range(3):
        nested.at_step(step)
        nested(symbols).square().sum().backward()
    assert [name for name, one in model.named_parameters() if one.grad is None] == []
    save(tmp_path / "m.st", Header(kind="model", config=config), model.state_dict())
    for size in ("d_ff=8", "d_ff=24"):
        changes = parse_size(size, config).changes
        small = read_model(tmp_path / "m.st", size=changes)[2].eval()
        assert torch.equal(small(symbols), Child(model.eval(), config, changes).bind()(symbols))
    done = xtool("slice", "m.st", "--d-ff", 24, "-o", "s.st")
    assert done.code == 0, done.err
    assert torch.equal(read_model(tmp_path / "s.st")[2].eval()(symbols), small(symbols))


def test_only_a_gpt_has_a_head_to_cut() -> None:
    with pytest.raises(UsageError, match="is for a gpt"):
        canonical(configuration("looped", SHAPE) | {"nest": "head=16"})
    for arch in ("bigram", "looped"):
        with pytest.raises(UsageError, match="is for a gpt"):
            sized(configuration(arch, SHAPE), {"head": 8})


def test_widths_by_layer_are_compared_with_those_of_the_layers_that_stay(
    xtool: Run, tmp_path: Path
) -> None:
    config = make_model(tmp_path / "m.st", d_ff=[64, 32, 64], n_layers=3)
    small = sized({**config, "d_ff": [64, 32, 32]}, {"n_layers": 1})
    assert (small["n_layers"], small["d_ff"]) == (1, 64)
    for layers, widths in (("1", 64), ("1-2", [32, 64]), ("0,2", 64)):
        args = ["slice", "m.st", "--n-layers", layers, "--untrained-ok", "--force", "-o", "s.st"]
        done = xtool(*args)
        assert done.code == 0, done.err
        assert load(tmp_path / "s.st")[0].config["d_ff"] == widths
    done = xtool("slice", "m.st", "--n-layers", 6, "--untrained-ok", "-o", "x.st")
    assert (done.code, "`n_layers` 3 -> 6: slicing only makes" in done.err) == (2, True), done
    nested = configuration("gpt", SHAPE, n_layers=4, nest="d_ff=8,24")
    assert not is_trained(nested, {**nested, "n_layers": 2, "d_ff": [8, 24]})


def test_heads_whose_place_says_how_far_they_look_are_not_sorted() -> None:
    config = configuration(
        "gpt", SHAPE, attention="strided", window=4, strides="1,2", d_model=32, n_heads=4
    )
    model, ours = build(config).double(), layout(config)
    start(model, ours, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator).double()
    symbols = torch.randint(21, (4, 12), generator=generator)
    before = model.eval()(symbols)
    sort_units(model, ours, Split(symbols, symbols))
    torch.testing.assert_close(model(symbols), before, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("schedule", "each_step"),
    [("joint", [0, 1, 2, 3]), ("sandwich", [0, 3, 1.5]), ("random", [1.5])],
)
def test_a_schedule_takes_the_sizes_that_its_flops_count(
    schedule: str, each_step: list[float]
) -> None:
    dials = {"d_model": 32, "n_heads": 4, "nest_schedule": schedule}
    config = configuration("gpt", SHAPE, nest="d_model=8,16,24", **dials)
    config["nest"] = canonical(config)
    each = [costs_of(sized(config, size.changes))[-1][1] for size in sizes_of(config)]
    middle = {1.5: (each[1] + each[2]) // 2 if schedule != "random" else sum(each) // 4}
    assert costs_of(config)[-1][1] == sum(
        middle[one] if one == 1.5 else each[int(one)] for one in each_step
    )
    who = Replicas(build(config).train(), config, 1).nested
    assert who is not None
    seen: set[int] = set()
    for step in range(40):
        who.at_step(step)
        seen |= {*who.chosen}
        assert len(who.chosen) == {"joint": 4, "sandwich": 3, "random": 1}[schedule]
        assert who.chosen == sorted(who.chosen, reverse=True)
    assert seen == {0, 1, 2, 3}


def stopping(patch: pytest.MonkeyPatch, at: int) -> None:
    """Let a run be interrupted after a step."""
    own = loop._Loop._step

    def step(self: Any) -> None:
        own(self)
        if self.run.position.step == at:
            signal.raise_signal(signal.SIGINT)

    patch.setattr(loop._Loop, "_step", step)


LOOPS = ["--n-loops", "3", "--loop-rank", "2", "--loops-by", "random", "--loops-from", "1"]
NESTS = [
    ["--nest", "d_model=8", "--d-ff", "64"],
    ["--nest", "d_ff=8,16,24"],
    ["--nest", "d_model=8"],
    ["--nest", "d_ff=16", "--nest", "n_layers=1", "--nest-mix"],
    ["--nest", "n_heads=1", "--nest-gain", "shared", "--nest-schedule", "random"],
    ["--nest", "head=4,8", "--tied-head", "--nest-schedule", "joint"],
    # What a loop has of its own has no gradient in a step without that loop.
    ["--nest", "d_model=8", "--arch", "looped", *LOOPS],
]


@pytest.mark.parametrize("given", NESTS, ids=" ".join)
def test_nested_runs_resume_and_stack_to_the_bit(
    given: list[str], data: Path, xtool: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = ["--d-model", 16, "--n-heads", 2, "--n-layers", 2, "--batch-size", 8, "--threads", 1]
    args = ["train", data, *shape, *given, "--precision", "fp64", "-q", "--eval-every", 4]
    assert xtool(*args, "--steps", 8, "-o", "a.st", "--keep-state").code == 0
    for stop in (3, 6):
        with monkeypatch.context() as patch:
            stopping(patch, stop)
            done = xtool(*args, "--steps", 8, "-o", "b.st", "--keep-state", "--resume")
            assert done.code == 130, done
    assert xtool(*args, "--steps", 8, "-o", "b.st", "--keep-state", "--resume").code == 0
    assert (tmp_path / "a.st").read_bytes() == (tmp_path / "b.st").read_bytes()
    assert xtool(*args, "--steps", 8, "--replicas", 2, "--seed", -1, "-o", "r.st").code == 0
    assert xtool("slice", "r.st", "--replica", 1, "-o", "one.st").code == 0
    one, other = load(tmp_path / "one.st")[1], load(tmp_path / "a.st")[1]
    assert max(float((one[name] - other[name]).abs().max()) for name in one) < 1e-10
    done = xtool("evaluate", "a.st", "--size", "all", "--format", "jsonl")
    assert done.code == 0, done.err
    rows = [json.loads(line) for line in done.out.splitlines()]
    sizes = {row["size"]: row["value"] for row in rows if row["metric"] == "loss"}
    assert len(sizes) == (4 if "--nest-mix" in given else len(given[1].split(",")) + 1)
    assert len({*sizes.values()}) == len(sizes)
    agreed = [row["value"] for row in rows if row["metric"] == "agreement"]
    assert len(agreed) == len(sizes) - 1
    assert all(0 <= one <= 1 for one in agreed)


@pytest.fixture
def dolls(xtool: Run, data: Path) -> Path:
    """A trained nested model `n.st` of widths 8 and 16, and a plain one `p.st`."""
    shape = ["--d-model", 16, "--n-heads", 2, "--n-layers", 2, "--batch-size", 8, "--threads", 1]
    args = ["train", data, *shape, "--steps", 4, "-q"]
    assert xtool(*args, "--nest", "d_model=8", "-o", "n.st").code == 0
    assert xtool(*args, "-o", "p.st").code == 0
    return data


def test_sizes_are_named_when_training_begins_and_asked_for_in_several_ways(
    dolls: Path, xtool: Run
) -> None:
    said = xtool("train", dolls, "--d-model", 16, "--n-heads", 2, "--nest", 8, "--dry-run").err
    (line,) = (line for line in said.splitlines() if "sizes:" in line)
    rows = xtool("evaluate", "n.st", "--size", "all", "--format", "jsonl").out
    params = {one["size"]: one["params"] for one in map(json.loads, rows.splitlines())}
    assert xtool("slice", "n.st", "--to", 16, "-o", "w.st").code == 0
    assert params["16"] == count(read_model(dolls.with_name("w.st"))[2])
    assert line.startswith("2 sizes: 8 (")
    one = parse_size(
        "d_model=8, d_ff=16,24 n_layers=2", read_model(dolls.with_name("n.st"))[0].config
    )
    assert one.label == "d_model=8 d_ff=16,24 n_layers=2"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["evaluate", "n.st", "--size", "8 8"], "names `d_model` twice"),
        (["evaluate", "n.st", "--size", "d_model=8,16"], "one size has one `d_model`"),
        (["slice", "n.st", "--to", 4], "does not scale to 4"),
        (["slice", "n.st", "--to", 12, "--n-heads", 2], "was never trained at"),
        (["slice", "n.st", "--d-ff", 16], "trained sizes: 8, 16"),
        (["slice", "p.st", "--d-ff", "32,16"], "was never trained at d_ff 64 -> [32, 16]"),
        (["slice", "p.st", "--n-layers", "1"], "was never trained at n_layers 2 -> 1"),
        (["slice", "p.st", "--n-layers", "1-0"], "1-0 falls"),
        (["slice", "p.st", "--n-layers", "some"], "neither a number nor layers"),
        (["grow", "p.st", "--d-ff", "64,128"], "differs by layer cannot grow"),
        (["slice", "p.st", "--n-layers", "1,5", "--untrained-ok"], "has no layer 5"),
        (["slice", "p.st", "--n-layers", "1,1", "--untrained-ok"], "layers rise, each once"),
        (["slice", "p.st", "--d-ff", "8,8,8", "--untrained-ok"], "gives 3 widths"),
        (["slice", "p.st", "--d-ff", "8,900", "--untrained-ok"], "cannot slice `d_ff`"),
        (["slice", "p.st", "--d-ff", "8,x"], "must be whole numbers"),
        (["slice", "p.st", "--to", 8, "--sort", "size"], "it is importance"),
        (["evaluate", "p.st", "--size", "8"], "was never trained at size `8`"),
        (["evaluate", "n.st", "--size", "32"], "larger than the model's, 16"),
        (["evaluate", "n.st", "--size", "wide=3"], "unknown axis of `--size` `wide`"),
        (["evaluate", "n.st", "--size", ""], "`--size` is empty"),
        (["sample", "n.st", "--size", "x"], "is no size"),
        (["train", "data.st", "--nest", "d_model=64", "-o", "x.st"], "is no size of 1 to 16"),
        (["train", "data.st", "--nest", "d_model=7", "-o", "x.st"], "does not scale to 7"),
        (["train", "data.st", "--nest", "width=7", "-o", "x.st"], "unknown axis of `--nest`"),
        (["train", "data.st", "--nest", "d_model=1/0", "-o", "x.st"], "is no size"),
        (["train", "data.st", "--nest", "head=8", "--nest", "d_ff=8", "-o", "x.st"], "alone"),
        (["train", "data.st", "--nest", "d_ff=8", "--compile", "-o", "x.st"], "`--compile`"),
        (["train", "data.st", "--nest", "d_ff=8", "--nest-weights", "1", "-o", "x.st"], "2 numb"),
        (["train", "data.st", "--nest", "d_model=8", "--nest-mix", "-o", "x.st"], "mixes feed"),
    ],
    ids=lambda one: " ".join(map(str, one[:5])) if isinstance(one, list) else "",
)
def test_sizes_that_cannot_be(command: list[Any], message: str, dolls: Path, xtool: Run) -> None:
    if command[0] == "train":
        command = [*command, "--d-model", 16, "--n-heads", 2, "--n-layers", 1]
    done = xtool(*command)
    said = done.err.replace("gives the output alone, with no other axis", "alone")
    assert (done.code, message in said) == (2, True), done
    assert not (dolls.parent / "x.st").exists()


def test_slicing_back_what_was_grown_needs_no_word_along_feed_forward_heads_and_depth(
    dolls: Path, xtool: Run, tmp_path: Path
) -> None:
    back = {"--d-ff": (128, 64), "--n-layers": (4, 2), "--n-heads": (4, 2)}
    for flag, (more, before) in back.items():
        kv = ["--n-kv-heads"] if flag == "--n-heads" else []
        grow = [one for name in (flag, *kv) for one in (name, more)]
        cut = [one for name in (flag, *kv) for one in (name, before)]
        assert xtool("grow", "p.st", *grow, "--method", "pad", "-o", "g.st", "--force").code == 0
        done = xtool("slice", "g.st", *cut, "-o", "b.st", "--force")
        assert done.code == 0, done.err
        one, other = load(tmp_path / "p.st")[1], load(tmp_path / "b.st")[1]
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert xtool("grow", "p.st", "--to", 32, "--method", "pad", "-o", "w.st").code == 0
    done = xtool("slice", "w.st", "--to", 16, "-o", "x.st")
    assert (done.code, "was never trained at" in done.err) == (2, True)


def test_importance_is_of_prompts_that_training_would_draw(xtool: Run, tmp_path: Path) -> None:
    small = ["--dims", 3, "--points", 5, "--dims-from", 1, "--points-from", 2, "--dev-size", 8]
    assert xtool("prepare", "regression", *small, "--test-size", 8, "-o", "r.st").code == 0
    data = open_data(tmp_path / "r.st")
    one, again = (calibrating(data) for _ in range(2))
    assert torch.equal(one.inputs, again.inputs)
    assert one.inputs.shape == (256, 10, 3)
    assert bool(one.inputs[:, ::2].any(0).all()), "the prompts of a curriculum's end"
    assert not any(torch.equal(one.inputs[0], other) for other in data.splits["dev"].inputs)
    args = ["train", "r.st", "--d-model", 8, "--n-heads", 2, "--n-layers", 1, "--steps", 1]
    assert xtool(*args, "-o", "m.st", "--threads", 1).code == 0
    assert xtool("slice", "m.st", "--sort", "importance", "-o", "s.st").code == 0


def test_sorting_keeps_the_function_and_cuts_less_of_it(
    dolls: Path, xtool: Run, tmp_path: Path
) -> None:
    args = ["train", dolls, "--d-model", 16, "--n-heads", 4, "--n-layers", 2, "--d-ff", 64, "-q"]
    assert xtool(*args, "--steps", 150, "--lr", 0.01, "-o", "t.st", "--threads", 1).code == 0
    assert xtool("slice", "t.st", "--sort", "importance", "-o", "s.st").code == 0
    inputs = torch.randint(27, (8, 12), generator=torch.Generator().manual_seed(0))
    whole, same = (read_model(tmp_path / name)[2].eval()(inputs) for name in ("t.st", "s.st"))
    torch.testing.assert_close(whole, same, atol=1e-4, rtol=1e-4)

    def loss(*cut: Any) -> float:
        done = xtool("slice", "t.st", *cut, "--untrained-ok", "-o", "c.st", "--force")
        assert done.code == 0, done.err
        rows = xtool("evaluate", "c.st", "--where", "metric=loss", "--format", "jsonl").out
        return float(json.loads(rows)["value"])

    for cut in (["--d-ff", 24], ["--n-heads", 2, "--n-kv-heads", 2]):
        assert loss(*cut, "--sort", "importance") < loss(*cut)
    done = xtool(
        *args[:2], "--from", "t.st", "--nest", "d_ff=16", "--steps", 0, "-o", "n.st", "--force"
    )
    assert done.code == 0, done.err
    sized_up = read_model(tmp_path / "n.st")[2].eval()(inputs)
    torch.testing.assert_close(whole, sized_up, atol=1e-4, rtol=1e-4)
    assert xtool("slice", "n.st", "--d-ff", 16, "-o", "n16.st").code == 0
    assert xtool("slice", "t.st", "--d-ff", 16, "--sort", "importance", "-o", "t16.st").code == 0
    one, other = (read_model(tmp_path / name)[2].eval()(inputs) for name in ("n16.st", "t16.st"))
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_each_size_is_compared_with_the_twin_of_its_own_sizes(dolls: Path, xtool: Run) -> None:
    args = ["train", dolls, "--n-layers", 2, "--steps", 4, "-q", "--threads", 1]
    assert xtool(*args, "--d-model", 8, "--n-heads", 1, "-o", "t8.st").code == 0
    both = ["--against", "t8.st", "--against", "p.st"]
    done = xtool("evaluate", "n.st", "t8.st", "--size", "all", *both, "--format", "jsonl")
    assert done.code == 0, done.err
    rows = [json.loads(line) for line in done.out.splitlines()]
    pairs = {
        (row["label"], row["size"], row["against"])
        for row in rows
        if row["metric"] == "loss_difference"
    }
    assert pairs == {("n", "8", "t8"), ("n", "16", "p"), ("t8", "8", "t8")}
    done = xtool("evaluate", "n.st", "--size", "all", "--against", "t8.st", "--against", "t8.st")
    assert done.code == 0, done.err
    assert "difference" in done.out
    done = xtool("evaluate", "p.st", "--size", "all", "--against", "t8.st", "--against", "t8.st")
    assert (done.code, "is as large as `16`" in done.err) == (2, True)


def test_sizes_of_a_looped_model_have_its_loops_and_watched_runs_their_gains(
    data: Path, xtool: Run
) -> None:
    shape = ["--d-model", 16, "--n-heads", 2, "--n-loops", 4, "--batch-size", 8, "--threads", 1]
    args = ["train", data, "--arch", "looped", *shape, "--nest", "d_model=8", "-q"]
    loops = ["--loops-from", 1, "--loops-by", "random"]
    assert xtool(*args, *loops, "--steps", 6, "-o", "l.st").code == 0
    done = xtool(
        "train", data, *shape[:4], "--nest", "d_ff=8", "--watch", "--steps", 2, "-o", "w.st"
    )
    assert done.code == 0, done.err


def test_a_size_has_its_gains_by_whatever_name_it_is_asked_for(
    data: Path, xtool: Run, tmp_path: Path
) -> None:
    shape = ["--d-model", 16, "--n-heads", 2, "--n-layers", 2, "--batch-size", 8, "--threads", 1]
    nest = ["--nest", "d_ff=16", "--nest", "n_layers=1", "--tied-head"]
    assert xtool("train", data, *shape, *nest, "--steps", 20, "--lr", 0.03, "-o", "g.st").code == 0
    assert xtool("slice", "g.st", "--n-layers", 1, "-o", "s.st").code == 0
    inputs = torch.randint(27, (4, 12), generator=torch.Generator().manual_seed(0))
    want = read_model(tmp_path / "s.st")[2].eval()(inputs)
    for changes in ({"n_layers": 1}, {"n_layers": 1, "d_ff": 64}):
        found = read_model(tmp_path / "g.st", size=changes)[2].eval()(inputs)
        assert torch.equal(found, want)
    model = read_model(tmp_path / "g.st")
    child = Child(model[2].eval(), model[0].config, {"n_layers": 1}).bind()
    assert torch.equal(child(inputs), want)


def test_a_looped_model_nests_and_slices(data: Path, xtool: Run, tmp_path: Path) -> None:
    shape = ["--d-model", 16, "--n-heads", 2, "--n-loops", 3, "--batch-size", 8, "--threads", 1]
    args = ["train", data, "--arch", "looped", *shape, "--nest", "d_model=8", "-q"]
    assert xtool(*args, "--steps", 3, "-o", "l.st").code == 0
    assert xtool("slice", "l.st", "--to", 8, "-o", "s.st").code == 0
    inputs = torch.randint(27, (4, 12), generator=torch.Generator().manual_seed(0))
    _, _, model = read_model(tmp_path / "l.st")
    config = read_model(tmp_path / "l.st")[0].config
    child = Child(model.eval(), config, {"d_model": 8}).bind()
    with torch.inference_mode():
        assert torch.equal(child(inputs), read_model(tmp_path / "s.st")[2].eval()(inputs))


def test_sizes_with_gains_of_their_own_stay_until_the_whole_is_taken_out(
    dolls: Path, xtool: Run, tmp_path: Path
) -> None:
    done = xtool("train", dolls, "--from", "n.st", "--nest", "d_ff=16", "--steps", 1, "-o", "m.st")
    assert (done.code, "takes it out whole" in done.err) == (2, True)
    assert xtool("slice", "n.st", "--to", 16, "-o", "w.st").code == 0
    header = load(tmp_path / "w.st")[0]
    assert (header.config["nest"], header.config["arch"]) == (None, "gpt")
    inputs = torch.randint(27, (4, 12), generator=torch.Generator().manual_seed(0))
    one, other = (read_model(tmp_path / name)[2].eval()(inputs) for name in ("n.st", "w.st"))
    assert torch.equal(one, other)
    done = xtool("train", dolls, "--from", "w.st", "--nest", "d_ff=16", "--steps", 1, "-o", "m.st")
    assert done.code == 0, done.err


def test_growing_a_nested_model_leaves_one_model(dolls: Path, xtool: Run, tmp_path: Path) -> None:
    done = xtool("grow", "n.st", "--to", 32, "-o", "g.st")
    assert done.code == 0, done.err
    header, tensors = load(tmp_path / "g.st")
    assert header.config["nest"] is None
    assert not any(name.startswith("sizes.") for name in tensors)


def test_differences_over_seeds_pair_each_size_with_its_own() -> None:
    values = (("n", "8", 3.0), ("n", "16", 2.0), ("t", "8", 2.5), ("t", "16", 1.0))
    rows = [
        row(label=label, metric="loss", split="dev", seed=seed, size=size, value=value + seed)
        for label, size, value in values
        for seed in (0, 1)
    ]
    found = {one["size"]: one["value"] for one in paired(rows, "t", "seed")}
    assert found == {"8": 0.5, "16": 1.0}
