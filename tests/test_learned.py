"""The learned operator: exact before the fit, better after it, and its cost counted."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run, make_examples, make_model

from xtool.archs import architecture, read_model
from xtool.checkpoint import Reader
from xtool.config import options, resolve
from xtool.errors import UsageError, XtoolError
from xtool.evaluation.score import scores
from xtool.surgery.grow import grow
from xtool.surgery.plan import Plan, plan
from xtool.surgery.proof import Proof
from xtool.tasks import open_data, task_of
from xtool.training.costs import costs_of

VARIANTS = [
    {"bias": "all", "n_heads": 1},
    {"norm": "rmsnorm", "activation": "swiglu", "tied_head": True},
    {"norm": "none", "tied_head": True, "positions": "sinusoidal"},
    {"attention_output": False, "n_heads": 1, "score_scale": "d_model", "bias": "mlp"},
    {"d_hidden": 12, "d_head": 6, "d_value": 10, "bias": "all", "positions": "learned"},
]
CHANGES = [
    {"d_model": 32},
    {"d_model": 48},
    {"d_model": 50},
    {"d_ff": 70},
    {"n_layers": 4},
    {"d_model": 24, "n_layers": 3},
]


def grow_learned(
    folder: Path, changes: dict[str, int], out: str = "b.st", method: str = "learned", **dials: Any
) -> tuple[Plan, Proof]:
    """Grow `a.st`, fitted to 96 examples."""
    if not (folder / "data.st").exists():
        make_examples(folder / "data.st")
    given = {"data": str(folder / "data.st")} | dials
    values = resolve(options("surgery/operators", method), [("test", given)])

    def make(reader: Reader) -> Plan:
        return plan(reader, changes, method, values, 0)

    return grow(folder / "a.st", folder / out, make)[:2]


def training_loss(folder: Path, model: str) -> float:
    data = open_data(folder / "data.st")
    found = scores(read_model(folder / model)[2], task_of(data.header, "x"), data.split("train"))
    return float(found["loss"].mean())


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_without_a_step_the_logits_stay(
    changes: dict[str, int], variant: dict[str, Any], tmp_path: Path
) -> None:
    make_model(tmp_path / "a.st", **variant)
    made, found = grow_learned(tmp_path, changes, fit_steps=0)
    assert found.exact, found
    assert made.fit().flops == 0


@pytest.mark.parametrize("variant", VARIANTS[:2] + VARIANTS[3:], ids=str)
def test_without_a_step_and_noise_it_is_clone(variant: dict[str, Any], tmp_path: Path) -> None:
    make_model(tmp_path / "a.st", **variant)
    grow_learned(tmp_path, {"d_model": 32}, fit_steps=0, noise=False)
    grow_learned(tmp_path, {"d_model": 32}, "c.st", "clone", noise=False)
    ours, theirs = (read_model(tmp_path / n)[2].state_dict() for n in ("b.st", "c.st"))
    for name in theirs:
        assert torch.allclose(ours[name], theirs[name], rtol=0, atol=1e-12), name


@pytest.mark.parametrize(
    "changes", [{"d_model": 32}, {"d_model": 24, "n_layers": 3}, {"n_layers": 3}], ids=str
)
def test_the_fit_lowers_the_training_loss_and_its_flops_are_counted(
    changes: dict[str, int], tmp_path: Path
) -> None:
    make_model(tmp_path / "a.st")
    made, _ = grow_learned(tmp_path, changes, fit_steps=30, fit_batch=20, fit_lr=3e-3)
    assert training_loss(tmp_path, "b.st") < training_loss(tmp_path, "a.st") - 0.05
    header = read_model(tmp_path / "b.st")[0]
    examples = 6 * 96  # thirty steps of twenty, the last of each epoch sixteen
    least = 3 * architecture(header.config).flops(header.config) * examples
    counted = header.training["progress"]["lineage_flops"]
    assert counted > least
    assert counted == made.fit().flops
    assert f"{training_loss(tmp_path, 'a.st'):.4f} -> " in made.fit().note


def test_a_fit_over_a_ramp_costs_the_loops_of_each_step(tmp_path: Path) -> None:
    loops = {"arch": "looped", "norm": "none", "positions": "none", "n_heads": 1, "n_loops": 4}
    make_model(tmp_path / "a.st", **loops, loops_from=1, loops_every=2)
    made, _ = grow_learned(tmp_path, {"d_ff": 128}, fit_steps=6, fit_batch=96)
    config = made.growth.new.config
    each = [dict(costs_of(config | {"loops_from": 1}))[at] for at in (0, 2, 4)]
    assert each[0] < each[1] < each[2]
    maps = made.fit().flops - 2 * 96 * sum(each)
    assert maps == 3 * 6 * 2 * 2 * (2 * 128 * 64 * 16)


def test_making_the_tensors_costs_the_products_of_their_maps(tmp_path: Path) -> None:
    make_model(tmp_path / "a.st", norm="none", positions="none", n_heads=1)
    made, _ = grow_learned(tmp_path, {"d_ff": 128}, fit_steps=1, fit_batch=96)
    forward = architecture(made.growth.new.config).flops(made.growth.new.config) * 96
    up_and_down = 2 * (2 * 128 * 64 * 16)
    assert made.fit().flops == 3 * (forward + 2 * up_and_down)  # two layers


def test_the_cost_adds_to_that_of_the_small_model_and_to_what_follows(
    data: Path, xtool: Run, tmp_path: Path
) -> None:
    tiny = ["--d-model", 8, "--batch-size", 8, "--threads", 1, "-q"]
    fit = ["--data", data, "--fit-steps", 3, "--fit-batch", 8]
    for small, steps, out in (("o", 0, "p"), ("m", 2, "g")):
        assert xtool("train", data, *tiny, "--steps", steps, "-o", f"{small}.st").code == 0
        command = ["grow", f"{small}.st", "--to", 16, "--method", "learned", "-o", f"{out}.st"]
        done = xtool(*command, *fit)
        assert done.code == 0, done.err
    assert "fit: 3 steps, training loss" in done.err
    assert xtool("train", "--from", "g.st", "--steps", 1, "-q", "-o", "n.st").code == 0
    alone, small, grown, after = (read_model(tmp_path / f"{n}.st")[0] for n in "pmgn")
    fit_only, *spent = (
        one.training["progress"]["lineage_flops"] for one in (alone, small, grown, after)
    )
    assert 0 < fit_only == spent[1] - spent[0]
    assert spent[2] == spent[1] + after.training["progress"]["flops"]
    step = grown.lineage[-1]
    assert set(step.inputs) == {"model", "data"}
    assert "data" not in step.options
    assert step.options["fit_steps"] == 3
    assert str(tmp_path) not in grown.canonical()


def test_the_same_fit_gives_the_same_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    make_model(tmp_path / "a.st", torch.float32, dropout=0.1)
    for out in ("b.st", "c.st"):
        grow_learned(tmp_path, {"d_model": 32}, out, fit_steps=5, fit_batch=30)
    grow_learned(tmp_path, {"d_model": 32}, "d.st", fit_steps=5, fit_batch=31)
    b, c, d = ((tmp_path / f"{n}.st").read_bytes() for n in "bcd")
    assert b == c != d


def test_copies_are_told_apart_by_the_fit(tmp_path: Path) -> None:
    make_model(tmp_path / "a.st")
    grow_learned(tmp_path, {"d_model": 32}, fit_steps=5)
    up = read_model(tmp_path / "b.st")[2].state_dict()["blocks.0.mlp.up.weight"]
    assert not torch.allclose(up[:64], up[64:], atol=1e-3)


@pytest.mark.parametrize(
    ("dials", "message"),
    [
        ({"data": None}, "none was given"),
        ({"fit_steps": -1}, "`fit_steps` is -1"),
        ({"fit_batch": 0}, "`fit_batch` is 0"),
        ({"fit_lr": 0.0}, "`fit_lr` is 0.0"),
    ],
)
def test_a_fit_that_cannot_be_is_refused_with_a_hint(
    dials: dict[str, Any], message: str, tmp_path: Path
) -> None:
    make_model(tmp_path / "a.st")
    with pytest.raises(UsageError) as error:
        grow_learned(tmp_path, {"d_model": 32}, **dials)
    assert message in error.value.message
    assert ("--data" in error.value.hint) == ("data" in dials)
    assert not (tmp_path / "b.st").exists()


def test_data_that_does_not_fit_and_a_rate_that_diverges_leave_nothing(tmp_path: Path) -> None:
    make_model(tmp_path / "a.st")
    with pytest.raises(XtoolError, match="a data file is needed"):
        grow_learned(tmp_path, {"d_model": 32}, data=str(tmp_path / "a.st"))
    with pytest.raises(XtoolError, match="fit's loss is") as error:
        grow_learned(tmp_path, {"d_model": 32}, fit_lr=1e20)
    assert "--fit-lr" in error.value.hint
    assert not (tmp_path / "b.st").exists()


def test_several_heads_without_a_projection_are_refused_off_whole_factors(tmp_path: Path) -> None:
    make_model(tmp_path / "a.st", attention_output=False)
    with pytest.raises(UsageError, match=r"averaged|output projection"):
        grow_learned(tmp_path, {"d_model": 24})
