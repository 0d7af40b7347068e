"""Gradient norms along the parts of a model, from input to output: where a gradient is lost."""

from matplotlib.axes import Axes

from xtool.averages import summarise
from xtool.plots import Plot, Request
from xtool.plots._draw import error_bars, look_of, series_label, series_of

X = "part"
Y = "gradient_norm"
BY = "label"
LAST = True


def gradient_flow(axes: Axes, request: Request) -> None:
    """A line a series over the parts in the order of the rows; the bars are the 95 % interval."""
    parts = list(dict.fromkeys(str(one[request.x]) for one in request.rows))
    for number, (name, own) in enumerate(series_of(request.rows, request.by).items()):
        cells = {str(key[0]): cell for key, cell in summarise(own, [request.x]).items()}
        found = [(place, cells[part]) for place, part in enumerate(parts) if part in cells]
        colour, marker, line = look_of(number)
        below, above = error_bars(cell for _, cell in found)
        # A logarithmic axis has no place for 0.
        below = [min(far, 0.9 * cell.value) for far, (_, cell) in zip(below, found, strict=True)]
        axes.errorbar(
            [place for place, _ in found],
            [cell.value for _, cell in found],
            yerr=[below, above],
            color=colour,
            marker=marker,
            linestyle=line,
            markersize=4,
            capsize=2,
            label=series_label(request.by, name),
        )
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xticks(range(len(parts)), parts, rotation=45 if len(parts) > 8 else 0)
    axes.set_xlabel(request.x)


ENTRY: Plot = gradient_flow
