"""What `slice --sort` does with the models it was given."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xtool.archs import read_model
from xtool.dataset import data_of
from xtool.evaluation.importance import calibrating, orders
from xtool.evaluation.score import scores
from xtool.surgery.slice import slice_model
from xtool.tasks import fitted, open_data, task_of


def slice_sorted(
    path: Path, place: Path, wanted: Mapping[str, Any], data: Path | None, replica: int | None
) -> tuple[str, str]:
    """Cut a model by importance; what was done and what it costs, and the digest of the result."""
    examples = data_of(path, data)
    header, ours, model = read_model(path, replica)
    kept = orders(model, ours, calibrating(fitted(open_data(examples), header, str(examples))))
    changed, digest = slice_model(path, place, wanted, replica, orders=kept)
    before, after = losses(path, place, examples, replica)
    said = ", ".join(changed) or "sorted"
    return f"{said}; approximate: loss {before:.4f} -> {after:.4f} on dev", digest


def losses(path: Path, small: Path, data: Path, replica: int | None) -> tuple[float, float]:
    """The dev loss of a model, and that of the one that was cut out of it."""
    found = []
    for place, which in ((path, replica), (small, None)):
        header, _, model = read_model(place, which)
        own = fitted(open_data(data), header, str(data))
        split = own.stored("dev" if "dev" in own.splits else "train")
        metrics: Mapping[str, Any] = scores(model, task_of(own.header, str(data)), split)
        found.append(float(metrics["loss"].mean()))
    return found[0], found[1]
