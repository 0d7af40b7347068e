"""A metric by the size of a nested model, beside twins that were trained alone and plain cuts.

Rows come from `evaluate NESTED TWIN... --size all`; twins are one series if they have one label
(`--label`). Bars and bands are 95 % intervals. Series stand a little apart at each size.
"""

import re
from itertools import pairwise
from math import log
from statistics import fmean

from matplotlib.axes import Axes

from xtool.averages import summarise
from xtool.errors import UsageError
from xtool.plots import Plot, Request
from xtool.plots._draw import (
    error_bars,
    logarithmic,
    look_of,
    require_numbers,
    series_label,
    series_of,
    thousands,
)

X = "params"
Y = "loss"
BY = "label"
LAST = True
APART = 1.02  # factor from one series to the next
ROOM = 0.016  # of the axis that a character takes
LETTER, UPRIGHT = 0.085, 12  # inches of a turned label's letter; as many have room
CLOSE = 0.05  # of the axis, within which turned labels share a tick


def sizes(axes: Axes, request: Request) -> None:
    """A line a series over the parameters of its sizes.

    Raises:
        UsageError: `x` is not a number above 0.
    """
    require_numbers(request.rows, request.x)
    if not all(one[request.x] > 0 for one in request.rows):
        raise UsageError(
            f"column `{request.x}` is not above 0, which a logarithmic axis needs",
            "`--kind front` has none",
        )
    series = series_of(request.rows, request.by)
    for number, (name, own) in enumerate(series.items()):
        cells = sorted(summarise(own, [request.x]).items())
        shift = APART ** (number - (len(series) - 1) / 2)
        x, found = [key[0] * shift for key, _ in cells], [cell for _, cell in cells]
        bars = error_bars(found)
        values = [cell.value for cell in found]
        colour, marker, line = look_of(number)
        axes.errorbar(
            x, values, yerr=bars, color=colour, marker=marker, linestyle=line, markersize=5,
            capsize=3, label=series_label(request.by, name),
        )  # fmt: skip
        low = [value - below for value, below in zip(values, bars[0], strict=True)]
        high = [value + above for value, above in zip(values, bars[1], strict=True)]
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set_xscale("log")
    logarithmic(axes, request)
    # Baselines that are far from every model do not flatten the picture.
    axes.set_ylim(*axes.get_ylim())
    if any(one.get("size") is not None for one in request.rows):
        _label(axes, request)
    else:
        axes.set_xlabel(request.x.replace("_", " "))


def _label(axes: Axes, request: Request) -> None:
    """Ticks at the sizes; names are turned where they would meet, and the closest share a tick."""
    places: dict[str, list[float]] = {}
    for one in request.rows:
        if one.get("size") is not None:
            places.setdefault(str(one["size"]), []).append(one[request.x])
    ticks = sorted((fmean(found), size) for size, found in places.items())
    low, high = map(log, axes.get_xlim())
    at = [(log(x) - low) / (high - low) for x, _ in ticks]
    widest = max(len(word) for _, size in ticks for word in (*size.split(), "000.0k"))
    turned = any(b - a < ROOM * (widest + 1) for a, b in pairwise(at))
    groups: list[list[int]] = []
    for number, place in enumerate(at):
        if turned and number and place - at[number - 1] < CLOSE:
            groups[-1].append(number)
        else:
            groups.append([number])
    labels = []
    for group in groups:
        lines = [f"{ticks[n][1]}\0({thousands(ticks[n][0], 3)})" for n in group]
        text = "\n".join(lines)
        labels.append(text.replace("\0", " ") if turned else re.sub("[ \0]", "\n", text))
    axes.minorticks_off()
    if turned and (figure := axes.get_figure(root=True)) is not None:
        longest = max(len(line) for text in labels for line in text.split("\n"))
        wide, tall = figure.get_size_inches()
        figure.set_size_inches(wide, tall + LETTER * max(0, longest - UPRIGHT))
    middles = [fmean(ticks[n][0] for n in group) for group in groups]
    axes.set_xticks(middles, labels, rotation=90 if turned else 0)
    axes.set_xlabel("size (parameters)" if request.x == "params" else f"size ({request.x})")


ENTRY: Plot = sizes
