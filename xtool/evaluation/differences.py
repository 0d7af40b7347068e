"""Paired differences of two models' scores on the same examples."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from xtool.averages import BASELINES
from xtool.evaluation.details import Columns, Detail, Metrics
from xtool.intervals import estimate, p_value
from xtool.rows import Row, row

OF_A_MODEL = ("n_loops", "loops_used")


def differences(
    ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], **columns: Any
) -> list[Row]:
    """The mean of the paired differences over examples, with interval and p-value."""
    out = []
    for metric in ours:
        if metric not in theirs or metric in BASELINES:
            continue
        pairs = (ours[metric] - theirs[metric]).tolist()
        mean = estimate(pairs)
        out.append(
            row(
                metric=f"{metric}_difference",
                value=mean.value,
                low=mean.low,
                high=mean.high,
                n=mean.n,
                p_value=p_value(pairs),
                **columns,
            )
        )
    return out


def counterpart(columns: Columns, details: Sequence[Detail], whole: Metrics) -> Metrics:
    """What another model scores where one has such columns; nothing if it was not told apart so.

    A model without loops has one answer for any number of them.

    Args:
        columns: of one model's detail.
        details: the other's.
        whole: the other's scores of whole prompts.
    """
    wanted = _place(columns)
    known = {_place(cell): metrics for cell, metrics in details}
    if wanted in known or any("n_loops" in cell or "exit" in cell for cell, _ in details):
        return known.get(wanted, {})
    if "examples" in columns:
        return known.get(_place({"examples": columns["examples"]}), {})
    return whole


def _place(columns: Columns) -> frozenset[tuple[str, Any]]:
    return frozenset((name, value) for name, value in columns.items() if name not in OF_A_MODEL)
