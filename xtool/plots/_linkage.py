"""Average linkage: a tree of things by their distances, its leaf order, and its cuts.

Sokal and Michener (1958): the two clusters that are closest by the mean distance of their members
are merged, again and again. Mean distances never fall from one merge to the next.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
FEWEST, MOST = 3, 12  # groups of a cut that is chosen by itself


@dataclass(frozen=True)
class Merge:
    """Two clusters that become one; leaf i is cluster i, the merge at place k is cluster n + k."""

    first: int
    second: int
    height: float


def linkage(distances: Matrix) -> list[Merge]:
    """The merges of average linkage, lowest first.

    Args:
        distances: (n, n), symmetric.
    """
    n = len(distances)
    apart = distances.astype(np.float64, copy=True)
    np.fill_diagonal(apart, np.inf)
    cluster, members = list(range(n)), np.ones(n)
    merges: list[Merge] = []
    for step in range(n - 1):
        a, b = divmod(int(apart.argmin()), n)
        a, b = min(a, b), max(a, b)
        merges.append(Merge(cluster[a], cluster[b], float(apart[a, b])))
        mean = (members[a] * apart[a] + members[b] * apart[b]) / (members[a] + members[b])
        apart[a], apart[:, a] = mean, mean
        apart[b], apart[:, b], apart[a, a] = np.inf, np.inf, np.inf
        cluster[a], members[a] = n + step, members[a] + members[b]
    return merges


def leaf_order(merges: Sequence[Merge], distances: Matrix) -> list[int]:
    """The leaves as the tree has them side by side; where two clusters meet, close leaves do."""
    orders: list[list[int]] = [[leaf] for leaf in range(len(distances))]
    for merge in merges:
        first, second = orders[merge.first], orders[merge.second]
        turns = [(a, b) for a in (first, first[::-1]) for b in (second, second[::-1])]
        one, other = min(turns, key=lambda turn: float(distances[turn[0][-1], turn[1][0]]))
        orders.append(one + other)
    return orders[-1]


def cut_height(merges: Sequence[Merge]) -> float:
    """Where a tree is cut: in its largest gap that leaves 3 to 12 groups, if it has so many."""
    heights = [merge.height for merge in merges]
    n = len(merges) + 1
    ends = range(max(n - MOST, 0), max(n - FEWEST, 0) + 1)  # merges that are below the cut
    below = {end: heights[end - 1] if end else 0.0 for end in ends}
    end = max(ends, key=lambda end: heights[end] - below[end])
    return (heights[end] + below[end]) / 2


def clusters(merges: Sequence[Merge], height: float) -> list[int]:
    """For each leaf the cluster that it is in once all merges up to a height are made."""
    n = len(merges) + 1
    found: list[list[int]] = [[leaf] for leaf in range(n)]
    owner = list(range(n))
    for step, merge in enumerate(merges):
        found.append(found[merge.first] + found[merge.second])
        if merge.height <= height:
            for leaf in found[-1]:
                owner[leaf] = n + step
    return owner
