"""The error after each loop, with a line at the loops that a model was trained with.

Rows come from `evaluate --loops`; the band is the 95 % interval.
"""

from typing import TYPE_CHECKING

from matplotlib.ticker import LogLocator

from xtool.plots import Plot, Request
from xtool.plots._draw import COLOURS, series_label
from xtool.plots.curves import curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes

X = "loops"
BY = "label"


def loops(axes: "Axes", request: Request) -> None:
    """A line a series, and an upright one in its colour."""
    assert request.by is not None
    curves(axes, request)
    logarithmic(axes, request)
    series = list(dict.fromkeys(one.get(request.by) for one in request.rows))
    told: dict[int, list[int]] = {}
    for number, name in enumerate(series):
        own = [one for one in request.rows if one.get(request.by) == name]
        for trained in {int(one["n_loops"]) for one in own if one.get("n_loops")}:
            told.setdefault(trained, []).append(number)
    for trained, of in told.items():
        who = "" if len(of) == len(series) else f", {series_label(request.by, series[of[0]])}"
        colour = COLOURS[of[0] % len(COLOURS)] if who else "0.4"
        axes.axvline(trained, color=colour, linestyle="--", label=f"trained at {trained}{who}")


def logarithmic(axes: "Axes", request: Request) -> None:
    """Errors by powers of ten, from just below the smallest of a model or a baseline."""
    errors = [one["value"] for one in request.rows if one.get("arch")]
    if request.y != "squared_error" or not errors or min(errors) <= 0:
        return
    least = min(errors)
    least = min([least, *(one["value"] for one in request.baselines if one["value"] > least / 100)])
    axes.set_yscale("log")
    axes.set_ylim(bottom=least / 1.5)
    few = axes.get_ylim()[1] < 30 * axes.get_ylim()[0]
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if few else "")


ENTRY: Plot = loops
