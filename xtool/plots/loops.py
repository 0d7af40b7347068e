"""The error after each loop, with a line at the loops that a model was trained with.

Rows come from `evaluate --loops`; the band is the 95 % interval.
"""

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from xtool.plots import Plot, Request
from xtool.plots._draw import logarithmic, series_label, series_of
from xtool.plots.curves import curves

X = "loops"
BY = "label"


def loops(axes: Axes, request: Request) -> None:
    """A line a series, and an upright one at the loops of training."""
    curves(axes, request)
    logarithmic(axes, request)
    series = series_of(request.rows, request.by)
    told: dict[int, list[str]] = {}
    for name, own in series.items():
        for trained in {one["n_loops"] for one in own if isinstance(one.get("n_loops"), int)}:
            told.setdefault(trained, []).append(series_label(request.by, name))
    for trained, names in told.items():
        who = "" if len(names) == len(series) else f": {', '.join(names)}"
        axes.axvline(trained, color="0.7", linewidth=1, label=f"trained at {trained}{who}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


ENTRY: Plot = loops
