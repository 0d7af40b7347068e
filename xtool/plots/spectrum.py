"""Singular values over the fraction of the full rank: a line a model, a panel a matrix."""

from collections.abc import Sequence
from math import ceil

from matplotlib.axes import Axes

from xtool.averages import summarise
from xtool.errors import UsageError
from xtool.plots import Plot, Request
from xtool.plots._draw import COLOURS, LINES, require_numbers, series_of
from xtool.rows import Row

X = "rank"
BY = "label"
ACROSS, MOST = 4, 64
HEIGHT = 1.6  # inches a row of panels


def spectrum(axes: Axes, request: Request) -> None:
    """One panel for each `tensor` of the rows, all with the same axes.

    Raises:
        UsageError: more panels than a page holds, or `x` is not a number.
    """
    require_numbers(request.rows, request.x)
    tensors = list(dict.fromkeys(str(one.get("tensor")) for one in request.rows))
    series = list(series_of(request.rows, request.by or "label"))
    if len(tensors) > MOST:
        raise UsageError(
            f"{len(tensors)} matrices, at most {MOST} panels are drawn",
            f"choose some with `--where tensor={tensors[0]},{tensors[1]}`",
        )
    axes.set_xlabel("rank / full rank")
    axes.set_ylabel(
        "singular value / largest" if request.y == "singular_value" else request.y.replace("_", " ")
    )
    if len(tensors) == 1:
        _lines(axes, request, request.rows, series)
        axes.set_title(tensors[0], fontsize="medium")
        return
    for panel, name in zip(_panels(axes, len(tensors)), tensors, strict=True):
        own = [one for one in request.rows if str(one.get("tensor")) == name]
        _lines(panel, request, own, series)
        panel.set_title(name.removesuffix(".weight"), fontsize="xx-small")
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.supylabel(axes.get_ylabel(), fontsize="medium")
    axes.set(xlabel="", ylabel="")
    for number, label in enumerate(series):
        axes.plot([], [], color=_colour(number), linestyle=_dash(number), label=str(label))


def _panels(axes: Axes, number: int) -> list[Axes]:
    """Small axes in place of the large ones, of which only the labels are left."""
    across = min(ACROSS, number)
    down = ceil(number / across)
    place = axes.get_subplotspec()
    assert place is not None
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.set_size_inches(7, max(4.5, 1 + HEIGHT * down))
    grid = place.subgridspec(down, across)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.grid(visible=False)
    axes.set_xticks([])
    axes.set_yticks([])
    panels: list[Axes] = []
    for at in range(number):
        row, column = divmod(at, across)
        shared = panels[0] if panels else None
        panel = figure.add_subplot(grid[row, column], sharex=shared, sharey=shared)
        last = at + across >= number
        panel.set_xlabel(axes.get_xlabel() if last else "", fontsize="x-small")
        panel.tick_params(labelsize="xx-small", labelbottom=last, labelleft=column == 0)
        panels.append(panel)
    return panels


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _dash(number: int) -> str:
    return LINES[number % len(LINES)]


def _lines(axes: Axes, request: Request, rows: Sequence[Row], series: Sequence[object]) -> None:
    own = series_of(rows, request.by or "label")
    for number, label in enumerate(series):
        cells = sorted(summarise(own.get(label, []), [request.x]).items())
        x, y = [key[0] for key, _ in cells], [cell.value for _, cell in cells]
        axes.plot(x, y, color=_colour(number), linestyle=_dash(number), label=str(label))
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)


ENTRY: Plot = spectrum
