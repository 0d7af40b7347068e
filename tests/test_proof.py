"""The proof of a growth: its tolerance, its data, and that it can be left out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Result

from xtool import rows
from xtool.surgery import grow

TINY = ["--d-model", 8, "--threads", 1, "--quiet", "--steps", 20, "-o", "m.st"]


@pytest.fixture
def model(data: Path, xtool: Callable[..., Result]) -> Path:
    assert xtool("train", data, *TINY).code == 0
    return data.with_name("m.st")


def test_a_tighter_tolerance_is_held_to(model: Path, xtool: Callable[..., Result]) -> None:
    assert xtool("grow", model, "--to", 24, "-o", "g.st").code == 0
    done = xtool("grow", model, "--to", 24, "--tol", 1e-12, "-o", "h.st")
    assert done.code == 3
    assert not model.with_name("h.st").exists()
    assert xtool("grow", model, "--to", 24, "--tol", 0, "-o", "h.st").code == 2


def test_the_loss_is_that_of_an_evaluation(model: Path, xtool: Callable[..., Result]) -> None:
    done = xtool("grow", model, "--to", 16, "--method", "double", "--data", "data.st")
    assert done.code == 0
    words = done.err.rpartition("; loss ")[2].split()
    found = xtool("evaluate", "m.st", "m-16.st", "--where", "metric=loss", "--format", "jsonl").out
    before, after = (one["value"] for one in rows.read(found, "x"))
    assert float(words[0]) == pytest.approx(before, abs=1e-4)
    assert float(words[2]) == pytest.approx(after, abs=1e-4)
    assert abs(before - after) > 1e-3


def test_data_that_does_not_fit_is_refused(model: Path, xtool: Callable[..., Result]) -> None:
    sizes = ["--train-size", 8, "--dev-size", 4, "--test-size", 4, "--length", 10]
    assert xtool("prepare", "counting", *sizes, "-o", "short.st").code == 0
    done = xtool("grow", model, "--to", 16, "--data", "short.st", "-o", "g.st")
    assert done.code == 1
    assert "needs `context` 10, the model has 20" in done.err
    assert not model.with_name("g.st").exists()


def test_a_proof_that_is_not_wanted_is_not_made_and_that_is_said(
    model: Path, xtool: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert xtool("grow", model, "--to", 16, "-o", "proved.st").code == 0

    def never(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(grow, "compare", never)
    done = xtool("grow", model, "--to", 16, "--no-proof", "-o", "g.st")
    assert done.code == 0
    assert "not proved" in done.err
    assert model.with_name("g.st").read_bytes() == model.with_name("proved.st").read_bytes()
