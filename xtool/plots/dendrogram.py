"""The average-linkage tree of the tokens by their cosine distance, a panel for each level.

Rows come from `inspect --tokens`; those of several seeds are averaged. The dashed line is where a
tree has its largest gap between 3 and 12 clusters, whose branches alternate in colour. A column
`group` (and `other_group`) is written behind the tokens.
"""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from xtool.errors import printable
from xtool.plots import Plot, Request
from xtool.plots._draw import COLOURS
from xtool.plots._levels import read_levels, tree_of
from xtool.plots._linkage import Merge, cut_height
from xtool.plots._pages import FILLED, POINTS, head_room, label_tokens, page, panel, pitch_of, room

X = "width"
Y = "cosine"
BY = None
LEAST = 4.0  # inches across a tree
FOOT = 0.6  # inches for the scale below


def dendrogram(axes: Axes, request: Request) -> None:
    """One tree a level, side by side, leaves down.

    Raises:
        UsageError: rows of several models, or that are not of token pairs.
        XtoolError: pairs that are missing.
    """
    levels = read_levels(request)
    names = levels.names
    if levels.groups:
        names = [f"{n}  {g}".rstrip() for n, g in zip(names, levels.groups, strict=True)]
    pitch = pitch_of(len(names))
    font, tall = FILLED * pitch, (len(names) + 1) * pitch / POINTS
    across, heading = max(LEAST, tall / 3.5), max(10.0, 0.7 * tall)
    before, foot = room(names, font), FOOT + heading / POINTS
    step = before + across + 0.2
    above = 1.5 * heading / POINTS + head_room(tall)
    figure = page(axes, len(levels.cosines) * step + 0.2, foot + tall + above)
    for place, (size, cosines) in enumerate(levels.cosines.items()):
        one = panel(figure, place * step + before, foot, across, tall)
        merges, order = tree_of(cosines)
        _tree(one, merges, order)
        one.set_ylim(len(names) - 0.5, -0.5)
        label_tokens(one, [names[token] for token in order], font, across=False)
        one.spines["left"].set_visible(False)
        one.tick_params(axis="x", labelsize=heading * 0.8)
        called = size if "=" in size else f"size {size}"
        one.set_title(f"{printable(levels.label)}, {called}", fontsize=heading)
        one.set_xlabel("1 - cosine, mean over two clusters", fontsize=heading)


def _tree(axes: Axes, merges: Sequence[Merge], order: Sequence[int]) -> None:
    """The brackets of all merges, those below the cut in the colour of their cluster."""
    n, cut = len(order), cut_height(merges)
    place = dict(zip(order, map(float, range(n)), strict=True))
    height = dict.fromkeys(range(n), 0.0)
    colour: dict[int, str] = {}
    tops = [s for m in merges if m.height > cut for s in (m.first, m.second)]
    for step, merge in enumerate(merges):
        place[n + step] = (place[merge.first] + place[merge.second]) / 2
        height[n + step] = merge.height
    # Clusters from the top down, so that neighbours differ.
    below = sorted((s for s in tops if height[s] <= cut), key=lambda s: place[s])
    colour.update({s: COLOURS[k % len(COLOURS)] for k, s in enumerate(below)})
    for step in range(len(merges) - 1, -1, -1):
        for side in (merges[step].first, merges[step].second):
            if n + step in colour:
                colour[side] = colour[n + step]
    lines, colours = [], []
    for step, merge in enumerate(merges):
        for side in (merge.first, merge.second):
            lines.append([(height[side], place[side]), (merge.height, place[side])])
            colours.append(colour.get(side, "0.4"))
        lines.append([(merge.height, place[merge.first]), (merge.height, place[merge.second])])
        colours.append(colour.get(n + step, "0.4"))
    axes.add_collection(LineCollection(lines, colors=colours, linewidths=1.0))
    axes.axvline(cut, color="0.4", linestyle="--", linewidth=0.8)
    axes.set_xlim(0, 1.03 * merges[-1].height)


ENTRY: Plot = dendrogram
