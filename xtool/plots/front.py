"""Loss against parameters: the front of a nested model's sizes, and models trained alone beside it.

Rows come from `evaluate --front`. The line joins the sizes that no other beats in both loss and
parameters; the faint points were evaluated and are beaten. Rings are uniform sizes. Rows without
`front`, such as those of twins, are points of their own series, means over seeds. All sizes were
scored on the same examples, so intervals would say nothing of their differences.
"""

from matplotlib.axes import Axes

from xtool.averages import summarise
from xtool.plots import Plot, Request
from xtool.plots._draw import (
    look_of,
    require_numbers,
    series_label,
    series_of,
    thousands,
)
from xtool.rows import Row

X = "params"
BY = "label"
Y = "loss"
BASELINES = False


def front(axes: Axes, request: Request) -> None:
    """A line and points for each nested model, points for the others.

    Raises:
        UsageError: `x` is not a number.
    """
    require_numbers(request.rows, request.x)
    rings: list[tuple[float, float]] = []
    for number, (name, rows) in enumerate(series_of(request.rows, request.by).items()):
        colour, marker, _ = look_of(number)
        label = series_label(request.by, name) if request.by else "models"
        kinds = series_of(rows, "front")
        for kind, own in kinds.items():
            points = _points(own, request.x)
            x, y = [one for one, _ in points], [one for _, one in points]
            if kind == "true":
                axes.plot(x, y, color=colour, marker=marker, markersize=5, label=f"{label}: front")
            elif kind == "false":
                axes.plot(
                    x, y, marker, color=colour, markersize=4, alpha=0.35, markeredgewidth=0,
                    label=f"{label}: beaten", zorder=1.5,
                )  # fmt: skip
            else:
                axes.plot(x, y, marker, color=colour, markersize=7, label=label, zorder=1.8)
            if kind is not None:
                rings += _points([one for one in own if "," not in str(one["size"])], request.x)
    if rings:
        axes.plot(
            [x for x, _ in rings], [y for _, y in rings], "o", color="none", markersize=11,
            markeredgecolor="0.25", markeredgewidth=1.2, label="uniform sizes",
        )  # fmt: skip
    axes.margins(0.06)
    axes.xaxis.set_major_formatter(lambda value, _: thousands(value, 4))
    axes.set_xlabel("parameters" if request.x == "params" else request.x.replace("_", " "))


def _points(rows: list[Row], x: str) -> list[tuple[float, float]]:
    """Where sizes stand, from left to right."""
    return sorted((at, cell.value) for (at, _), cell in summarise(rows, [x, "size"]).items())


ENTRY: Plot = front
