"""A number of each head over the layers, such as window lengths, with the mean of a layer.

Rows come from `evaluate --trace heads`. The bar is the 95 % interval over heads, seeds and
whatever else differs within a layer; each head, over its seeds, is a faint point.
"""

from typing import TYPE_CHECKING

from xtool.averages import summarise
from xtool.errors import UsageError
from xtool.plots import Plot, Request
from xtool.plots._draw import COLOURS, LINES, MARKERS, series_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

X = "layer"
Y = "window_length"
BY = "label"
SPREAD = 0.12  # of a layer, over which series and heads stand side by side


def windows(axes: "Axes", request: Request) -> None:
    """A line a series over the layers.

    Raises:
        UsageError: `x` is not a number.
    """
    assert request.by is not None
    if not all(isinstance(one[request.x], int | float) for one in request.rows):
        raise UsageError(f"column `{request.x}` is not a number", "use `--kind bars`")
    series = list(dict.fromkeys(one.get(request.by) for one in request.rows))
    for number, name in enumerate(series):
        own = [one for one in request.rows if one.get(request.by) == name]
        shift = SPREAD * (number / max(1, len(series) - 1) - 0.5) if len(series) > 1 else 0.0
        means = sorted(summarise(own, [request.x]).items())
        heads = summarise(own, [request.x, "head"])
        turn, at = divmod(number, len(COLOURS))
        axes.plot(
            [key[0] + shift for key in heads],
            [cell.value for cell in heads.values()],
            color=COLOURS[at],
            marker=MARKERS[at],
            linestyle="none",
            markersize=4,
            alpha=0.35,
        )
        axes.errorbar(
            [key[0] + shift for key, _ in means],
            [cell.value for _, cell in means],
            yerr=[
                [0.0 if c.low is None else c.value - c.low for _, c in means],
                [0.0 if c.high is None else c.high - c.value for _, c in means],
            ],
            color=COLOURS[at],
            marker=MARKERS[at],
            linestyle=LINES[turn % len(LINES)],
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
