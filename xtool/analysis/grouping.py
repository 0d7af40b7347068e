"""Groups of tokens that an embedding's prefix shows by itself, and how clear they are.

`average` cuts the tree of average linkage and `hdbscan` takes the densest clusters (Campello et
al., 2013; scikit-learn's), both on cosines from the tokens' mean, since what all tokens share says
nothing of them. The vectors of tokens that are hardly ever seen have learned that alone, so they
make no groups but join the nearest. `threshold` is the rule of the study
(evintunador/hierarchical_embeddings, 2024): DBSCAN on raw cosines, which chains. A token that is in
no cluster is a group of its own.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int64
from numpy import ndarray

from xtool.errors import UsageError

METHODS = ("average", "hdbscan", "threshold")
NEAR, FEWEST = 0.1, 3  # the study's distance and least number of tokens
LEAST, MOST = 3, 12  # groups that average linkage may choose by itself
RARE = 0.02  # of an even share of the text, below which a token is hardly ever seen


def grouped(
    table: Float[ndarray, "V d"],
    method: str,
    count: int | None = None,
    seen: Int64[ndarray, " V"] | None = None,
) -> list[int]:
    """The group of every token, numbered in order of appearance.

    Args:
        table: the embedding's prefix.
        method: one of `METHODS`.
        count: how many groups `average` makes; unless given 3 to 12, by their silhouette
            (Rousseeuw, 1987).
        seen: how often each token stands in the text; unless given all as often. `threshold`
            groups them all.

    Raises:
        UsageError: scikit-learn is not there, or a count that the tokens do not allow.
    """
    clusters = _library("cluster")
    often = np.ones(len(table), bool)
    if seen is not None and method != "threshold":
        often = seen >= RARE * seen.mean()
    if often.sum() <= max(LEAST, count or 0):
        often[:] = True
    far = 1 - cosines(table if method == "threshold" else table - table[often].mean(0))
    near = far[np.ix_(often, often)]
    if method == "average":
        require_groups(count, len(table))
        found = _cut(near, count or _natural(near))
    elif method == "hdbscan":
        found = clusters.HDBSCAN(FEWEST, metric="precomputed", copy=True).fit_predict(near)
    else:
        found = clusters.DBSCAN(NEAR, min_samples=FEWEST, metric="precomputed").fit_predict(near)
    made = np.full(len(table), -1)
    made[often] = found
    if found.max() >= 0 and not often.all():
        members = [made == group for group in range(found.max() + 1)]
        made[~often] = np.stack([far[:, one].mean(1) for one in members])[:, ~often].argmin(0)
    alone = np.where(made < 0, len(made) + np.arange(len(made)), made)
    number = {group: place for place, group in enumerate(dict.fromkeys(alone.tolist()))}
    return [number[group] for group in alone.tolist()]


def require_groups(count: int | None, tokens: int) -> None:
    """Raise UsageError where so many tokens cannot be grouped so, or scikit-learn is not there."""
    _library("cluster")
    if tokens <= LEAST:
        raise UsageError(f"{tokens} tokens are too few to group")
    if count is not None and not 1 < count < tokens:
        raise UsageError(f"`groups` is {count}, it must be 2 to {tokens - 1}")


def _cut(far: Float[ndarray, "V V"], count: int) -> Int64[ndarray, " V"]:
    """The tree of average linkage, cut into so many groups."""
    made: Int64[ndarray, " V"] = (
        _library("cluster")
        .AgglomerativeClustering(n_clusters=count, metric="precomputed", linkage="average")
        .fit_predict(far)
    )
    return made


def _natural(far: Float[ndarray, "V V"]) -> int:
    """The number of groups whose tokens are, by silhouette, nearest to their own."""
    width = _library("metrics").silhouette_score
    counts = range(LEAST, min(MOST, len(far) - 1) + 1)
    return max(counts, key=lambda n: float(width(far, _cut(far, n), metric="precomputed")))


def cosines(table: Float[ndarray, "V d"]) -> Float[ndarray, "V V"]:
    """Cosine similarity of every pair of rows, within [-1, 1]."""
    length = np.linalg.norm(table, axis=1, keepdims=True)
    unit = table / np.maximum(length, np.finfo(table.dtype).tiny)
    found: Float[ndarray, "V V"] = np.clip(unit @ unit.T, -1, 1)
    np.fill_diagonal(found, 1)
    return found


def agreement(one: Sequence[int], other: Sequence[int]) -> float:
    """Adjusted mutual information of two groupings: 1 where equal, 0 as chance has it."""
    return float(_library("metrics").adjusted_mutual_info_score(one, other))


def clarity(table: Float[ndarray, "V d"], groups: Sequence[int]) -> dict[str, float]:
    """How many groups there are, how large, and how alike the tokens of one are."""
    near, labels = cosines(table), np.asarray(groups)
    same: Int64[ndarray, "V V"] = labels[:, None] == labels[None, :]
    pairs = np.triu(np.ones_like(same, bool), 1)
    found = {"groups": float(len({*groups})), "largest_group": float(np.bincount(labels).max())}
    if (pairs & same).any():
        found["inner_cosine"] = float(near[pairs & same].min())
    if (pairs & same).any() and (pairs & ~same).any():
        within, between = near[pairs & same].mean(), near[pairs & ~same].mean()
        found["cosine_contrast"] = float(within - between)
    return found


def _library(part: str) -> Any:
    try:
        import sklearn.cluster
        import sklearn.metrics
    except ImportError as error:
        raise UsageError(
            "groups of tokens need scikit-learn", "`pip install 'xtool[trees]'`"
        ) from error
    return getattr(sklearn, part)
