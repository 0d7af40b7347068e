"""The error after each loop, with a line at the loops that a model was trained with.

Rows come from `evaluate --loops`; the band is the 95 % interval.
"""

from typing import TYPE_CHECKING

from matplotlib.ticker import LogLocator, MaxNLocator

from xtool.plots import Plot, Request
from xtool.plots._draw import series_label
from xtool.plots.curves import curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes

X = "loops"
BY = "label"


def loops(axes: "Axes", request: Request) -> None:
    """A line a series, and an upright one at the loops of training."""
    assert request.by is not None
    curves(axes, request)
    logarithmic(axes, request)
    series = list(dict.fromkeys(one.get(request.by) for one in request.rows))
    told: dict[int, list[str]] = {}
    for name in series:
        own = [one for one in request.rows if one.get(request.by) == name]
        for trained in {one["n_loops"] for one in own if isinstance(one.get("n_loops"), int)}:
            told.setdefault(trained, []).append(series_label(request.by, name))
    for trained, names in told.items():
        who = "" if len(names) == len(series) else f": {', '.join(names)}"
        axes.axvline(trained, color="0.7", linewidth=1, label=f"trained at {trained}{who}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def logarithmic(axes: "Axes", request: Request) -> None:
    """Errors by powers of ten, from just below the smallest of a model or a baseline."""
    errors = [one["value"] for one in request.rows if one.get("arch")]
    if request.y != "squared_error" or not errors or min(errors) <= 0:
        return
    least = min(errors)
    least = min([least, *(one["value"] for one in request.baselines if one["value"] > least / 100)])
    axes.set_yscale("log")
    axes.set_ylim(least / 1.5, 1.3 * max(one["value"] for one in request.rows))
    few = axes.get_ylim()[1] < 100 * axes.get_ylim()[0]
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if few else "")


ENTRY: Plot = loops
