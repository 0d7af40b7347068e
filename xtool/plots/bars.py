"""A bar for each value of a column, with its 95 % interval; seeds are averaged."""

from matplotlib.axes import Axes

from xtool.averages import summarise
from xtool.plots import Plot, Request
from xtool.plots._draw import COLOURS, error_bars, series_label, series_of
from xtool.rows import short

X = "label"
BY = None
LAST = True
MOST_NUMBERS = 8


def bars(axes: Axes, request: Request) -> None:
    """One group a value of `x`, one bar a value of `by`."""
    series = series_of(request.rows, request.by)
    keys = [request.x, request.by] if request.by else [request.x]
    cells = summarise(request.rows, keys, one_step=True)
    groups = list(dict.fromkeys(key[0] for key in cells))
    width = 0.8 / len(series)
    for number, name in enumerate(series):
        shift = (number - (len(series) - 1) / 2) * width
        colour = COLOURS[number % len(COLOURS)]
        found = [
            (place, cells[key])
            for place, group in enumerate(groups)
            if (key := (group, name) if request.by else (group,)) in cells
        ]
        axes.bar(
            [place + shift for place, _ in found],
            [cell.value for _, cell in found],
            width * 0.9,
            color=colour,
            label=series_label(request.by, name) if request.by else None,
        )
        for place, cell in found:
            top = cell.value
            if cell.low is not None and cell.high is not None:
                spread = error_bars([cell])
                axes.errorbar(place + shift, cell.value, spread, color="black", capsize=3)
                top = cell.high
            if len(cells) <= MOST_NUMBERS:
                at = (place + shift, top)
                text = short(cell.value)
                axes.annotate(text, at, (0, 3), textcoords="offset points", ha="center")
    turned = max(len(str(group)) for group in groups) * len(groups) > 60
    axes.set_xticks(
        range(len(groups)),
        [str(g) for g in groups],
        rotation=30 if turned else 0,
        ha="right" if turned else "center",
    )
    margin = max(0.75, 1.75 - len(groups) / 2)
    axes.set_xlim(-margin, len(groups) - 1 + margin)
    axes.grid(axis="x", visible=False)
    axes.set_xlabel("" if request.x == "label" else request.x.replace("_", " "))


ENTRY: Plot = bars
