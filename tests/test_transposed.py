"""Weights stored transposed: the axes say so, and everything else follows from them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from conftest import dials_of, grow_to, make_model

from xtool import registry
from xtool.archs import read_model
from xtool.axes import layout
from xtool.checkpoint import Reader
from xtool.layers.initial import initial
from xtool.storage import Source
from xtool.surgery.plan import Plan, plan
from xtool.surgery.slice import slice_model
from xtool.tasks import Shape

OWN = Path(__file__).with_name("transposed.py")
WHOLE: list[dict[str, int]] = [
    {"d_model": 48},
    {"d_ff": 48},
    {"d_head": 16},
    {"n_heads": 6},
    {"d_model": 32, "n_layers": 4},
    {"vocab_size": 40},
]
OTHER: list[dict[str, int]] = [{"d_model": 40}, {"d_ff": 31}, {"d_head": 11}, {"n_heads": 3}]


@pytest.fixture
def arch() -> str:
    return registry.admit(str(OWN))


@pytest.mark.parametrize("norm", ["none", "layernorm", "rmsnorm"])
@pytest.mark.parametrize("method", ["pad", "clone", "split"])
def test_exact_operators_keep_the_logits(method: str, norm: str, arch: str, tmp_path: Path) -> None:
    make_model(tmp_path / "a.st", arch=arch, norm=norm, shape=Shape(27, 12, 27))
    for change in [*WHOLE, *(OTHER if method == "pad" else [])]:
        (tmp_path / "b.st").unlink(missing_ok=True)
        assert grow_to(tmp_path / "a.st", tmp_path / "b.st", method, **change).exact, change


def test_first_values_take_the_summed_axis_for_the_fan_in(arch: str, tmp_path: Path) -> None:
    ours = layout(make_model(tmp_path / "a.st", arch=arch, d_model=64, d_ff=400, n_layers=4))
    for name, most in {"up": 64**-0.5, "down": 400**-0.5 / 2, "o": 16**-0.5 / 2}.items():
        values = initial(ours, f"blocks.0.{name}", 0)
        assert most * 0.99 < float(values.abs().max()) <= most
    assert float(initial(ours, "embed.weight", 0).std()) == pytest.approx(1, abs=0.1)


@pytest.fixture
def planned(arch: str, tmp_path: Path) -> Iterator[Callable[..., Plan]]:
    """A growth of a model of 3 layers, planned but not written."""
    with ExitStack() as stack:

        def make(method: str, **changes: int) -> Plan:
            make_model(tmp_path / "a.st", arch=arch, shape=Shape(27, 12, 27), n_layers=3)
            source = stack.enter_context(Source(tmp_path / "a.st"))
            reader = Reader(source, layout(source.require_header().config))
            return plan(reader, changes, method, dials_of(method, tmp_path), 0)

        yield make


def both(made: Plan, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A tensor before and after, the grown one made in blocks of rows."""
    stop = made.growth.new.shape(name)[0]
    parts = [made.rows(name, at, min(at + 7, stop)) for at in range(0, stop, 7)]
    return made.growth.reader.tensor(name), torch.cat(parts).double()


def test_copies_of_an_input_have_paired_noise_of_the_asked_power(
    planned: Callable[..., Plan],
) -> None:
    old, new = both(planned("clone", d_model=48), "blocks.0.up")  # (16, 24), (3*16, 3*24)
    old = (old / 3).repeat(1, 3)  # (16, 72)
    first, second, odd = new.view(3, 16, 72)
    assert torch.allclose(first + second, 2 * old, atol=1e-12)
    assert torch.allclose(odd, old, atol=1e-15)
    noise = (first - second) / 2
    power = old.square().mean() / noise.square().mean()
    assert 10 * torch.log10(power) == pytest.approx(10, abs=1e-6)
    assert abs(float(noise.sign().mean())) < 0.1


@pytest.mark.parametrize("method", ["pad", "clone", "split", "spectral", "identity"])
def test_new_symbols_are_fresh_columns(method: str, planned: Callable[..., Plan]) -> None:
    made = planned(method, vocab_size=40)
    for name in ("embed.weight", "head.weight"):
        old, new = both(made, name)
        assert torch.equal(new[:, 27:], initial(made.growth.new, name, 0).double()[:, 27:])
        assert torch.equal(new[:, :27], old)


def test_new_units_of_aki_are_columns_of_the_next_layer(planned: Callable[..., Plan]) -> None:
    made = planned("aki", d_ff=36)
    (old, new), (above, _) = both(made, "blocks.0.up"), both(made, "blocks.1.up")
    assert torch.equal(new[:, :24], old)
    assert torch.equal(new[:, 24:], above[:, :12])


def test_a_spectrum_keeps_its_power_for_each_output(planned: Callable[..., Plan]) -> None:
    old, new = both(planned("spectral", d_model=32), "blocks.0.up")
    assert float(new.square().sum() / 48) == pytest.approx(float(old.square().sum() / 24))


def test_a_slice_is_a_prefix(arch: str, tmp_path: Path) -> None:
    make_model(tmp_path / "a.st", arch=arch)
    slice_model(tmp_path / "a.st", tmp_path / "b.st", {"d_ff": 10, "n_layers": 1})
    large, small = (read_model(tmp_path / n)[2].state_dict() for n in ("a.st", "b.st"))
    assert torch.equal(small["blocks.0.down"], large["blocks.0.down"][:10])
    assert torch.equal(small["blocks.0.up"], large["blocks.0.up"][:, :10])
