"""Paired differences of two models' scores on the same examples."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from xtool.averages import BASELINES
from xtool.evaluation.details import Columns, Detail, Metrics
from xtool.intervals import estimate, p_value
from xtool.rows import Row, row


def differences(
    ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], **columns: Any
) -> list[Row]:
    """The mean of the paired differences over examples, with interval and p-value."""
    out = []
    for metric in ours:
        if metric in theirs and metric not in BASELINES:
            pairs = (ours[metric] - theirs[metric]).tolist()
            numbers = vars(estimate(pairs)) | {"p_value": p_value(pairs)}
            out.append(row(metric=f"{metric}_difference", **numbers, **columns))
    return out


class Counterparts:
    """What another model scores where one has scores that are told apart.

    Where one runs its own number of loops, so does the other. A model without loops has one answer
    for any number of them, whatever is done in between.

    Args:
        details: the other's.
        whole: its scores of whole prompts.
    """

    def __init__(self, details: Sequence[Detail], whole: Metrics) -> None:
        self.whole = whole
        self.loops = any("n_loops" in columns or "exit" in columns for columns, _ in details)
        self.known: dict[frozenset[tuple[str, Any]], Metrics] = {}
        for columns, metrics in details:
            for place in _places(columns):
                self.known.setdefault(place, metrics)

    def of(self, columns: Columns) -> Metrics:
        """The scores; none where the other has nothing like it."""
        found = [self.known[place] for place in _places(columns) if place in self.known]
        if found or self.loops:
            return found[0] if found else {}
        if "examples" in columns:
            return self.known.get(frozenset({("examples", columns["examples"])}), {})
        return self.whole

    def rows(self, whole: Metrics, details: Sequence[Detail], **base: Any) -> list[Row]:
        """Differences from it: of whole prompts, and of all that is told apart of a model."""
        out = differences(whole, self.whole, **base)
        for columns, metrics in details:
            if "label" not in columns:  # an exact method's
                out += differences(metrics, self.of(columns), **columns, **base)
        return out


def _places(columns: Columns) -> list[frozenset[tuple[str, Any]]]:
    """The columns that the other is to share, without those that are a model's own."""
    shared = {k: v for k, v in columns.items() if k not in ("n_loops", "loops_used")}
    found = [frozenset(shared.items())]
    if "loops" in columns and columns["loops"] == columns["n_loops"]:
        found.append(frozenset((shared | {"loops": None}).items()))
    return found
