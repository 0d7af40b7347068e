"""How alike chosen pairs of tokens are at each level of a nested model: a line a pair.

Rows come from `inspect --tokens`; models are averaged, with their 95 % interval as a band, unless
`--by label` tells them apart. Without `--pairs a~b,a~A` these are the pairs whose mean cosine
changes most between levels, each token once.
"""

import re
from dataclasses import replace
from statistics import fmean

from matplotlib.axes import Axes

from xtool.errors import UsageError, unknown
from xtool.plots import Plot, Request
from xtool.plots._levels import drawable, require_pairs
from xtool.plots.curves import curves
from xtool.rows import Row
from xtool.tokenizers._names import visible

X = "width"
Y = "cosine"
BY = None
SHOWN = 8  # pairs, unless they are chosen

# A token is one character of any kind, then anything but the sign behind it.
PAIR = re.compile(r"(.[^~]*)~(.[^,]*)(?:,|$)", re.DOTALL)
Found = dict[frozenset[str], list[Row]]


def pairs(axes: Axes, request: Request) -> None:
    """A line a pair, over the width on a logarithmic scale.

    Raises:
        UsageError: rows that are not of token pairs, or `--pairs` with an unknown token.
    """
    require_pairs(request.rows)
    found: Found = {}
    for one in request.rows:
        found.setdefault(frozenset((str(one["token"]), str(one["other"]))), []).append(one)
    chosen = _asked(request.pairs, found) if request.pairs else _changing(found)
    rows = []
    for pair in chosen:
        for one in found[frozenset(pair)]:
            places = {str(one["token"]): one["index"], str(one["other"]): one["other_index"]}
            name = " ~ ".join(drawable(token, places[token]) for token in pair)
            rows.append(one | {"pair": f"{name}, {one.get(request.by)}" if request.by else name})
    curves(axes, replace(request, rows=rows, by="pair"))
    widths = sorted({one["width"] for one in rows})
    axes.set_xscale("log", base=2)
    axes.set_xticks(widths, [str(width) for width in widths])
    axes.minorticks_off()
    axes.set_xlabel("width")


def _changing(found: Found) -> list[tuple[str, str]]:
    """The pairs whose mean cosine moves most between two levels, each token in one of them."""
    moves = []
    for rows in found.values():
        levels: dict[float, list[float]] = {}
        for one in rows:
            levels.setdefault(one["width"], []).append(one["value"])
        means = [fmean(values) for values in levels.values()]
        moves.append((max(means) - min(means), str(rows[0]["token"]), str(rows[0]["other"])))
    chosen: list[tuple[str, str]] = []
    used: set[str] = set()
    for _, *pair in sorted(moves, key=lambda move: -move[0]):
        if len(chosen) < SHOWN and not used & {*pair}:
            chosen.append((pair[0], pair[1]))
            used |= {*pair}
    return chosen


def _asked(text: str, found: Found) -> list[tuple[str, str]]:
    names = {name for pair in found for name in pair}
    chosen = parse(text)
    for one, other in chosen:
        for name in (one, other):
            if name not in names:
                raise unknown("token", name, names)
        if one == other:
            raise UsageError(f"`--pairs {one}~{other}` names one token twice")
        if frozenset((one, other)) not in found:
            raise UsageError(f"`--pairs {one}~{other}`: the rows have no such pair")
    return list(dict.fromkeys(chosen))


def parse(text: str) -> list[tuple[str, str]]:
    """Pairs such as `a~b,a~A`; a comma, a tilde and white space may be tokens too.

    Raises:
        UsageError: not in this form.
    """
    found = PAIR.findall(text)
    if ",".join(f"{one}~{other}" for one, other in found) != text:
        raise UsageError(f"`--pairs {text}` is no list of pairs", "write it like `a~b,a~A`")
    return [(visible(one), visible(other)) for one, other in found]


ENTRY: Plot = pairs
