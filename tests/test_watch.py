"""Watching: what the rows of a watched run say, against torch by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run, configuration

from xtool import rows
from xtool.archs import build, read_model
from xtool.checkpoint import load
from xtool.layers.attention import plain
from xtool.training.replicas import Replicas
from xtool.training.watch import Watch, without_gradient

RUN = ["--d-model", 8, "--n-layers", 2, "--threads", 1, "--precision", "fp64", "--batch-size", 96]


def found(path: Path, metric: str, step: int) -> dict[Any, float]:
    every = rows.read(path.read_text(), "x")
    chosen = [one for one in every if (one["metric"], one["step"]) == (metric, step)]
    return {one.get("part"): one["value"] for one in chosen}


def test_norms_and_ratios_are_those_of_the_step(data: Path, xtool: Run, tmp_path: Path) -> None:
    args = ["train", data, *RUN, "--lr", 0.02, "--schedule", "linear"]
    watched = ["--steps", 2, "--eval-every", 1, "--watch", "--clip", 0.5, "-o", "m.st"]
    assert xtool(*args, "--clip", 0.5, "--steps", 0, "-o", "a.st").code == 0
    assert xtool(*args, *watched).code == 0
    _, _, model = read_model(tmp_path / "a.st")
    train = load(data)[1]
    logits = model(train["train.inputs"]).transpose(1, 2)
    torch.nn.functional.cross_entropy(logits, train["train.targets"].long()).backward()
    norms = found(tmp_path / "m.rows.jsonl", "gradient_norm", 1)
    assert list(norms) == ["embed", "blocks.0", "blocks.1", "head"]
    for part, value in norms.items():
        own = [p.grad.flatten() for n, p in model.named_parameters() if n.startswith(f"{part}.")]
        assert value == pytest.approx(float(torch.cat(own).norm()), rel=1e-9), part
    assert found(tmp_path / "m.rows.jsonl", "lr", 1) == {None: 0.02}
    assert found(tmp_path / "m.rows.jsonl", "lr", 2)[None] == pytest.approx(0.011)
    whole = torch.tensor(list(norms.values())).norm()
    assert found(tmp_path / "m.rows.jsonl", "clipped", 1) == {None: float(whole > 0.5)}
    for unit in ("tokens", "flops"):
        assert found(tmp_path / "m.rows.jsonl", f"{unit}_per_second", 2)[None] > 0


def test_the_parts_of_a_looped_model_have_names(data: Path, xtool: Run) -> None:
    loops = ["--arch", "looped", "--n-loops", 2, "--injection", "gated", "--steps", 1, "--watch"]
    assert xtool("train", data, *RUN, *loops, "-o", "m.st").code == 0
    norms = found(data.parent / "m.rows.jsonl", "gradient_norm", 1)
    assert list(norms) == ["embed", "inject", "blocks.0", "blocks.1", "head"]


def test_the_update_is_over_the_weights(data: Path, xtool: Run, tmp_path: Path) -> None:
    args = ["train", data, *RUN, "--schedule", "constant"]
    for steps in (4, 5):
        done = xtool(*args, "--steps", steps, "--watch", "-o", f"{steps}.st")
        assert done.code == 0, done.err
    before, after = (read_model(tmp_path / f"{n}.st")[2].state_dict() for n in (4, 5))
    for part, value in found(tmp_path / "5.rows.jsonl", "update_ratio", 5).items():
        names = [name for name in before if name.startswith(f"{part}.")]
        change = torch.cat([(after[name] - before[name]).flatten() for name in names]).norm()
        weights = torch.cat([before[name].flatten() for name in names]).norm()
        assert value == pytest.approx(float(change / weights), rel=1e-9), part


def test_watching_changes_no_byte_and_replicas_are_as_alone(
    data: Path, xtool: Run, tmp_path: Path
) -> None:
    args = ["train", data, *RUN, "--steps", 3, "--clip", 0.1, "--label", "x"]
    assert xtool(*args, "-o", "plain.st").code == 0
    assert xtool(*args, "--watch", "-o", "watched.st").code == 0
    assert (tmp_path / "plain.st").read_bytes() == (tmp_path / "watched.st").read_bytes()
    assert xtool(*args, "--watch", "--replicas", 2, "-o", "r.st").code == 0
    every = rows.read((tmp_path / "r.rows.jsonl").read_text(), "x")
    for metric in ("gradient_norm", "update_ratio", "clipped"):
        alone = found(tmp_path / "watched.rows.jsonl", metric, 3)
        ours = [one for one in every if (one["metric"], one["replica"]) == (metric, 0)]
        for one in (one for one in ours if one["step"] == 3):
            assert one["value"] == pytest.approx(alone[one.get("part")], rel=1e-9)


def test_what_was_found_of_a_step_is_told_once() -> None:
    model = build(configuration())
    watch = Watch(model, Replicas(model, configuration(), 1), 5)
    assert watch.step == 5
    watch.gradients()
    assert watch.found
    watch.start(6)
    assert not watch.found


def test_what_gets_no_gradient_is_named(
    data: Path, xtool: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no gradient" not in xtool("train", data, *RUN, "--steps", 2, "-o", "m.st").err
    monkeypatch.setattr(plain.Plain, "forward", lambda self, x: self.v(x))
    done = xtool("train", data, *RUN, "--steps", 2, "-o", "n.st")
    assert done.code == 0, done.err
    assert "no gradient reaches blocks.0.attention.q.weight" in done.err
    assert "and 3 more: it cannot learn" in done.err


def test_a_parameter_without_gradient_is_found() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    model[1](torch.ones(1, 2)).sum().backward()
    assert without_gradient(model) == ["0.weight", "0.bias"]


def test_the_gradient_flow_is_drawn(data: Path, xtool: Run, tmp_path: Path) -> None:
    args = ["train", data, *RUN, "--steps", 2, "--replicas", 3, "--watch", "-o", "m.st"]
    assert xtool(*args).code == 0
    done = xtool("plot", "m.rows.jsonl", "--kind", "gradient-flow", "-o", "flow.svg")
    assert done.code == 0, done.err
    picture = (tmp_path / "flow.svg").read_text()
    assert all(f">{part}<" in picture for part in ("embed", "blocks.0", "blocks.1", "head"))
    assert "train gradient norm" in picture
