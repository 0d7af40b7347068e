"""A line for each series over a number such as epoch or FLOPs, with a band over seeds."""

from matplotlib.axes import Axes

from xtool.averages import LENGTHS, summarise
from xtool.plots import Plot, Request
from xtool.plots._draw import look_of, require_numbers, series_label, series_of

X = "lineage_epoch"
BY = "label"
# A run may be at one place of these at several of its steps, as where one run ends and goes on.
ALONG = (*LENGTHS, "flops", "lineage_flops", "seconds", "lineage_seconds")
MARKED = 32  # points of a line up to which each has its marker
UNITS = {"flops": "training FLOPs", "lineage_flops": "training FLOPs over the lineage"}
UNITS |= {"lineage_epoch": "epochs over the lineage", "seconds": "training seconds"}


def curves(axes: Axes, request: Request) -> None:
    """Means joined by a line; the band is the 95 % interval.

    Raises:
        UsageError: `x` is not a number.
    """
    require_numbers(request.rows, request.x)
    for number, (name, own) in enumerate(series_of(request.rows, request.by).items()):
        one_step = request.x not in ALONG
        cells = sorted(summarise(own, [request.x], one_step).items())
        x = [key[0] for key, _ in cells]
        colour, marker, line = look_of(number)
        axes.plot(
            x,
            [cell.value for _, cell in cells],
            color=colour,
            marker=marker,
            linestyle=line,
            markersize=4,
            markevery=max(1, len(x) // MARKED),
            label=series_label(request.by, name),
        )
        banded = [(k[0], c) for k, c in cells if c.low is not None and c.high is not None]
        axes.fill_between(
            [place for place, _ in banded],
            [cell.low for _, cell in banded if cell.low is not None],
            [cell.high for _, cell in banded if cell.high is not None],
            color=colour,
            alpha=0.15,
            linewidth=0,
        )
    axes.set_xlabel(UNITS.get(request.x, request.x.replace("_", " ")))


ENTRY: Plot = curves
