"""The proof of a growth: its tolerance, its data, and that it can be left out."""

import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TEXT, Run, grow_to, make_examples, make_model

from xtool import rows
from xtool.archs import read_model
from xtool.checkpoint import Reader, model_reader
from xtool.storage import Source
from xtool.surgery import grow, proof
from xtool.tasks import open_data

TINY = ["--d-model", 8, "--threads", 1, "--quiet", "--steps", 20, "-o", "m.st"]


@pytest.fixture
def model(data: Path, xtool: Run) -> Path:
    assert xtool("train", data, *TINY).code == 0
    return data.with_name("m.st")


def test_a_tighter_tolerance_is_held_to(model: Path, xtool: Run) -> None:
    assert xtool("grow", model, "--to", 24, "-o", "g.st").code == 0
    done = xtool("grow", model, "--to", 24, "--tol", 1e-12, "-o", "h.st")
    assert done.code == 3
    assert not model.with_name("h.st").exists()
    assert xtool("grow", model, "--to", 24, "--tol", 0, "-o", "h.st").code == 2


def test_the_loss_is_that_of_an_evaluation(model: Path, xtool: Run) -> None:
    done = xtool("grow", model, "--to", 16, "--method", "double", "--data", "data.st")
    assert done.code == 0
    words = done.err.rpartition("; loss ")[2].split()
    found = xtool("evaluate", "m.st", "m-16.st", "--where", "metric=loss", "--format", "jsonl").out
    before, after = (one["value"] for one in rows.read(found, "x"))
    assert float(words[0]) == pytest.approx(before, abs=1e-4)
    assert float(words[2]) == pytest.approx(after, abs=1e-4)
    assert abs(before - after) > 1e-3


def test_new_classes_count_in_the_loss(xtool: Run, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    assert xtool("prepare", "language", "text.txt", "-o", "book.st").code == 0
    assert xtool("train", "book.st", "--context", 16, *TINY, "--steps", 0).code == 0
    done = xtool("grow", "m.st", "--vocab", 400, "--data", "book.st", "-o", "g.st")
    assert done.code == 0, done.err
    words = done.err.rpartition("; loss ")[2].split()
    assert float(words[2]) > float(words[0]) + 1


def test_data_that_does_not_fit_is_refused(model: Path, xtool: Run) -> None:
    sizes = ["--train-size", 8, "--dev-size", 4, "--test-size", 4, "--length", 10]
    assert xtool("prepare", "counting", *sizes, "-o", "short.st").code == 0
    done = xtool("grow", model, "--to", 16, "--data", "short.st", "-o", "g.st")
    assert done.code == 1
    assert "needs `context` 10, the model has 20" in done.err
    assert not model.with_name("g.st").exists()


def test_a_proof_that_is_not_wanted_is_not_made_and_that_is_said(
    model: Path, xtool: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert xtool("grow", model, "--to", 16, "-o", "proved.st").code == 0

    def never(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(grow, "compare", never)
    done = xtool("grow", model, "--to", 16, "--no-proof", "-o", "g.st")
    assert done.code == 0
    assert "not proved" in done.err
    assert model.with_name("g.st").read_bytes() == model.with_name("proved.st").read_bytes()


def test_the_proof_holds_one_stage_or_both_last_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model(tmp_path / "a.st", n_layers=3)
    read, alive, most = Reader.tensor, list[weakref.ref[torch.Tensor]](), 0

    def noted(reader: Reader, name: str) -> torch.Tensor:
        nonlocal most
        tensor = read(reader, name)
        alive.append(weakref.ref(tensor))
        most = max(most, sum(one.nbytes for ref in alive if (one := ref()) is not None))
        return tensor

    monkeypatch.setattr(Reader, "tensor", noted)
    grow_to(tmp_path / "a.st", tmp_path / "b.st", "clone", d_model=48)
    sizes = []
    for name in ("a.st", "b.st"):
        stages = read_model(tmp_path / name)[2].stages()  # type: ignore[operator]
        sizes.append([sum(t.nbytes for t in s.state_dict().values()) for _, s in stages])
    assert most <= max(*sizes[0], *sizes[1], sizes[0][-1] + sizes[1][-1])


@pytest.mark.parametrize("bad", [float("nan"), 1.0])
def test_a_difference_on_the_data_alone_is_not_lost(
    bad: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model(tmp_path / "a.st")
    make_examples(tmp_path / "data.st")
    data = open_data(tmp_path / "data.st")
    monkeypatch.setattr(proof, "_run_both", planted := Planted(proof._run_both, bad))
    with Source(tmp_path / "a.st") as source:
        reader = model_reader(source)
        found = proof.compare(reader, reader, 0, data=data)
    assert planted.calls == 2
    assert not found.exact


class Planted:
    """A comparison whose second result differs by a planted number."""

    def __init__(self, run: Callable[..., Any], bad: float) -> None:
        self.run, self.bad, self.calls = run, bad, 0

    def __call__(self, *args: Any) -> Any:
        self.calls += 1
        found = self.run(*args)
        bad = torch.tensor(self.bad, dtype=found.difference.dtype)
        return replace(found, difference=bad) if self.calls == 2 else found
