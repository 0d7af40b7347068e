"""The mean attention weights, a panel a head: queries down, keys across.

Rows come from `evaluate --trace maps`; those of several seeds are averaged. Each panel has its own
colours, by the root of the weight; what no query looks at is white.
"""

from matplotlib.axes import Axes

from xtool.averages import summarise
from xtool.errors import UsageError
from xtool.plots import Plot, Request
from xtool.plots.heads import require_heads

X = "key"
Y = "attention"
BY = "head"
MOST = 144  # panels
GAMMA = 0.5  # of the colours
BRIGHT = 0.99  # part of the cells below the brightest colour: first queries have few keys
NONE = float("nan")


def attention_map(axes: Axes, request: Request) -> None:
    """Panels in a grid, layers down and heads across.

    Raises:
        UsageError: rows of several models, or too many heads.
    """
    from matplotlib.colors import PowerNorm

    require_heads(request)
    keys = ["layer", "head", "query", "key"]
    found = summarise(request.rows, keys, one_step=True)
    cells = {key: cell.value for key, cell in found.items()}
    layers, heads, queries, across = (sorted({key[place] for key in cells}) for place in range(4))
    if len(layers) * len(heads) > MOST:
        raise UsageError(
            f"{len(layers) * len(heads)} heads, at most {MOST} panels are drawn",
            "choose layers with `--where layer=0,1`",
        )
    axes.set_axis_off()
    axes.set_title("queries down, keys across", fontsize="small", color="0.4")
    extent = (across[0], across[-1] + _side(across), queries[-1] + _side(queries), queries[0])
    for down, layer in enumerate(layers):
        for place, head in enumerate(heads):
            width, height = 1 / len(heads), 1 / len(layers)
            at = [place * width, 1 - (down + 1) * height, 0.86 * width, 0.8 * height]
            panel = axes.inset_axes(at)  # type: ignore[arg-type]
            table = [[cells.get((layer, head, q, k), NONE) for k in across] for q in queries]
            norm = PowerNorm(GAMMA, vmin=0.0, vmax=_bright(table))
            panel.imshow(table, extent=extent, aspect="auto", cmap="viridis", norm=norm)
            panel.grid(visible=False)
            name = f"layer {layer} head {head}"
            panel.set_title(name, fontsize="xx-small", pad=2)
            panel.tick_params(labelsize="xx-small", length=2, pad=1)
            panel.set_xticks([across[0], across[-1]])
            panel.set_yticks([queries[0], queries[-1]])


def _bright(table: list[list[float]]) -> float:
    """The weight of the brightest colour."""
    known = sorted(value for values in table for value in values if value == value)
    return known[int(BRIGHT * (len(known) - 1))]


def _side(places: list[int]) -> int:
    return places[1] - places[0] if len(places) > 1 else 1


ENTRY: Plot = attention_map
