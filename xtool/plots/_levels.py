"""Cosines of token pairs as matrices, a level each, and tokens in an order that keeps groups."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from matplotlib.font_manager import findfont, get_font

from xtool.errors import UsageError, XtoolError
from xtool.plots import Request
from xtool.plots._draw import require_one
from xtool.plots._linkage import Matrix, Merge, clusters, cut_height, leaf_order, linkage
from xtool.rows import Row

MOST = 1 << 32
HINT = "make them with `xtool inspect MODEL --tokens`"
COLUMNS = ("token", "other", "index", "other_index", "size", "width")
SIDES = (("index", "token", "group"), ("other_index", "other", "other_group"))


@dataclass(frozen=True)
class Levels:
    """Tokens and their cosines.

    Attributes:
        label: of the model.
        names: of the tokens, as they are drawn.
        groups: the group of each token, from the rows; empty where they have none.
        cosines: by level, the largest last; (V, V) each.
    """

    label: str
    names: list[str]
    groups: list[str]
    cosines: Mapping[str, Matrix]


def read_levels(request: Request) -> Levels:
    """The levels of one model's rows; those of several seeds are averaged.

    Raises:
        UsageError: rows of several models, or that are not of token pairs.
        XtoolError: a token with two names, or pairs that are missing.
    """
    require_pairs(request.rows)
    require_one(request.rows, "label", "the rows are of several models")
    tokens = _tokens(request.rows)
    places = {index: place for place, index in enumerate(tokens)}
    by_width: dict[str, tuple[float, list[Row]]] = {}
    for one in request.rows:
        by_width.setdefault(str(one["size"]), (one["width"], []))[1].append(one)
    groups = [group for _, group in tokens.values()]
    return Levels(
        str(request.rows[0].get("label")),
        [drawable(name, index) for index, (name, _) in tokens.items()],
        groups if any(groups) else [],
        {
            size: _matrix(rows, places, size)
            for size, (_, rows) in sorted(by_width.items(), key=lambda item: item[1][0])
        },
    )


def require_pairs(rows: Sequence[Row]) -> None:
    """Raise UsageError where rows are not of pairs of tokens."""
    for name in COLUMNS:
        if any(one.get(name) is None for one in rows):
            raise UsageError(f"rows of `{rows[0]['metric']}` have no `{name}`", HINT)
    for name in ("index", "other_index", "width"):
        if not all(type(one[name]) is int and 0 <= one[name] < MOST for one in rows):
            raise UsageError(f"column `{name}` of the rows is no whole number from 0", HINT)
    if any(one["width"] < 1 or one["index"] == one["other_index"] for one in rows):
        raise UsageError("the rows hold a width of 0, or a token with itself", HINT)


def _tokens(rows: Sequence[Row]) -> dict[int, tuple[str, str]]:
    """Name and group of each token, by its place in the table."""
    found: dict[int, tuple[str, str]] = {}
    for one in rows:
        for at, token, group in SIDES:
            index, name, own = one[at], str(one[token]), str(one.get(group) or "")
            known, before = found.get(index, (name, ""))
            if known != name:
                raise XtoolError(f"token {index} is `{known}` in one row and `{name}` in another")
            found[index] = (name, own or before)
    return dict(sorted(found.items()))


def _matrix(rows: Sequence[Row], places: Mapping[int, int], size: str) -> Matrix:
    """The mean cosine of each pair, (V, V)."""
    a = np.array([places[one["index"]] for one in rows])
    b = np.array([places[one["other_index"]] for one in rows])
    total, count = np.zeros((2, len(places), len(places)))
    np.add.at(total, (a, b), [float(one["value"]) for one in rows])
    np.add.at(count, (a, b), 1.0)
    total, count = total + total.T, count + count.T
    np.fill_diagonal(total, 1.0)
    np.fill_diagonal(count, 1.0)
    if not count.all():
        raise XtoolError(f"size {size} has no rows for some pairs of its tokens", HINT)
    return np.asarray(total / count)


def drawable(name: str, index: int) -> str:
    """A token's name, or its number where the font lacks one of its characters."""
    font: Any = get_font(findfont("DejaVu Sans"))
    return name if all(font.get_char_index(ord(c)) for c in name) else f"#{index}"


def tree_of(cosines: Matrix) -> tuple[list[Merge], list[int]]:
    """The average-linkage tree of tokens by their cosine distance, and its leaf order."""
    distances = 1 - cosines
    merges = linkage(distances)
    return merges, leaf_order(merges, distances)


@dataclass(frozen=True)
class Run:
    """Neighbours of one group, from place `start` up to `stop`, and what they are called."""

    start: int
    stop: int
    name: str


def ordered(levels: Levels) -> tuple[list[int], list[Run]]:
    """Tokens in the order that every level is drawn in, and the groups among them.

    Groups of the rows come in the order of their first tokens, each in the leaf order of the
    largest level's tree. Without any, they are the clusters of that tree's cut, numbered.
    """
    merges, order = tree_of(list(levels.cosines.values())[-1])
    if levels.groups:
        rank = {name: place for place, name in enumerate(dict.fromkeys(levels.groups))}
        order.sort(key=lambda token: rank[levels.groups[token]])
        found = groupby(order, key=lambda token: levels.groups[token])
    else:
        owner = clusters(merges, cut_height(merges))
        numbers = {name: str(n) for n, name in enumerate(dict.fromkeys(owner[t] for t in order), 1)}
        found = groupby(order, key=lambda token: numbers[owner[token]])
    runs, at = [], 0
    for name, members in found:
        stop = at + len(list(members))
        runs.append(Run(at, stop, name))
        at = stop
    return order, runs
