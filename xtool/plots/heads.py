"""A number of each head as a table of colours, layers down and heads across, such as head gates.

Rows come from `evaluate --trace heads`; those of several seeds are averaged.
"""

from matplotlib.axes import Axes

from xtool.averages import summarise
from xtool.errors import UsageError
from xtool.plots import Plot, Request
from xtool.plots._draw import require_one
from xtool.rows import short

X = "head"
Y = "head_gate"
BY = "layer"
PRINTED = 16  # heads and layers up to which each cell has its number
LIGHT = 0.6  # part of the colours from which black is read better than white


def heads(axes: Axes, request: Request) -> None:
    """One cell a head.

    Raises:
        UsageError: rows of several models.
    """
    require_heads(request)
    found = summarise(request.rows, ["layer", "head"], one_step=True)
    cells = {key: cell.value for key, cell in found.items()}
    layers, across = (sorted({key[place] for key in cells}) for place in (0, 1))
    table = [[cells.get((layer, head), float("nan")) for head in across] for layer in layers]
    picture = axes.imshow(table, aspect="auto", cmap="viridis")
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.colorbar(picture, ax=axes, label=request.y.replace("_", " "))
    low, high = picture.get_clim()
    if max(len(layers), len(across)) <= PRINTED:
        for down, values in enumerate(table):
            for place, value in enumerate(values):
                light = (value - low) / ((high - low) or 1) > LIGHT
                colour = "black" if light else "white"
                axes.text(place, down, short(value), ha="center", va="center", color=colour)
    axes.grid(visible=False)
    axes.set_xticks(range(len(across)), [str(head) for head in across])
    axes.set_yticks(range(len(layers)), [str(layer) for layer in layers])
    axes.set(xlabel="head", ylabel="layer")
    axes.set_title(str(request.rows[0].get("label")), fontsize="medium")


def require_heads(request: Request) -> None:
    """Raise UsageError where the rows are of several models, or have no layer and head."""
    if any(one.get("layer") is None or one.get("head") is None for one in request.rows):
        raise UsageError(
            f"rows of `{request.y}` have no layer and head", "make them with `evaluate --trace`"
        )
    require_one(request.rows, "label", "the rows are of several models")


ENTRY: Plot = heads
