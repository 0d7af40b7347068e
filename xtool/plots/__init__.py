"""Plots: one file a kind of figure; rows in, figure out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from matplotlib.axes import Axes

from xtool.rows import Row


@dataclass(frozen=True)
class Request:
    """What to draw.

    Attributes:
        rows: the rows of one metric and split.
        x: the column along the horizontal axis.
        y: the metric.
        by: the column that tells series apart; None for one series.
        baselines: a row for each baseline of the same split, such as `majority`, drawn as a line.
        pairs: the pairs of tokens that were asked for, as `a~b,a~A`.
    """

    rows: Sequence[Row]
    x: str
    y: str
    by: str | None
    baselines: Sequence[Row] = ()
    pairs: str | None = None


class Plot(Protocol):
    """What a file in this folder ends with, as `ENTRY`; it also declares literals `X` and `BY`.

    `LAST` says that only the last evaluation of a run is meant, `Y` names the metric to draw,
    `BASELINES = False` leaves their lines out.
    """

    def __call__(self, axes: Axes, request: Request) -> None:
        """Draw onto empty axes; whoever calls sets title, size and file."""
