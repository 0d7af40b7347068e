"""The contract of growth operators: exact inside their condition, refused outside it."""

import os
from collections.abc import Callable
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Run, configuration, dials_of, grow_to, make_model
from hypothesis import given
from hypothesis import strategies as st

from xtool import checkpoint, gather, registry
from xtool.archs import build, read_model
from xtool.axes import layout
from xtool.checkpoint import Reader
from xtool.config import options, resolve
from xtool.errors import CheckFailed, UsageError, XtoolError
from xtool.header import Header
from xtool.layers.initial import initial
from xtool.layers.positions import table
from xtool.seeds import derive
from xtool.storage import Source
from xtool.surgery import proof
from xtool.surgery.grow import Proving, grow
from xtool.surgery.operators import Depth
from xtool.surgery.operators.pad import Pad
from xtool.surgery.plan import Plan, plan, promise
from xtool.surgery.slice import slice_model
from xtool.tasks import Shape

OPERATORS = registry.names("surgery/operators")
EXACT = [name for name in OPERATORS if promise(name) == "exact"]
WIDE = [
    arch
    for arch in registry.names("archs")
    if any(row[0] == "d_head" for row in registry.literal("archs", arch, "OPTIONS"))
]
WIDTHS = (48, 40)  # from 16: a whole factor and none


def possible(method: str) -> dict[str, int]:
    """A growth from 2 layers and d_model 16 that an operator takes on: all it can, at once."""
    if isinstance(registry.load("surgery/operators", method), Depth):
        return {"n_layers": 4}
    condition = registry.literal("surgery/operators", method, "CONDITION")
    return {"d_model": 32} if "depth stays" in condition else {"d_model": 32, "n_layers": 3}


def refusal(method: str, config: dict[str, Any], changes: dict[str, int]) -> str:
    """The reason, by the table of growth.md section 13, or empty where it must be exact."""
    width = changes.get("d_model", 16)
    heads = config["n_heads"]
    scales = heads * width % 16 == 0
    if not config["attention_output"] and heads > 1 and not scales:
        return "does not scale"
    normed = config["norm"] != "none"
    if config.get("loop_norm") and width > 16:
        if method == "pad" and config["norm"] == "layernorm":
            return "the norm after each loop"
        if method in ("clone", "split") and config["tied_head"]:
            return "which the loops go through too"
    if method == "split":
        if width % 16 and normed:
            return "weigh the columns"
        if width > 16 and config["tied_head"] and not normed:
            return "multiply the logits"
    if method == "clone":
        if any(new % config[name] for name, new in changes.items() if name != "n_layers"):
            return "whole factor"
        if width > 16 and config["tied_head"] and not normed:
            return "multiply the logits"
    if method == "pad" and not config["attention_output"] and heads > 1 and width > 16:
        return "averaged" if config["norm"] == "layernorm" else ""
    return ""


# A matryoshka grows as the gpt that it is, and a free head of a looped one as that of a gpt; the
# slow tests hold them to every norm.
QUICK = [("gpt", False), ("gpt", True), ("looped", True)]
CASES = [
    pytest.param(
        *case,
        marks=() if case[3] == "rmsnorm" or (case[0], case[2]) in QUICK else pytest.mark.slow,
        id="-".join([*case[:2], "tied" if case[2] else "free", case[3]]),
    )
    for case in product(WIDE, EXACT, [False, True], ["none", "layernorm", "rmsnorm"])
]


@pytest.mark.parametrize(("arch", "method", "tied", "norm"), CASES)
def test_an_exact_operator_keeps_the_logits_or_refuses(
    arch: str, method: str, tied: bool, norm: str, tmp_path: Path
) -> None:
    variants = [
        {"n_heads": 1, "positions": "learned", "bias": "all"},
        {"n_heads": 2, "positions": "sinusoidal", "activation": "swiglu"},
        {"n_heads": 2, "attention_output": False, "score_scale": "d_model", "positions": "none"},
        {"n_heads": 1, "attention_output": False, "score_scale": "none", "bias": "mlp"},
        {"n_heads": 4, "n_kv_heads": 2, "positions": "rotary", "bias": "all"},
    ]
    changes: list[dict[str, int]] = [{"d_model": width} for width in WIDTHS]
    changes += [{"n_layers": 3, "d_ff": 70}, {"d_model": 48, "n_layers": 4}]
    for variant in variants:
        path = tmp_path / "small.st"
        config = make_model(path, arch=arch, norm=norm, tied_head=tied, **variant)
        inner: list[dict[str, int]] = [{"d_head": 3 * config["d_head"]}]
        if config["n_kv_heads"] < config["n_heads"]:
            inner += [{"n_kv_heads": 4}, {"n_heads": 6}, {"n_heads": 8, "n_kv_heads": 2}]
        for change in [*changes, *inner]:
            reason = refusal(method, config, change)
            out = tmp_path / "grown.st"
            out.unlink(missing_ok=True)
            if reason:
                with pytest.raises(UsageError, match=reason):
                    grow_to(path, out, method, **change)
                assert not out.exists()
            else:
                found = grow_to(path, out, method, **change)
                assert found.exact, (variant, change, found)
                assert found.tolerance == pytest.approx(1e-10 * max(1.0, found.largest))


@pytest.mark.parametrize("method", EXACT)
def test_growing_a_two_layer_head_keeps_the_logits(method: str, tmp_path: Path) -> None:
    make_model(tmp_path / "a.st", d_hidden=12, bias="all", d_head=6, d_value=10)
    assert grow_to(tmp_path / "a.st", tmp_path / "b.st", method, d_model=32).exact


@pytest.mark.parametrize("method", OPERATORS)
def test_an_operator_gives_every_tensor_its_shape_in_any_blocks(
    method: str, tmp_path: Path
) -> None:
    make_model(tmp_path / "a.st", bias="all")
    dials = dials_of(method, tmp_path)
    with Source(tmp_path / "a.st") as source:
        reader = Reader(source, layout(source.require_header().config))
        made = plan(reader, possible(method), method, dials, 5)
        for name in made.names():
            shape = made.growth.new.shape(name)
            whole = made.rows(name, 0, shape[0])
            assert whole.shape == shape, name
            parts = [made.rows(name, at, min(at + 5, shape[0])) for at in range(0, shape[0], 5)]
            assert torch.equal(torch.cat(parts), whole), name


@pytest.mark.parametrize("method", OPERATORS)
def test_the_same_growth_gives_the_same_bytes(method: str, tmp_path: Path) -> None:
    make_model(tmp_path / "a.st")
    for name in ("b.st", "c.st"):
        grow_to(tmp_path / "a.st", tmp_path / name, method, **possible(method))
    assert (tmp_path / "b.st").read_bytes() == (tmp_path / "c.st").read_bytes()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("method", OPERATORS)
def test_a_streamed_growth_is_to_the_byte_the_one_in_memory(
    method: str, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model(tmp_path / "a.st", dtype, bias="all")
    changes = possible(method)
    monkeypatch.setattr(checkpoint, "BLOCK", 3000)
    grow_to(tmp_path / "a.st", tmp_path / "b.st", method, **changes)
    monkeypatch.undo()
    dials = dials_of(method, tmp_path)
    with Source(tmp_path / "a.st") as source, Source(tmp_path / "b.st") as grown:
        reader = Reader(source, layout(source.require_header().config))
        made = plan(reader, changes, method, dials, 0)
        shapes = {name: made.growth.new.shape(name) for name in made.names()}
        whole = {name: made.rows(name, 0, shape[0]).to(dtype) for name, shape in shapes.items()}
        checkpoint.save(tmp_path / "c.st", grown.require_header(), whole)
    assert (tmp_path / "b.st").read_bytes() == (tmp_path / "c.st").read_bytes()


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_clone_is_plain_indexing_of_whole_tensors(factor: int, tmp_path: Path) -> None:
    make_model(tmp_path / "a.st")
    grow_to(tmp_path / "a.st", tmp_path / "b.st", "clone", d_model=16 * factor)
    old, new = (read_model(tmp_path / n)[2].state_dict() for n in ("a.st", "b.st"))
    name = "blocks.1.mlp.down.weight"
    small, pairs = old[name], factor // 2
    rows, columns = torch.arange(16 * factor) % 16, torch.arange(64 * factor) % 64
    copy = torch.arange(64 * factor) // 64
    words = torch.Generator().manual_seed(derive(derive(0, "noise", name), 0))
    drawn = torch.empty(16 * factor, pairs, dtype=torch.int64)
    drawn.random_(-(2**63), None, generator=words)
    bits = np.unpackbits(drawn.numpy().view(np.uint8)).reshape(-1, pairs, 64)
    sign = torch.where(copy % 2 == 0, 1.0, -1.0) * (copy < 2 * pairs)
    noise = torch.from_numpy(bits)[:, (copy // 2).clamp(max=pairs - 1), columns] * 2.0 - 1
    level = small[rows].square().mean(1, keepdim=True).sqrt() * 10**-0.5
    wanted = small[rows][:, columns] / factor + noise * sign * level / factor
    assert torch.allclose(new[name], wanted, rtol=1e-14, atol=1e-15)


MAPS: dict[str, Callable[[int], torch.Tensor]] = {
    "whole copies": lambda size: torch.arange(size).repeat(3),
    "repeats": lambda size: torch.arange(size).repeat_interleave(3),
    "a prefix": lambda size: gather.prefix(size, size + 9),
    "a gap": lambda size: torch.cat([torch.tensor([-1, -1]), torch.arange(size)]),
    "no order": lambda size: torch.arange(3 * size) * 5 % (size + 1) - 1,
}


@pytest.mark.parametrize("across", MAPS)
@pytest.mark.parametrize("down", MAPS)
def test_gathered_rows_are_indexed_ones_and_zero_where_there_are_none(
    down: str, across: str, tmp_path: Path
) -> None:
    old = torch.randn(40, 50)
    checkpoint.save(tmp_path / "a.st", Header(kind="data", config={}), {"x": old})
    places = [MAPS[down](40), MAPS[across](50)]
    wanted = old[places[0]][:, places[1]]
    wanted[places[0] < 0] = 0
    wanted[:, places[1] < 0] = 0
    with Source(tmp_path / "a.st") as source:
        for start in range(0, len(wanted), 17):
            stop = min(start + 31, len(wanted))
            found = gather.gather(Reader(source), "x", places, start, stop, torch.float32)
            assert torch.equal(found, wanted[start:stop])


@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
def test_a_planted_wrong_scale_is_caught_and_leaves_nothing(
    norm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model(tmp_path / "a.st", norm=norm)
    monkeypatch.setattr(Pad, "_gain", lambda self, growth, name, values, new: values)
    with pytest.raises(CheckFailed, match="promised to be exact"):
        grow_to(tmp_path / "a.st", tmp_path / "b.st", "pad", d_model=24)
    assert os.listdir(tmp_path) == ["a.st"]


def test_single_precision_is_held_to_its_own_tolerance(tmp_path: Path) -> None:
    make_model(tmp_path / "a.st", torch.float32)
    found = grow_to(tmp_path / "a.st", tmp_path / "b.st", "clone", d_model=48)
    assert found.exact
    assert found.tolerance == pytest.approx(1e-5 * max(1.0, found.largest))


@pytest.mark.parametrize("decibels", [10.0, 3.0])
def test_the_noise_on_the_copies_cancels_and_has_the_asked_power(
    decibels: float, tmp_path: Path
) -> None:
    make_model(tmp_path / "a.st", bias="none")
    with Source(tmp_path / "a.st") as source:
        reader = Reader(source, layout(source.require_header().config))
        dials = {"noise": True, "noise_db": decibels}
        made = plan(reader, {"d_model": 48}, "clone", dials, 0)  # 3 copies: a pair and an odd one
        old = reader.tensor("blocks.0.mlp.up.weight").double()
        new = made.rows("blocks.0.mlp.up.weight", 0, 192).double()
    first, second, last = new.view(3, 64, 3, 16).unbind(2)
    assert torch.allclose(first + second, 2 * old / 3, atol=1e-12)
    assert torch.allclose(last, (old / 3).expand_as(last), atol=1e-15)
    noise = (first - second) / 2
    power = (old / 3).square().mean() / noise.square().mean()
    assert 10 * torch.log10(power) == pytest.approx(decibels, abs=1e-6)
    assert abs(float(noise.sign().mean())) < 0.1
    assert not torch.equal(noise[0], noise[1])


@pytest.mark.parametrize("method", EXACT)
def test_new_blocks_begin_as_the_identity(method: str, tmp_path: Path) -> None:
    make_model(tmp_path / "a.st", bias="all", positions="sinusoidal")
    found = grow_to(tmp_path / "a.st", tmp_path / "b.st", method, n_layers=5)
    assert found.difference == 0


def steps(path: Path, count: int) -> tuple[dict[str, torch.Tensor], list[dict[str, torch.Tensor]]]:
    """The parameters of a model, and their gradients in so many steps of descent."""
    _, _, model = read_model(path)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    symbols = torch.arange(27).repeat(4)[:96].view(8, 12)
    gradients = []
    for _ in range(count):
        optimizer.zero_grad()
        scores = model(symbols).transpose(1, 2)
        torch.nn.functional.cross_entropy(scores, symbols % 3).backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters()})
        optimizer.step()
    return before, gradients


@pytest.mark.parametrize("method", EXACT)
@pytest.mark.parametrize("norm", ["none", "layernorm", "rmsnorm"])
def test_new_blocks_learn_from_the_second_step_on(method: str, norm: str, tmp_path: Path) -> None:
    make_model(tmp_path / "a.st", norm=norm, bias="all", jitter=0.05)
    grow_to(tmp_path / "a.st", tmp_path / "b.st", method, n_layers=4, seed=1)
    _, (first, second) = steps(tmp_path / "b.st", 2)
    for layer in ("blocks.2.", "blocks.3."):
        for name in (n for n in first if n.startswith(layer)):
            writer = name.startswith((layer + "attention.o.", layer + "mlp.down."))
            assert bool(first[name].any()) == writer, name
            assert bool(second[name].all()), name


@pytest.mark.parametrize("method", EXACT)
@pytest.mark.parametrize("norm", ["none", "layernorm", "rmsnorm"])
def test_every_entry_of_a_wider_model_has_a_gradient_within_two_steps(
    method: str, norm: str, tmp_path: Path
) -> None:
    make_model(tmp_path / "a.st", norm=norm, bias="all", jitter=0.05)
    grow_to(tmp_path / "a.st", tmp_path / "b.st", method, d_model=32, d_ff=192, seed=1)
    before, gradients = steps(tmp_path / "b.st", 2)
    for name in before:
        seen = (gradients[0][name] != 0) | (gradients[1][name] != 0)
        assert bool(seen.all()), (name, int((~seen).sum()))


def test_the_random_operator_is_a_fresh_model(tmp_path: Path) -> None:
    make_model(tmp_path / "a.st")
    found = grow_to(tmp_path / "a.st", tmp_path / "b.st", "random", d_model=32)
    assert not found.exact
    header, ours, model = read_model(tmp_path / "b.st")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, initial(ours, name, 0).double())
    assert header.lineage[-1].options["method"] == "random"


def test_the_random_operator_is_fresh_in_new_layers_too(tmp_path: Path) -> None:
    make_model(tmp_path / "a.st")
    grow_to(tmp_path / "a.st", tmp_path / "b.st", "random", n_layers=4)
    _, ours, model = read_model(tmp_path / "b.st")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, initial(ours, name, 0).double()), name


def test_identity_qkv_carries_what_the_experiments_code_carried(tmp_path: Path) -> None:
    make_model(tmp_path / "a.st", n_heads=1)
    grow_to(tmp_path / "a.st", tmp_path / "b.st", "identity-qkv", d_model=32)
    old, new = (read_model(tmp_path / n)[2].state_dict() for n in ("a.st", "b.st"))
    q = new["blocks.0.attention.q.weight"]
    assert torch.equal(q[:16, :16], old["blocks.0.attention.q.weight"])
    assert torch.equal(q[16:, 16:], torch.eye(16, dtype=q.dtype))
    assert not q[:16, 16:].any()
    assert not torch.equal(new["embed.weight"][:, :16], old["embed.weight"])


def test_identity_adds_the_small_matrix_to_an_identity(tmp_path: Path) -> None:
    make_model(tmp_path / "a.st", n_heads=1)
    grow_to(tmp_path / "a.st", tmp_path / "b.st", "identity", d_model=32)
    old, new = (read_model(tmp_path / n)[2].state_dict() for n in ("a.st", "b.st"))
    q = new["blocks.1.attention.q.weight"] - torch.eye(32, dtype=torch.float64)
    assert torch.allclose(q[:16, :16], old["blocks.1.attention.q.weight"])
    assert not q[16:].any()


def test_split_shares_are_unequal_and_sum_to_one(tmp_path: Path) -> None:
    make_model(tmp_path / "a.st", tied_head=True)
    grow_to(tmp_path / "a.st", tmp_path / "b.st", "split", d_model=32, d_ff=150, d_head=20)
    old, new = (read_model(tmp_path / n)[2].state_dict() for n in ("a.st", "b.st"))
    down = new["blocks.0.mlp.down.weight"]
    parts = torch.zeros(32, 64, dtype=torch.float64)
    parts.index_add_(1, torch.arange(150) % 64, down)
    assert torch.allclose(parts, old["blocks.0.mlp.down.weight"].repeat(2, 1))
    shares = down[:, :64] / parts
    assert float(shares.min()) > 0.1
    assert float(shares.max()) < 0.9
    assert float(shares.std()) > 0.05
    up = new["blocks.0.mlp.up.weight"]
    assert torch.allclose(up[:, :16] + up[:, 16:], old["blocks.0.mlp.up.weight"].repeat(3, 1)[:150])
    gain = new["head.norm.weight"]
    assert torch.allclose(gain[:16] + gain[16:], old["head.norm.weight"])
    assert not torch.allclose(gain[:16], gain[16:])


def copies_cosine(path: Path) -> float:
    """The mean cosine between the two copies of a column in the residual stream."""
    _, _, model = read_model(path)
    generator = torch.Generator().manual_seed(3)
    x = torch.randint(27, (64, 20), generator=generator)
    with torch.inference_mode():
        for _, stage in model.eval().stages()[:-1]:
            x = stage(x)
    columns = x.flatten(0, 1)  # (positions, D)
    first, second = columns.chunk(2, dim=1)  # (positions, D/2)
    return float(torch.cosine_similarity(first, second, dim=0).mean())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "dials", "parts"),
    [
        ("clone", {"noise": True, "noise_db": 10.0}, True),
        ("clone", {"noise": False}, False),
        ("split", {"unequal": 0.5}, True),
        ("split", {"unequal": 0.0}, False),
    ],
)
def test_copies_part_in_training_where_they_are_read_unequally(
    method: str,
    dials: dict[str, Any],
    parts: bool,
    data: Path,
    xtool: Run,
    tmp_path: Path,
) -> None:
    common = ["--precision", "fp64", "--threads", 1, "--batch-size", 16, "-q"]
    shape = ["--d-model", 16, "--n-heads", 2, "--n-layers", 2]
    done = xtool("train", data, *shape, *common, "--steps", 200, "-o", "a.st")
    assert done.code == 0, done.err
    assert grow_to(tmp_path / "a.st", tmp_path / "b.st", method, dials=dials, d_model=32).exact
    assert copies_cosine(tmp_path / "b.st") == pytest.approx(1, abs=1e-12)
    done = xtool("train", data, "--from", "b.st", *common, "--steps", 200, "-o", "c.st")
    assert done.code == 0, done.err
    cosine = copies_cosine(tmp_path / "c.st")
    print(method, dials, cosine)
    assert cosine < 0.999 if parts else cosine > 1 - 1e-9


@pytest.mark.parametrize(
    ("method", "layers"),
    [
        ("stack", [0, 1, 0, 1, 0, 1]),
        ("interleave", [0, 0, 0, 1, 1, 1]),
        ("passthrough", [0, 1, 1, 0, 1, 1]),
    ],
)
def test_repeated_blocks_are_copies_in_the_operators_order(
    method: str, layers: list[int], tmp_path: Path
) -> None:
    make_model(tmp_path / "a.st", bias="all")
    dials = {"slices": "0:2,1:2,0:2, 1:2"}
    found = grow_to(tmp_path / "a.st", tmp_path / "b.st", method, dials=dials, n_layers=6)
    assert not found.exact
    old, new = (read_model(tmp_path / n)[2].state_dict() for n in ("a.st", "b.st"))
    assert len(new) == len(old) + 4 * sum(name.startswith("blocks.0.") for name in old)
    for name, tensor in new.items():
        _, layer, rest = name.split(".", 2) if name.startswith("blocks.") else ("", "", name)
        source = f"blocks.{layers[int(layer)]}.{rest}" if layer else name
        assert torch.equal(tensor, old[source]), name


def test_passthrough_damps_what_repeated_blocks_write(tmp_path: Path) -> None:
    make_model(tmp_path / "a.st", bias="all", n_layers=3)
    for damp in (0.5, 0.0):
        dials = {"slices": "0:2,1:3,0:1", "damp": damp}
        found = grow_to(tmp_path / "a.st", tmp_path / f"{damp}.st", "passthrough", dials=dials)
        assert (found.difference == 0) == (damp == 0)
        old, new = (read_model(tmp_path / n)[2].state_dict() for n in ("a.st", f"{damp}.st"))
        for layer, (source, factor) in enumerate([(0, 1), (1, 1), (1, damp), (2, 1), (0, damp)]):
            for part in ("attention.o.weight", "mlp.down.bias"):
                was, now = old[f"blocks.{source}.{part}"], new[f"blocks.{layer}.{part}"]
                assert torch.equal(now, was * factor)
            up = "mlp.up.weight"
            assert torch.equal(new[f"blocks.{layer}.{up}"], old[f"blocks.{source}.{up}"])


@pytest.mark.parametrize("slices", ["0:3", "1:1", "x", "0:2,", "-1:2", "0-2", "0:2;0:2"])
def test_slices_that_are_none_are_refused(slices: str, tmp_path: Path) -> None:
    make_model(tmp_path / "a.st")
    with pytest.raises(UsageError, match="no slice of 2 blocks"):
        grow_to(tmp_path / "a.st", tmp_path / "b.st", "passthrough", dials={"slices": slices})
    none = {"slices": None}
    with pytest.raises(UsageError, match="no slices were given"):
        grow_to(tmp_path / "a.st", tmp_path / "b.st", "passthrough", dials=none, context=20)


def test_new_units_of_aki_are_those_of_the_next_layer(tmp_path: Path) -> None:
    make_model(tmp_path / "a.st", bias="all", n_layers=3)
    assert not grow_to(tmp_path / "a.st", tmp_path / "b.st", "aki", d_model=24).exact
    old, new = (read_model(tmp_path / n)[2].state_dict() for n in ("a.st", "b.st"))
    count = torch.tensor([2.0] * 8 + [1.0] * 8, dtype=torch.float64)  # copies of each old column
    for layer in range(3):
        above = min(layer + 1, 2)
        name = "blocks.{}.mlp.up.weight"
        for rows, source in ((slice(0, 64), layer), (slice(64, 96), above)):
            was = old[name.format(source)][: rows.stop - rows.start] / count
            assert torch.allclose(new[name.format(layer)][rows], torch.cat([was, was[:, :8]], 1))
        assert torch.equal(
            new[f"blocks.{layer}.mlp.up.bias"][64:], old[f"blocks.{above}.mlp.up.bias"][:32]
        )
    assert torch.equal(new["embed.weight"][:, 16:], old["embed.weight"][:, :8])


@pytest.mark.parametrize("method", [name for name in OPERATORS if name != "learned"])
def test_new_positions_and_symbols_are_fresh_and_old_ones_stay(method: str, tmp_path: Path) -> None:
    make_model(tmp_path / "a.st", tied_head=True, positions="learned")
    found = grow_to(tmp_path / "a.st", tmp_path / "b.st", method, context=30, vocab_size=60)
    assert found.difference == 0 or promise(method) != "exact"
    old, new = (read_model(tmp_path / n)[2].state_dict() for n in ("a.st", "b.st"))
    ours = read_model(tmp_path / "b.st")[1]
    for name in ("embed.weight", "embed.positions"):
        kept = len(old[name])
        fresh = initial(ours, name, 0).double()
        assert torch.equal(new[name][kept:], fresh[kept:])
        assert method in ("random", "identity-qkv") or torch.equal(new[name][:kept], old[name])


def test_a_table_of_positions_goes_on_at_its_own_width_only(tmp_path: Path) -> None:
    for kind in ("sinusoidal", "sinusoidal-unpaired"):
        path = tmp_path / "a.st"
        make_model(path, positions=kind)
        assert grow_to(path, tmp_path / "b.st", "pad", context=30).difference == 0
        longer = read_model(tmp_path / "b.st")[2].state_dict()["embed.positions"]
        assert torch.allclose(longer, table(kind, 30, 16))
        with pytest.raises(UsageError, match="fixed table of positions"):
            grow_to(path, tmp_path / "c.st", "pad", context=30, d_model=32)
        grow_to(path, tmp_path / "c.st", "pad", d_model=32)
        with pytest.raises(UsageError, match="fixed table of positions"):
            grow_to(tmp_path / "c.st", tmp_path / "d.st", "pad", context=30)
        for name in ("b.st", "c.st"):
            (tmp_path / name).unlink()


def test_outputs_that_are_the_symbols_grow_and_shrink_with_them(tmp_path: Path) -> None:
    make_model(tmp_path / "a.st", shape=Shape(27, 12, 27), bias="all")
    assert grow_to(tmp_path / "a.st", tmp_path / "b.st", "pad", vocab_size=40).exact
    new = read_model(tmp_path / "b.st")[2].state_dict()
    assert new["head.weight"].shape == (40, 16)
    slice_model(tmp_path / "b.st", tmp_path / "c.st", {"vocab_size": 27})
    old, back = (read_model(tmp_path / n)[2].state_dict() for n in ("a.st", "c.st"))
    assert all(torch.equal(old[name], back[name]) for name in old)


def test_a_slice_in_context_answers_short_inputs_alike(tmp_path: Path) -> None:
    for positions in ("none", "learned", "sinusoidal"):
        make_model(tmp_path / "a.st", positions=positions)
        (tmp_path / "b.st").unlink(missing_ok=True)
        slice_model(tmp_path / "a.st", tmp_path / "b.st", {"context": 5, "vocab_size": 9})
        large, small = (read_model(tmp_path / n)[2].eval() for n in ("a.st", "b.st"))
        symbols = torch.arange(10).view(2, 5) % 9
        assert torch.equal(large(symbols), small(symbols))


@pytest.mark.parametrize(("heads", "near"), [(2, "32, 40"), (4, "36, 40")])
def test_widths_that_the_heads_do_not_divide_name_the_nearest_that_they_do(
    heads: int, near: str, tmp_path: Path
) -> None:
    make_model(tmp_path / "a.st", n_heads=heads, attention_output=False, norm="none")
    for method in EXACT:
        with pytest.raises(UsageError) as error:
            grow_to(tmp_path / "a.st", tmp_path / "b.st", method, d_model=38)
        assert f"nearest widths: {near};" in error.value.hint
    for width in map(int, near.split(", ")):
        out = tmp_path / f"{width}.st"
        assert grow_to(tmp_path / "a.st", out, "pad", d_model=width).exact


def test_double_repeats_and_does_not_divide(tmp_path: Path) -> None:
    make_model(tmp_path / "a.st")
    grow_to(tmp_path / "a.st", tmp_path / "b.st", "double", d_model=32)
    old, new = (read_model(tmp_path / n)[2].state_dict() for n in ("a.st", "b.st"))
    name = "blocks.0.mlp.up.weight"
    assert torch.equal(new[name], old[name].repeat_interleave(2, 0).repeat_interleave(2, 1))


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("auto", {"d_model": 8}, r"cannot grow `d_model` 16 -> 8"),
        ("clone", {"d_model": 24}, "nearest: 32"),
        ("pad", {"d_model": 16}, "nothing to grow"),
        ("pad", {"n_loops": 3}, "no dial `n_loops`"),
        ("pad", {"d_ff": 0}, "cannot grow"),
        ("stack", {"n_layers": 5}, "nearest: 4, 6"),
        ("stack", {"n_layers": 4, "d_model": 32}, "leaves `d_model` 16 as it is, not 32"),
        ("interleave", {"d_ff": 70}, "leaves `d_ff` 64 as it is, not 70"),
        ("split", {"d_model": 40}, "nearest: 32, 48"),
        ("passthrough", {"n_layers": 3}, "`--slices 0:2,0:2` has 4 blocks, `--n-layers` is 3"),
        ("passthrough", {"d_ff": 70}, "leaves `d_ff` 64 as it is, not 70"),
        ("aki", {"n_layers": 3}, "leaves `n_layers` 2 as it is, not 3"),
    ],
)
def test_what_cannot_be_grown_is_refused_with_its_reason(
    method: str, changes: dict[str, int], message: str, tmp_path: Path
) -> None:
    make_model(tmp_path / "a.st")
    with pytest.raises(UsageError) as error:
        grow_to(tmp_path / "a.st", tmp_path / "b.st", method, **changes)
    assert message.replace("\\", "") in error.value.message
    assert os.listdir(tmp_path) == ["a.st"]


def test_auto_is_pad_where_pad_is_exact_else_clone_else_an_error(tmp_path: Path) -> None:
    def chosen(**dials: Any) -> str:
        make_model(tmp_path / "a.st", **dials)
        with Source(tmp_path / "a.st") as source:
            reader = Reader(source, layout(source.require_header().config))
            dials = resolve(options("surgery/operators", "clone"), [])
            return plan(reader, {"d_model": dials.pop("to", 32)}, "auto", dials, 0).method

    assert chosen() == "pad"
    assert chosen(attention_output=False) == "clone"
    make_model(tmp_path / "a.st", attention_output=False)
    with pytest.raises(UsageError, match=r"no exact operator fits: pad: .*; clone: "):
        grow_to(tmp_path / "a.st", tmp_path / "b.st", "auto", d_model=24)


@pytest.mark.parametrize(
    "changes", [{"n_kv_heads": 3}, {"n_kv_heads": 8, "n_heads": 24}], ids=["not whole", "both"]
)
def test_groups_of_queries_part_by_whole_factors_alone(
    changes: dict[str, int], tmp_path: Path
) -> None:
    make_model(tmp_path / "a.st", n_heads=12, n_kv_heads=2, d_head=4)
    with pytest.raises(UsageError, match="fewer queries for each") as error:
        grow_to(tmp_path / "a.st", tmp_path / "b.st", "pad", **changes)
    assert "`--n-kv-heads` first" in error.value.hint
    with pytest.raises(UsageError, match="`n_heads/n_kv_heads` would grow from 6 to 12"):
        slice_model(tmp_path / "a.st", tmp_path / "b.st", {"n_kv_heads": 1})
    assert os.listdir(tmp_path) == ["a.st"]


def test_a_slice_of_grouped_heads_keeps_each_querys_keys(tmp_path: Path) -> None:
    make_model(tmp_path / "a.st", n_heads=4, n_kv_heads=2, positions="rotary", bias="all")
    slice_model(tmp_path / "a.st", tmp_path / "b.st", {"n_heads": 2})
    slice_model(tmp_path / "a.st", tmp_path / "c.st", {"n_heads": 2, "n_kv_heads": 2})
    parent, one, two = (read_model(tmp_path / f"{name}.st")[2].state_dict() for name in "abc")
    q, k = "blocks.0.attention.q.weight", "blocks.0.attention.k.weight"
    heads = parent[q].unflatten(0, (4, -1))
    assert torch.equal(one[q], heads[[0, 1]].flatten(0, 1))
    assert torch.equal(two[q], heads[[0, 2]].flatten(0, 1))
    assert torch.equal(one[k], parent[k][:4])
    assert torch.equal(two[k], parent[k])


def test_a_slice_is_a_prefix_and_a_slice_of_a_slice_is_the_direct_one(tmp_path: Path) -> None:
    make_model(tmp_path / "a.st", d_model=32, n_heads=4, bias="all")
    slice_model(tmp_path / "a.st", tmp_path / "24.st", {"d_model": 24})
    slice_model(tmp_path / "24.st", tmp_path / "24-16.st", {"d_model": 16, "n_layers": 1})
    slice_model(tmp_path / "a.st", tmp_path / "16.st", {"d_model": 16, "n_layers": 1})
    large, direct, twice = (
        read_model(tmp_path / n)[2].state_dict() for n in ("a.st", "16.st", "24-16.st")
    )
    assert list(direct) == list(twice)
    for name in direct:
        assert torch.equal(direct[name], twice[name])
        assert torch.equal(
            direct[name], large[name][tuple(slice(0, n) for n in direct[name].shape)]
        )


def test_a_slice_that_is_no_prefix_is_caught_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model(tmp_path / "a.st", d_model=32)
    shifted = lambda *args: gather.gather(*args) + 1  # noqa: E731
    monkeypatch.setattr("xtool.surgery.slice.gather", shifted)
    with pytest.raises(CheckFailed, match="not a part of the parent"):
        slice_model(tmp_path / "a.st", tmp_path / "b.st", {"d_model": 16})
    assert os.listdir(tmp_path) == ["a.st"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_model": 20}, "nearest widths"),
        ({"d_model": 64}, "cannot slice"),
        ({"d_model": 32}, "nothing to slice"),
    ],
)
def test_what_cannot_be_sliced_is_refused(
    changes: dict[str, int], message: str, tmp_path: Path
) -> None:
    make_model(tmp_path / "a.st", d_model=32, n_heads=4)
    with pytest.raises(UsageError) as error:
        slice_model(tmp_path / "a.st", tmp_path / "b.st", changes)
    assert message in error.value.message + error.value.hint
    assert os.listdir(tmp_path) == ["a.st"]


OWN = """
PROMISE = "approximate"
CONDITION = "any width"


class Zeros:
    def rows(self, growth, name, start, stop):
        return growth.reader.rows(growth.source(name), 0, 1).new_zeros(
            stop - start, *growth.new.shape(name)[1:]
        )


ENTRY = Zeros()
"""


def test_an_operator_needs_to_give_rows_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "zeros.py").write_text(OWN)
    name = registry.admit(str(tmp_path / "zeros.py"))
    make_model(tmp_path / "a.st")
    grow_to(tmp_path / "a.st", tmp_path / "b.st", name, d_model=24)
    assert not read_model(tmp_path / "b.st")[2].state_dict()["embed.weight"].any()


def test_a_model_that_lacks_a_tensor_is_neither_grown_nor_sliced(tmp_path: Path) -> None:
    make_model(tmp_path / "whole.st")
    header, tensors = checkpoint.load(tmp_path / "whole.st", "model")
    name = "blocks.1.mlp.up.weight"
    del tensors[name]
    checkpoint.save(tmp_path / "a.st", header, tensors)

    def make(reader: Reader) -> Plan:
        return plan(reader, {"d_model": 32}, "pad", {}, 0)

    for proving in (Proving(), Proving(wanted=False)):
        with pytest.raises(XtoolError, match=f"lacks tensor `{name}`"):
            grow(tmp_path / "a.st", tmp_path / "b.st", make, proving)
    with pytest.raises(XtoolError, match=f"lacks tensor `{name}`"):
        slice_model(tmp_path / "a.st", tmp_path / "b.st", {"d_model": 8})
    assert sorted(os.listdir(tmp_path)) == ["a.st", "whole.st"]


def test_the_streamed_forward_pass_is_the_model(tmp_path: Path) -> None:
    make_model(tmp_path / "a.st", tied_head=True, positions="sinusoidal")
    _, ours, model = read_model(tmp_path / "a.st")
    symbols = torch.arange(24).view(2, 12)
    with Source(tmp_path / "a.st") as source:
        x, read_last = proof.walk(Reader(source, ours), symbols)
        streamed = read_last()(x)
    assert torch.equal(streamed, model.eval()(symbols))


SIZES = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 6)), min_size=1, max_size=3)


@given(SIZES)
def test_the_map_of_an_axis_is_its_factors_cut_or_padded(sizes: list[tuple[int, int]]) -> None:
    was, now = zip(*sizes, strict=True)
    places = torch.arange(prod(was)).view(was)
    wanted = torch.full(now, -1)
    kept = tuple(slice(min(size)) for size in sizes)
    wanted[kept] = places[kept]
    factors = tuple((old, new, gather.prefix) for old, new in sizes)
    assert gather.axis_map(factors).tolist() == wanted.flatten().tolist()


def test_whole_copies_and_repeats() -> None:
    assert gather.axis_map(((2, 6, gather.tile),)).tolist() == [0, 1, 0, 1, 0, 1]
    assert gather.axis_map(((2, 4, gather.repeat),)).tolist() == [0, 0, 1, 1]


def test_a_model_of_another_shape_than_its_header_is_refused(tmp_path: Path) -> None:
    config = configuration()
    build(config)
    with pytest.raises(XtoolError, match="the model's configuration"):
        build(config | {"n_heads": 3, "d_head": None})


@pytest.mark.parametrize("heads", [3, 8])
def test_heads_of_keys_that_do_not_divide_those_of_queries_are_refused(
    heads: int, tmp_path: Path
) -> None:
    make_model(tmp_path / "a.st", n_heads=4, n_kv_heads=1)
    with pytest.raises(UsageError, match=r"`n_heads` \(4\) must be divisible by `n_kv_heads`"):
        grow_to(tmp_path / "a.st", tmp_path / "b.st", "auto", n_kv_heads=heads)


def test_one_reason_of_all_exact_operators_is_given_once(tmp_path: Path) -> None:
    make_model(tmp_path / "a.st", positions="sinusoidal")
    with pytest.raises(UsageError) as found:
        grow_to(tmp_path / "a.st", tmp_path / "b.st", "auto", d_model=32, context=20)
    assert found.value.message.startswith("`context` grows with a fixed table")
    assert found.value.hint.startswith("grow `--context` first")


def test_passthrough_without_slices_says_so_whatever_was_asked(tmp_path: Path) -> None:
    make_model(tmp_path / "a.st")
    with pytest.raises(UsageError, match="no slices were given"):
        grow_to(
            tmp_path / "a.st", tmp_path / "b.st", "passthrough", dials={"slices": None}, n_layers=4
        )


@pytest.mark.parametrize("method", EXACT)
@pytest.mark.parametrize(
    "dials",
    [
        {"attention": "qk-norm", "positions": "rotary"},
        {"attention": "average", "n_heads": 4, "n_kv_heads": 2},
        {"activation": "relu2", "residual": False},
        {"activation": "none", "bias": "all"},
        {"d_ff": 0},
    ],
    ids=str,
)
def test_exact_operators_keep_every_choice_of_layers(
    method: str, dials: dict[str, Any], tmp_path: Path
) -> None:
    make_model(tmp_path / "a.st", **({"n_heads": 2, "norm": "rmsnorm"} | dials))
    changes: list[dict[str, int]] = [{"d_model": 32}, {"n_layers": 4}]
    for change in changes:
        out = tmp_path / "b.st"
        out.unlink(missing_ok=True)
        deeper = "n_layers" in change
        if deeper and dials.get("residual") is False:
            with pytest.raises(UsageError, match="no new block is the identity"):
                grow_to(tmp_path / "a.st", out, method, **change)
            continue
        assert grow_to(tmp_path / "a.st", out, method, **change).exact, change
    if dials.get("attention") == "qk-norm":
        with pytest.raises(UsageError, match="`qk-norm` depends on `d_head`"):
            grow_to(tmp_path / "a.st", tmp_path / "c.st", method, d_head=16)


def test_what_an_operator_cannot_take_is_refused_before_it_writes(
    xtool: Run, tmp_path: Path
) -> None:
    make_model(tmp_path / "a.st", torch.float32)
    make_model(tmp_path / "none.st", torch.float32, d_ff=0)
    make_model(tmp_path / "bi.st", torch.float32, arch="bigram")
    before = sorted(os.listdir(tmp_path))
    for args, message in (
        (["a.st", "--to", 32, "--method", "clone", "--noise-db", -10000], "must be -200 to 200"),
        (["none.st", "--d-ff", 100], "no dial `d_ff` to change"),
    ):
        done = xtool("grow", *args, "-o", "b.st")
        assert (done.code, message in done.err) == (2, True), done
        assert sorted(os.listdir(tmp_path)) == before
    done = xtool("grow", "bi.st", "--context", 16, "--method", "split", "-o", "b.st")
    assert done.code == 0, done.err
