"""Gradient norms along the parts of a model, from input to output: where a gradient is lost."""

from typing import TYPE_CHECKING

from xtool.averages import summarise
from xtool.plots import Plot, Request
from xtool.plots._draw import COLOURS, LINES, MARKERS, series_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

X = "part"
Y = "gradient_norm"
BY = "label"
LAST = True


def gradient_flow(axes: "Axes", request: Request) -> None:
    """A line a series over the parts in the order of the rows; the bars are the 95 % interval."""
    assert request.by is not None
    parts = list(dict.fromkeys(str(one[request.x]) for one in request.rows))
    series = list(dict.fromkeys(one.get(request.by) for one in request.rows))
    for number, name in enumerate(series):
        own = [one for one in request.rows if one.get(request.by) == name]
        cells = {str(key[0]): cell for key, cell in summarise(own, [request.x]).items()}
        found = [(place, cells[part]) for place, part in enumerate(parts) if part in cells]
        turn, at = divmod(number, len(COLOURS))
        axes.errorbar(
            [place for place, _ in found],
            [cell.value for _, cell in found],
            yerr=[
                [0.0 if c.low is None else c.value - max(c.low, c.value / 10) for _, c in found],
                [0.0 if c.high is None else c.high - c.value for _, c in found],
            ],
            color=COLOURS[at],
            marker=MARKERS[at],
            linestyle=LINES[turn % len(LINES)],
            markersize=4,
            capsize=2,
            label=series_label(request.by, name),
        )
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xticks(range(len(parts)), parts, rotation=45 if len(parts) > 8 else 0)
    axes.set_xlabel(request.x)


ENTRY: Plot = gradient_flow
