"""The small matrix's spectrum at the new rank, its own directions kept: not exact.

The open question of the counting experiment (brianakl/bootstrapped_model_up_scaling, 2023): what
if a new matrix had the singular values that a trained one has? W = U S V^T, (m, n) of rank
r = min(m, n), becomes W' = c [U +] diag(S, S+) [V +]^T, (M, N) of rank R = min(M, N). U and V stand
in the old coordinates, with zeros elsewhere; each is completed by seeded random directions
orthogonal to it, so W' has the singular values c (S, S+) exactly, and W' V = c U S: what is carried
does to the old coordinates' directions what it did, times c.

S+ are R - r new values. `resample` reads the sorted S at the rank fractions (j + 1/2) / (R - r),
linearly between its own (i + 1/2) / r, so the new spectrum has the shape of the old: at twice the
rank it is the old one, each value twice. `continue` goes on from the smallest value with the
spectrum's mean ratio q = (s_r / s_1)^(1 / (r - 1)), so what is new stays weaker than what is known.

An input of independent entries of variance 1 gives outputs of mean variance |W|^2 / m, |W|^2 being
the sum of the squared singular values. `keep` holds that: c^2 = (M / m) |S|^2 / |S, S+|^2, which is
1 when both sides double and the spectrum is resampled. `fan-in` sets it to that of fresh first
values. `carry` is c = 1, and where the axis under the root of attention scores grew, q is
multiplied so that the carried scores stay.

A matrix that only writes, such as an embedding, is a table of vectors: its rows keep their values,
and new entries are normal with the old table's mean square. New gains are 1, new biases 0. Symbols,
positions and copied heads of keys do not count in M and N: a matrix is made at the old number of
them, and the copies come afterwards. One whose sizes then stay keeps its values. One whole matrix
at a time is held in memory.
"""

from math import prod

import torch
from jaxtyping import Float64
from torch import Tensor

from xtool.axes import DATA
from xtool.gather import axis_map, prefix
from xtool.layers.initial import draw, initial
from xtool.seeds import derive
from xtool.surgery.operators import KEYS, Factor, Growth, Operator

PROMISE = "approximate"
CONDITION = "any width"
OPTIONS = [
    ("scale", "keep|fan-in|carry", "keep", "output variance as of the small or a fresh matrix"),
    ("spectrum", "resample|continue", "resample", "where new singular values come from"),
]


class Spectral:
    """The operator; see the module."""

    def rows(self, growth: Growth, name: str, start: int, stop: int) -> Tensor:
        """Rows of the new matrix, made whole once; or old values and fresh ones beside them."""
        if _shape(growth, name) == growth.reader.shape(growth.source(name)):
            return _carried(growth, name, start, stop)
        reads = any(axis.role == "reads" for role in growth.new.roles(name) for axis in role)
        if not reads or len(growth.new.axes(name)) == 1:
            return _beside(growth, name, start, stop)
        matrix = growth.held("spectral", name, lambda: _matrix(growth, name))
        return _placed(growth, name, matrix, start, stop)


def extended(small: Float64[Tensor, " r"], rank: int, how: str) -> Float64[Tensor, " rank"]:
    """The singular values at a new rank: the old ones, falling, then the new ones.

    Args:
        small: the old ones, falling.
        rank: the new rank, at least the old.
        how: `resample` or `continue`; see the module.
    """
    old, added = len(small), rank - len(small)
    if not added:
        return small
    if how == "continue":
        ratio = (small[-1] / small[0]) ** (1 / (old - 1)) if old > 1 and small[0] > 0 else 1.0
        return torch.cat([small, small[-1] * ratio ** torch.arange(1, added + 1).double()])
    places = (torch.arange(added).double() + 0.5) / added * old - 0.5  # in steps of the old ranks
    places = places.clamp(0, old - 1)
    below = places.floor().long()
    above = (below + 1).clamp(max=old - 1)
    return torch.cat([small, small[below].lerp(small[above], places - below)])


def _inner(growth: Growth, name: str) -> list[list[Factor]]:
    """The factors of each axis, those at their old size that bring no directions of their own."""

    def stays(factor: Factor) -> bool:
        return factor.name in DATA or (factor.name == KEYS and growth.regroups)

    return [
        [one._replace(new=one.old) if stays(one) else one for one in growth.factors(name, axis)]
        for axis in growth.new.axes(name)
    ]


def _shape(growth: Growth, name: str) -> tuple[int, ...]:
    """The shape (M, N) at which a new tensor is made."""
    return tuple(prod(one.new for one in axis) for axis in _inner(growth, name))


def _placed(growth: Growth, name: str, matrix: Tensor, start: int, stop: int) -> Tensor:
    """Rows of a new tensor from its matrix: copies of heads; zero for new symbols and positions."""
    found = []
    for inner, axis in zip(_inner(growth, name), growth.new.axes(name), strict=True):
        pairs = zip(inner, growth.factors(name, axis), strict=True)
        found.append(axis_map(tuple((i.new, f.new, growth.along(f, prefix)) for i, f in pairs)))
    rows, columns = found[0][start:stop], found[1]
    values = matrix[rows.clamp(min=0)][:, columns.clamp(min=0)]
    return values.masked_fill_((rows < 0)[:, None] | (columns < 0)[None, :], 0)


def _matrix(growth: Growth, name: str) -> Float64[Tensor, "M N"]:
    """The whole matrix, float64."""
    old = growth.reader.tensor(growth.source(name)).double()  # (m, n)
    rank = min(_shape(growth, name))
    u, values, vt = torch.linalg.svd(old, full_matrices=False)  # (m, r), (r,), (r, n)
    new_values = extended(values, rank, growth.dials["spectrum"])  # (R,)
    places = [
        axis_map(tuple((one.old, one.new, prefix) for one in axis)) for axis in _inner(growth, name)
    ]
    left = _completed(u, places[0], rank, derive(growth.seed, "spectral left", name))  # (M, R)
    right = _completed(vt.T, places[1], rank, derive(growth.seed, "spectral right", name))  # (N, R)
    return (left * (new_values * _scale(growth, name, values, new_values))) @ right.T  # (M, N)


def _completed(
    directions: Float64[Tensor, "m r"], places: Tensor, rank: int, seed: int
) -> Float64[Tensor, "M R"]:
    """Orthonormal columns: the old ones at their places, then random ones orthogonal to them."""
    out = torch.zeros(len(places), directions.shape[1], dtype=torch.float64)
    out[places >= 0] = directions[places[places >= 0]]  # (M, r)
    added = rank - directions.shape[1]
    if not added:
        return out
    shape = (len(places), added)
    drawn = draw(shape, seed, 0, shape[0], lambda v, g: v.normal_(generator=g)).double()  # (M, R-r)
    for _ in range(2):  # Once is orthogonal to 1e-8 at worst, twice to rounding.
        drawn = torch.linalg.qr(drawn - out @ (out.T @ drawn))[0]
    return torch.cat([out, drawn], 1)  # (M, R)


def _scale(growth: Growth, name: str, old: Tensor, new: Tensor) -> float:
    """The factor c of every singular value."""
    how = growth.dials["scale"]
    power = float(new.square().sum())
    if how == "carry" or not power:
        return growth.root(name)
    if how == "fan-in":
        fresh = initial(growth.new, name, growth.seed).double()
        share = prod(_shape(growth, name)) / fresh.numel()
        return float((fresh.square().sum() * share / power) ** 0.5)
    written = 1 if growth.new.axes(name)[0].role == "reads" else 0
    before = growth.reader.shape(growth.source(name))[written]
    ratio = _shape(growth, name)[written] / before
    return float((ratio * old.square().sum() / power) ** 0.5)


def _carried(growth: Growth, name: str, start: int, stop: int) -> Tensor:
    """Old values at their places; under `carry` those of q so that scores stay."""
    factor = growth.root(name) if growth.dials["scale"] == "carry" else 1.0
    return growth.gather(name, prefix, start, stop) * factor


def _beside(growth: Growth, name: str, start: int, stop: int) -> Tensor:
    """Old values at their places; new ones fresh, those of a learned table with the old's power."""
    found = growth.maps(name, prefix)
    values = _carried(growth, name, start, stop)
    fresh = initial(growth.new, name, growth.seed, start, stop).double()
    kept = found[0][start:stop] >= 0
    if len(found) == 1:
        return torch.where(kept, values, fresh)
    if not growth.new.is_frozen(name):
        seed = derive(growth.seed, "spectral table", name)
        shape = growth.new.shape(name)
        drawn = draw(shape, seed, start, stop, lambda v, g: v.normal_(generator=g))
        fresh = drawn.double() * _root_mean_square(growth, name)
    return torch.where(kept[:, None] & (found[1] >= 0)[None, :], values, fresh)


def _root_mean_square(growth: Growth, name: str) -> float:
    """Of an old table's values, read once while the table is written."""

    def measured() -> float:
        table = growth.reader.tensor(growth.source(name)).double()
        return float(table.square().mean() ** 0.5)

    return growth.held("spectral", name, measured)


ENTRY: Operator = Spectral()
