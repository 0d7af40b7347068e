"""The spectral operator: the promised singular values, aligned with the old matrix's own."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run, make_model

from xtool.axes import layout
from xtool.checkpoint import Reader
from xtool.config import options, resolve
from xtool.layers.initial import initial
from xtool.storage import Source
from xtool.surgery.operators.spectral import extended
from xtool.surgery.plan import Plan, plan
from xtool.tasks import Shape

MATRICES = [
    "blocks.0.attention.q.weight",
    "blocks.1.attention.o.weight",
    "blocks.0.mlp.up.weight",
    "blocks.1.mlp.down.weight",
    "head.weight",
]
SHAPES = [{"d_model": 32}, {"d_model": 50}, {"d_ff": 70}, {"d_model": 24, "n_layers": 3}]


@pytest.fixture
def planned(tmp_path: Path) -> Any:
    """A growth of a model of width 16, planned but not written."""
    opened = []

    def make(changes: dict[str, int], model: dict[str, Any] | None = None, **dials: Any) -> Plan:
        make_model(tmp_path / "a.st", **(model or {}))
        source = Source(tmp_path / "a.st").__enter__()
        opened.append(source)
        reader = Reader(source, layout(source.require_header().config))
        values = resolve(options("surgery/operators", "spectral"), [("test", dials)])
        return plan(reader, changes, "spectral", values, 3)

    yield make
    for source in opened:
        source.__exit__(None, None, None)


def whole(made: Plan, name: str) -> torch.Tensor:
    return made.rows(name, 0, made.growth.new.shape(name)[0])


@pytest.mark.parametrize("spectrum", ["resample", "continue"])
@pytest.mark.parametrize("scale", ["keep", "fan-in", "carry"])
@pytest.mark.parametrize("changes", SHAPES, ids=str)
@pytest.mark.parametrize("name", MATRICES)
def test_the_spectrum_is_the_promised_one_and_the_carried_block_is_aligned(
    name: str, changes: dict[str, int], scale: str, spectrum: str, planned: Any
) -> None:
    made = planned(changes, scale=scale, spectrum=spectrum)
    old, new = made.growth.reader.tensor(name), whole(made, name)
    if old.shape == new.shape:
        assert torch.equal(old, new)
        return
    values = torch.linalg.svdvals(old)
    wanted = extended(values, min(new.shape), spectrum)
    power, fresh = new.square().sum(), initial(made.growth.new, name, 3).double().square().sum()
    factor = (power / wanted.square().sum()).sqrt()
    if scale == "keep":
        assert power / new.shape[0] == pytest.approx(old.square().sum() / old.shape[0])
    elif scale == "fan-in":
        assert power == pytest.approx(fresh)
    else:
        assert factor == pytest.approx(1)
    found = torch.linalg.svdvals(new)
    assert torch.allclose(found, (factor * wanted).sort(descending=True)[0], rtol=0, atol=1e-10)
    m, n = old.shape
    u, _, vt = torch.linalg.svd(old, full_matrices=False)
    right = torch.nn.functional.pad(vt, (0, new.shape[1] - n))
    left = torch.nn.functional.pad(u.T, (0, new.shape[0] - m))
    assert torch.allclose(new @ right.T, factor * left.T * values, atol=1e-10)
    assert torch.allclose(left @ new, factor * values[:, None] * right, atol=1e-10)


def test_a_resampled_spectrum_of_twice_the_rank_is_each_value_twice() -> None:
    small = torch.tensor([5.0, 3.0, 1.0], dtype=torch.float64)
    assert extended(small, 6, "resample").tolist() == [5, 3, 1, 5, 3, 1]
    assert extended(small, 5, "resample").tolist() == [5, 3, 1, 4.5, 1.5]
    assert extended(small, 9, "resample").tolist() == [5, 3, 1, 5, 4.5, 3.5, 2.5, 1.5, 1]
    halving = torch.tensor([4.0, 2.0, 1.0], dtype=torch.float64)
    assert extended(halving, 5, "continue").tolist() == pytest.approx([4, 2, 1, 0.5, 0.25])
    assert extended(torch.zeros(2).double(), 4, "continue").tolist() == [0, 0, 0, 0]
    assert extended(small[:1], 3, "continue").tolist() == [5, 5, 5]


def test_a_random_input_keeps_its_output_variance(planned: Any) -> None:
    made = planned({"d_model": 48})
    inputs = torch.randn(4000, 48, generator=torch.Generator().manual_seed(0)).double()
    for name in MATRICES[:3]:
        old, new = made.growth.reader.tensor(name), whole(made, name)
        before = (inputs[:, : old.shape[1]] @ old.T).var()
        assert float((inputs[:, : new.shape[1]] @ new.T).var() / before) == pytest.approx(
            1, abs=0.1
        )


def test_a_table_of_vectors_keeps_its_rows_and_its_power(planned: Any) -> None:
    made = planned({"d_model": 64})
    old, new = made.growth.reader.tensor("embed.weight"), whole(made, "embed.weight")
    assert torch.equal(new[:, :16], old)
    ratio = new[:, 16:].square().mean() / old.square().mean()
    assert float(ratio) == pytest.approx(1, abs=0.15)
    gain = whole(made, "head.norm.weight")
    assert torch.equal(gain[:16], made.growth.reader.tensor("head.norm.weight"))
    assert gain[16:].tolist() == [1.0] * 48


def test_a_tied_table_is_a_matrix_and_a_fixed_one_stays_fixed(planned: Any) -> None:
    made = planned({"d_model": 24}, {"tied_head": True, "positions": "sinusoidal"})
    old, new = made.growth.reader.tensor("embed.weight"), whole(made, "embed.weight")
    values = torch.linalg.svdvals(new)
    wanted = extended(torch.linalg.svdvals(old), 24, "resample").sort(descending=True)[0]
    assert torch.allclose(values / values[0], wanted / wanted[0], atol=1e-10)
    table = whole(made, "embed.positions")
    assert torch.equal(table[:, 16:], initial(made.growth.new, "embed.positions", 3)[:, 16:])


K, V = "blocks.0.attention.k.weight", "blocks.0.attention.v.weight"
GROUPED = {"n_heads": 4, "n_kv_heads": 2, "bias": "all"}


@pytest.mark.parametrize("scale", ["keep", "fan-in", "carry"])
def test_copied_heads_of_keys_are_the_old_ones(scale: str, planned: Any) -> None:
    made = planned({"n_kv_heads": 4}, GROUPED, scale=scale)
    for name in made.names():
        old = made.growth.reader.tensor(name)
        if name.endswith(("k.weight", "v.weight", "v.bias")):
            old = old.unflatten(0, (2, -1)).repeat_interleave(2, 0).flatten(0, 1)
        assert torch.equal(whole(made, name), old), name


def test_copied_heads_of_keys_are_those_of_the_grown_matrix(planned: Any) -> None:
    sizes = {"n_heads": 4, "d_model": 48, "d_ff": 64}
    alone = planned(sizes | {"n_kv_heads": 2}, GROUPED)
    copied = planned(sizes | {"n_kv_heads": 4}, GROUPED)
    for name in (K, V):
        heads = whole(alone, name).unflatten(0, (2, -1)).repeat_interleave(2, 0)
        assert torch.equal(whole(copied, name), heads.flatten(0, 1))


@pytest.mark.parametrize("scale", ["keep", "fan-in", "carry"])
def test_new_symbols_leave_the_matrix_of_the_old_ones_as_it_is(scale: str, planned: Any) -> None:
    model = {"shape": Shape(27, 12, 27)}
    for width, tied in ((16, False), (16, True), (40, False), (40, True)):
        name = "embed.weight" if tied else "head.weight"
        both = planned(
            {"d_model": width, "vocab_size": 60}, model | {"tied_head": tied}, scale=scale
        )
        head = whole(both, name)
        assert torch.equal(head[27:], initial(both.growth.new, name, 3)[27:].double())
        if width == 16:
            assert torch.equal(head[:27], both.growth.reader.tensor(name))
        else:
            alone = planned({"d_model": width}, model | {"tied_head": tied}, scale=scale)
            assert torch.allclose(head[:27], whole(alone, name), rtol=0.05 * (scale == "fan-in"))


def test_one_matrix_at_a_time_is_held(planned: Any) -> None:
    made = planned({"d_model": 32})
    for name in made.names():
        made.rows(name, 0, 1)
        held = [v for k, v in made.growth.memory.items() if not k.startswith("maps")]
        assert len(held) <= 1


def test_carry_keeps_the_scores_of_what_is_carried(planned: Any) -> None:
    made = planned({"d_head": 16}, {"bias": "all"}, scale="carry")
    name = "blocks.0.attention.q.bias"
    old, new = made.growth.reader.tensor(name).view(2, 8), whole(made, name).view(2, 16)
    assert torch.allclose(new[:, :8], old * 2**0.5)
    assert not new[:, 8:].any()


def test_the_command_says_that_it_is_approximate(xtool: Run, tmp_path: Path) -> None:
    make_model(tmp_path / "m.st")
    done = xtool("grow", "m.st", "--to", 24, "--method", "spectral", "--scale", "carry")
    assert done.code == 0, done.err
    assert "spectral (approximate" in done.err
