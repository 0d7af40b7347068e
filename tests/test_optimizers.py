"""Optimizers, schedules and when a run ends, against the formulas written out."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run, configuration
from torch import Tensor

from xtool import registry, rows
from xtool.archs import build, read_model, start
from xtool.axes import layout
from xtool.checkpoint import load
from xtool.training.optimizers import FOLDER, make
from xtool.training.schedule import lr_factor

DIALS: dict[str, Any] = {
    "beta1": 0.8,
    "beta2": 0.95,
    "adam_eps": 1e-8,
    "lr": 0.1,
    "weight_decay": 0.2,
}
RUN = ["--d-model", 8, "--n-layers", 1, "--threads", 1, "--precision", "fp64"]

Update = Callable[[Tensor, Tensor, dict[str, Tensor], float], Tensor]


def lion(weight: Tensor, gradient: Tensor, state: dict[str, Tensor], decay: float) -> Tensor:
    mean = state.setdefault("m", torch.zeros_like(weight))
    direction = (0.8 * mean + 0.2 * gradient).sign()
    state["m"] = 0.95 * mean + 0.05 * gradient
    return weight * (1 - 0.1 * decay) - 0.1 * direction


def sgd(weight: Tensor, gradient: Tensor, state: dict[str, Tensor], decay: float) -> Tensor:
    state["m"] = 0.8 * state.get("m", 0.0) + gradient + decay * weight
    return weight - 0.1 * state["m"]


@pytest.mark.parametrize(("name", "update"), [("lion", lion), ("sgd", sgd)])
def test_a_step_is_the_formula(name: str, update: Update) -> None:
    config = configuration(n_layers=1, bias="all")
    ours, model = layout(config), build(config).double()
    start(model, ours, 0)
    (optimizer,) = make(model, ours, DIALS | {"optimizer": name}, {})
    states: dict[str, dict[str, Tensor]] = {n: {} for n, _ in model.named_parameters()}
    for _ in range(5):
        wanted = {}
        for name_of, p in model.named_parameters():
            p.grad = torch.randn_like(p)
            decay = 0.2 if p.ndim > 1 else 0.0
            wanted[name_of] = update(p.detach(), p.grad.clone(), states[name_of], decay)
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * group["lr_factor"]
        optimizer.step()
        for name_of, p in model.named_parameters():
            assert torch.allclose(p, wanted[name_of], rtol=0, atol=1e-12), name_of


def test_muon_takes_the_matrices_of_layers_and_leaves_the_rest() -> None:
    config = configuration(n_layers=2, positions="learned")
    ours, model = layout(config), build(config)
    muon, adamw = (
        one
        for kind in (torch.optim.Muon, torch.optim.AdamW)
        for one in make(model, ours, DIALS | {"optimizer": "muon"}, {})
        if isinstance(one, kind)
    )
    names = {p: name for name, p in model.named_parameters()}
    taken = {names[p] for group in muon.param_groups for p in group["params"]}
    left = {names[p] for group in adamw.param_groups for p in group["params"]}
    assert taken | left == set(names.values())
    assert not taken & left
    assert taken == {n for n, p in model.named_parameters() if "blocks" in n and p.ndim == 2}


@pytest.mark.parametrize("name", registry.names(FOLDER))
def test_every_optimizer_lowers_the_loss(name: str, data: Path, xtool: Run, tmp_path: Path) -> None:
    lr = {"lion": 3e-3, "sgd": 0.1}.get(name, 0.01)
    args = [*RUN, "--epochs", 3, "--lr", lr, "--optimizer", name]
    assert xtool("train", data, *args, "-o", "m.st").code == 0
    found = rows.read((tmp_path / "m.rows.jsonl").read_text(), "x")
    losses = [one["value"] for one in found if (one["split"], one["metric"]) == ("dev", "loss")]
    assert losses[-1] < losses[0] - 0.02, losses
    assert load(tmp_path / "m.st")[0].training["dials"]["optimizer"] == name


def test_parts_of_a_batch_give_its_gradient(data: Path, xtool: Run, tmp_path: Path) -> None:
    for parts in (1, 3, 7):
        args = ["--accumulate", parts, "--steps", 4, "--batch-size", 20]
        assert xtool("train", data, *RUN, *args, "-o", f"{parts}.st").code == 0
    whole = read_model(tmp_path / "1.st")[2].state_dict()
    for parts in (3, 7):
        for name, tensor in read_model(tmp_path / f"{parts}.st")[2].state_dict().items():
            assert torch.allclose(tensor, whole[name], rtol=0, atol=1e-10), name


def test_the_average_follows_the_weights(data: Path, xtool: Run, tmp_path: Path) -> None:
    args = ["train", data, *RUN, "--schedule", "constant", "--label", "x"]
    states = []
    for steps in range(6):
        assert xtool(*args, "--steps", steps, "-o", f"{steps}.st").code == 0
        states.append(read_model(tmp_path / f"{steps}.st")[2].state_dict())
    done = xtool(*args, "--steps", 5, "--ema", 0.3, "--keep-state", "-o", "m.st")
    assert done.code == 0, done.err
    _, _, averaged = read_model(tmp_path / "m.st")
    kept = load(tmp_path / "m.resume.st")[1]
    for name, tensor in averaged.state_dict().items():
        wanted = states[0][name]
        for step, now in enumerate(states[1:]):
            memory = min(0.3, (1 + step) / (10 + step))
            wanted = memory * wanted + (1 - memory) * now[name]
        assert torch.allclose(tensor, wanted, rtol=0, atol=1e-12), name
        assert torch.equal(kept[f"average/{name}"], tensor)
        assert torch.equal(kept[f"model/{name}"], states[5][name])
    assert xtool("check", "m.resume.st").code == 0
    shown = json.loads(xtool("inspect", "m.resume.st", "--json").out)
    assert shown["params"] == sum(p.numel() for p in averaged.parameters())
    grown = xtool("grow", "m.resume.st", "--to", 16, "-o", "g.resume.st")
    assert "the running average of the weights is left behind" in grown.err
    assert not any(name.startswith("average/") for name in load(tmp_path / "g.resume.st")[1])
    assert xtool("train", data, "--from", "m.resume.st", "--steps", 1, "-o", "on.st").code == 0


def test_warm_up_stable_decay() -> None:
    factors = [lr_factor("wsd", step, 20, 4, 0.25) for step in range(21)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[4:16] == [1.0] * 12
    assert factors[15:] == pytest.approx([1.0, 0.82, 0.64, 0.46, 0.28, 0.1])


def test_a_run_without_progress_stops_and_says_so(data: Path, xtool: Run, tmp_path: Path) -> None:
    args = ["train", data, *RUN, "--eval-every", 2, "--lr", 100, "--patience", 3, "-o", "m.st"]
    done = xtool(*args, "--steps", 500)
    assert done.code == 0, done.err
    found = rows.read((tmp_path / "m.rows.jsonl").read_text(), "x")
    losses = [one["value"] for one in found if (one["split"], one["metric"]) == ("dev", "loss")]
    best = losses.index(min(losses))
    assert len(losses) == best + 4
    steps = load(tmp_path / "m.st")[0].training["progress"]["steps"]
    assert steps == 2 * (best + 3)
    assert f"stopped after {steps} of 500 steps: no lower dev loss in 3 evaluations" in done.err


def test_what_ended_a_run_early_is_not_taken_over(data: Path, xtool: Run, tmp_path: Path) -> None:
    args = ["--patience", 2, "--max-time", 1e6, "--lr", 0.01, "--steps", 4, "-o", "m.st"]
    assert xtool("train", data, *RUN, *args).code == 0
    assert xtool("train", data, "--from", "m.st", "--steps", 4, "-q", "-o", "n.st").code == 0
    dials = [load(tmp_path / f"{name}.st")[0].training["dials"] for name in ("m", "n")]
    assert [one["lr"] for one in dials] == [0.01, 0.01]
    assert [(one["patience"], one["max_time"]) for one in dials] == [(2, 1e6), (None, None)]


@pytest.mark.parametrize("lr", [1e-3, 100])
def test_a_run_ends_when_its_time_is_over(
    lr: float, data: Path, xtool: Run, tmp_path: Path
) -> None:
    args = ["--steps", 100_000, "--max-time", 0.5, "--lr", lr, "--eval-every", 7]
    done = xtool("train", data, *RUN, *args, "-o", "m.st")
    assert done.code == 0, done.err
    steps = load(tmp_path / "m.st")[0].training["progress"]["steps"]
    assert 0 < steps < 100_000
    assert f"stopped after {steps:,} of 100,000 steps: `--max-time`" in done.err
    found = rows.read((tmp_path / "m.rows.jsonl").read_text(), "x")
    assert found[-2]["step"] == steps


@pytest.mark.parametrize(
    ("dials", "message"),
    [
        (["--ema", 1], "`ema` is 1.0, it must be at least 0 and below 1"),
        (["--accumulate", 0], "`accumulate` is 0, it must be 1 to"),
        (["--patience", 0], "`patience` is 0, it must be 1 to"),
        (["--max-time", -1], "`max_time` is -1.0, it must be 0 to"),
        (["--decay-part", 2], "`decay_part` is 2.0, it must be 0 to 1"),
        (["--optimizer", "adam"], "adamw"),
        (["--optimizer", "muon", "--replicas", 2], "`muon` takes plain matrices"),
        (["--patience", 2, "--replicas", 2], "`--patience` follows one model"),
    ],
)
def test_what_cannot_be_asked(
    dials: list[object], message: str, data: Path, xtool: Run, tmp_path: Path
) -> None:
    done = xtool("train", data, *RUN, *dials, "-o", "m.st")
    assert done.code == 2
    assert message in done.err
    assert not (tmp_path / "m.st").exists()


def test_a_state_goes_on_with_its_own_optimizer(data: Path, xtool: Run) -> None:
    args = ["train", data, *RUN, "--steps", 2, "--optimizer", "lion", "--keep-state"]
    assert xtool(*args, "-o", "m.st").code == 0
    done = xtool("train", data, "--from", "m.resume.st", "--optimizer", "sgd", "--steps", 1)
    assert (done.code, "the state is of `lion`, not of `sgd`" in done.err) == (2, True)
    done = xtool("train", data, "--from", "m.resume.st", "--steps", 1, "-o", "on.st")
    assert done.code == 0, done.err
    assert xtool("train", data, "--from", "m.st", "--optimizer", "sgd", "--steps", 1).code == 0


def test_no_optimizer_imports_the_compiler(data: Path) -> None:
    commands = [
        ["xtool", "train", str(data), *map(str, RUN), "--steps", "2", "-q", "--optimizer", name]
        for name in registry.names(FOLDER)
    ]
    code = f"""
import sys
from xtool.cli import main

for number, command in enumerate({commands!r}):
    sys.argv = [*command, "-o", f"{{number}}.st"]
    try:
        main()
    except SystemExit as stop:
        assert not stop.code
    assert "torch._dynamo" not in sys.modules, command
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=data.parent, check=False)
    assert done.returncode == 0
