"""A number of each head over the layers, such as window lengths, with the mean of a layer.

Rows come from `evaluate --trace heads`. The bar is the 95 % interval over the heads and seeds of
a layer; each head, over its seeds, is a faint point.
"""

from matplotlib.axes import Axes

from xtool.averages import summarise
from xtool.plots import Plot, Request
from xtool.plots._draw import error_bars, look_of, require_numbers, series_label, series_of

X = "layer"
Y = "window_length"
BY = "label"
SPREAD = 0.12  # of a layer, over which series and heads stand side by side


def windows(axes: Axes, request: Request) -> None:
    """A line a series over the layers.

    Raises:
        UsageError: `x` is not a number.
    """
    require_numbers(request.rows, request.x)
    series = series_of(request.rows, request.by)
    for number, (name, own) in enumerate(series.items()):
        shift = SPREAD * (number / max(1, len(series) - 1) - 0.5) if len(series) > 1 else 0.0
        means = sorted(summarise(own, [request.x], over=["head"]).items())
        heads = summarise(own, [request.x, "head"])
        colour, marker, line = look_of(number)
        axes.plot(
            [key[0] + shift for key in heads],
            [cell.value for cell in heads.values()],
            color=colour,
            marker=marker,
            linestyle="none",
            markersize=4,
            alpha=0.35,
        )
        axes.errorbar(
            [key[0] + shift for key, _ in means],
            [cell.value for _, cell in means],
            yerr=error_bars(cell for _, cell in means),
            color=colour,
            marker=marker,
            linestyle=line,
            capsize=3,
            label=series_label(request.by, name),
        )
    layers = sorted({one[request.x] for one in request.rows})
    axes.set_xticks(layers)
    axes.set_xlim(layers[0] - 0.5, layers[-1] + 0.5)
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    axes.set_xlabel("layer")
    if request.y in ("window_length", "look_back", "look_back_spread"):
        axes.set_ylabel(request.y.replace("_", " ") + " (tokens)")


ENTRY: Plot = windows
