"""How alike tokens are at each level of a nested model: a matrix a level, all in one order.

Rows come from `inspect --tokens`; those of several seeds are averaged. The order is that of the
leaves of the largest level's average-linkage tree, or follows a column `group` (and `other_group`
for the second token of a pair). Groups, else the clusters of that tree, stand in brackets.
"""

from matplotlib.axes import Axes

from xtool.errors import printable
from xtool.plots import Plot, Request
from xtool.plots._levels import ordered, read_levels
from xtool.plots._pages import (
    FILLED,
    POINTS,
    bracket,
    head_room,
    label_tokens,
    page,
    panel,
    pitch_of,
    room,
)

X = "width"
Y = "cosine"
BY = None
BAR = 0.1  # inches across a point of the colour bar's title


def similarity(axes: Axes, request: Request) -> None:
    """One matrix a level, side by side.

    Raises:
        UsageError: rows of several models, or that are not of token pairs.
        XtoolError: pairs that are missing.
    """
    levels = read_levels(request)
    order, runs = ordered(levels)
    names = [levels.names[token] for token in order]
    pitch = pitch_of(len(names))
    font, side = FILLED * pitch, len(names) * pitch / POINTS
    heading = max(10.0, 1.4 * side)
    least = min(run.stop - run.start for run in runs)
    named = max(font, min(heading, FILLED * least * pitch))  # names of groups may be turned
    before = room(names, font)
    behind = room([run.name for run in runs], named) + 1.2 * named / POINTS
    step = before + side + behind + 0.1
    above = behind + 1.5 * heading / POINTS + head_room(side)
    figure = page(axes, len(levels.cosines) * step + BAR * heading, before + side + above + 0.1)
    for place, (size, cosines) in enumerate(levels.cosines.items()):
        one = panel(figure, place * step + before, before + 0.1, side, side)
        table = cosines[order][:, order]
        picture = one.imshow(table, cmap="viridis", vmin=-1, vmax=1, interpolation="nearest")
        one.spines[:].set_visible(False)
        label_tokens(one, names, font)
        for run in runs[1:]:
            one.axhline(run.start - 0.5, color="white", linewidth=0.8)
            one.axvline(run.start - 0.5, color="white", linewidth=0.8)
        bracket(one, runs, named, side)
        called = size if "=" in size else f"size {size}"
        one.set_title(f"{printable(levels.label)}, {called}", fontsize=heading, pad=behind * POINTS)
    tall = min(side, 8.0)
    left, wide = len(levels.cosines) * step + 0.1, 0.2 * BAR * heading
    bar = panel(figure, left, before + 0.1 + side - tall, wide, tall)
    figure.colorbar(picture, cax=bar).set_label("cosine", fontsize=heading)
    bar.tick_params(labelsize=0.8 * heading)


ENTRY: Plot = similarity
