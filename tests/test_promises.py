"""The main promise at its real size: trained on `builtin`, grown, and exactly as good as before."""

import os
import re
from pathlib import Path

import pytest
from conftest import Run

from xtool import rows


def accuracy(xtool: Run, *models: str) -> list[float]:
    done = xtool("evaluate", *models, "--format", "jsonl", "--where", "metric=accuracy")
    assert done.code == 0, done.err
    return [one["value"] for one in rows.read(done.out, "x")]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp64"])
@pytest.mark.parametrize("tied", ["--tied-head", "--no-tied-head"])
@pytest.mark.parametrize("norm", ["none", "layernorm", "rmsnorm"])
def test_a_trained_model_grows_without_losing_anything(
    norm: str, tied: str, precision: str, xtool: Run, tmp_path: Path
) -> None:
    assert xtool("prepare", "counting", "-o", "counting.st").code == 0
    dials = ["--d-model", 48, "--epochs", 5, "--norm", norm, tied, "--precision", precision]
    assert xtool("train", "counting.st", *dials, "--threads", 1, "-q", "-o", "small.st").code == 0
    grown = []
    for method, width in [("pad", 96), ("pad", 72), ("pad", 100), ("clone", 96)]:
        out = f"{method}{width}.st"
        done = xtool("grow", "small.st", "--to", width, "--method", method, "-o", out)
        if method == "clone" and norm == "none" and tied == "--tied-head":
            assert done.code == 2
            assert "a tied head without a final norm would multiply the logits" in done.err
            assert not (tmp_path / out).exists()
            continue
        assert done.code == 0, done.err
        found = re.search(r"difference (\S+) of (\S+) \(at most (\S+)\)", done.err)
        assert found is not None
        difference, largest, allowed = map(float, found.groups())
        share = 1e-10 if precision == "fp64" else 1e-5
        assert difference <= share * max(1.0, largest) * 1.01
        assert allowed == pytest.approx(share * max(1.0, largest), rel=0.05)
        grown.append(out)
    for width in (72, 100):
        done = xtool("grow", "small.st", "--to", width, "--method", "clone")
        assert done.code == 2
        assert "is not a whole factor; nearest: 96" in done.err
    small, *rest = accuracy(xtool, "small.st", *grown)
    assert small > 0.75
    assert rest == [small] * len(grown)
    print(os.linesep, norm, tied, precision, small, grown)
