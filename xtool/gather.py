"""Gathering: the rows of a resized tensor, picked from the old one by an index map for each axis.

A map gives, for each index of the new axis, the old index whose values it takes, or -1 where there
is none. The map of a product such as n_heads*d_head is composed from one map for each factor.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from xtool.axes import RESIDUAL, Layout
from xtool.checkpoint import Reader, one_thread

# Stretches of fewer indices than this, on average, are picked one by one.
SHORT = 16


@runtime_checkable
class Along(Hashable, Protocol):
    """From the old and the new size of one factor to its map, (new,)."""

    __name__: str

    def __call__(self, old: int, new: int) -> Int64[Tensor, " new"]: ...


def prefix(old: int, new: int) -> Int64[Tensor, "{new}"]:
    """Old indices first, then none; or the first `new` ones."""
    places = torch.arange(new)
    return torch.where(places < old, places, -1)


def tile(old: int, new: int) -> Int64[Tensor, "{new}"]:
    """Whole copies one after another: 0 1 2 0 1 2."""
    return torch.arange(new) % old


def repeat(old: int, new: int) -> Int64[Tensor, "{new}"]:
    """Each index several times: 0 0 1 1 2 2."""
    return torch.arange(new) // (new // old)


@lru_cache(maxsize=32)
def axis_map(factors: tuple[tuple[int, int, Along], ...]) -> Int64[Tensor, " new"]:
    """The map of an axis from its factors' old and new sizes and maps; shared: do not change it."""
    out = torch.zeros(1, dtype=torch.int64)
    for was, now, along in factors:
        part = along(was, now)  # (now,)
        both = out[:, None] * was + part[None, :]  # (before, now)
        out = torch.where((out[:, None] < 0) | (part[None, :] < 0), -1, both).flatten()
    return out


@dataclass(frozen=True, eq=False)
class Picked:
    """The first indices in an order of a user's or a measure's own, in place of the first ones."""

    order: Int64[Tensor, " old"]
    __name__ = "picked"

    def __call__(self, old: int, new: int) -> Int64[Tensor, "{new}"]:
        """The map of a factor."""
        return self.order[:new]


# Orders of units by factor and layer; those of the residual stream belong to no layer.
Orders = Mapping[tuple[str, int | None], Picked]


def prefixes(
    old: Layout,
    new: Layout,
    name: str,
    source: str | None = None,
    orders: Orders | None = None,
) -> list[Tensor]:
    """One map for each axis of a tensor: its first indices along every factor.

    Args:
        old: the axes of the large model.
        new: those of the small one.
        name: the tensor in the small one.
        source: in the large one, where its name is another.
        orders: in which order the units of a factor come; the layer is that of the large one.
    """
    source, known, found = source or name, orders or {}, []
    layer = old.layer(source)
    for axis in new.axes(name):
        was, now = old.axis_sizes(source, axis), new.axis_sizes(name, axis)
        keys = [(str(one), None if one == RESIDUAL else layer) for one in axis.factors]
        along = [known.get(key, prefix) for key in keys]
        found.append(axis_map(tuple(zip(was, now, along, strict=True))))
    return found


@one_thread()
def gather(
    reader: Reader,
    name: str,
    found: list[Int64[Tensor, " _"]],
    start: int,
    stop: int,
    dtype: torch.dtype = torch.float64,
) -> Float[Tensor, "{stop-start} *columns"]:
    """Rows [start, stop) of the resized tensor in the given type; zero where there is no old value.

    Args:
        reader: the old tensors.
        name: the old tensor.
        found: one map for each axis, of one or two.
        start: first row.
        stop: the row after the last.
        dtype: of the result.
    """
    wanted, columns = found[0][start:stop], found[1:]  # (n,)
    whole = all(bool((one >= 0).all()) for one in (wanted, *columns))
    make = torch.empty if whole else torch.zeros
    out = make(len(wanted), *map(len, columns), dtype=dtype)
    stretches = _runs(wanted)
    low, high = int(wanted.min()), int(wanted.max()) + 1
    if whole and high - low <= len(wanted) < SHORT * len(stretches):
        _copy(reader.rows(name, low, high)[wanted - low], columns, out)
        return out
    for at, first, length in stretches:
        _copy(reader.rows(name, first, first + length), columns, out[at : at + length])
    return out


def _copy(rows: Tensor, columns: list[Tensor], out: Tensor) -> None:
    """Copy rows (n, *old) to `out` (n, *new), by the map of the columns where there are any."""
    if not columns:
        out.copy_(rows)
        return
    stretches = runs(columns[0])
    if len(columns[0]) < SHORT * len(stretches):
        kept = columns[0] >= 0
        out[:, kept] = rows[:, columns[0][kept]].to(out.dtype)
        return
    for at, first, length in stretches:
        out[:, at : at + length] = rows[:, first : first + length]


@lru_cache(maxsize=32)
def runs(found: Int64[Tensor, " new"]) -> list[tuple[int, int, int]]:
    """Stretches of consecutive old indices, as (place, old index, length), in order of place.

    What was found for a map is remembered as long as the same tensor, not an equal one, is given.
    """
    return _runs(found)


def _runs(wanted: Tensor) -> list[tuple[int, int, int]]:
    # Index 0 always begins one: it comes after no other, even where it comes after a -1.
    places = wanted.numpy()
    begins = np.flatnonzero((np.diff(places, prepend=-2) != 1) | (places <= 0))
    lengths = np.diff(begins, append=len(places))
    kept = places[begins] >= 0
    found = (begins[kept], places[begins[kept]], lengths[kept])
    return list(zip(*(one.tolist() for one in found), strict=True))


def copy_numbers(found: Int64[Tensor, " new"], copies: int) -> Int64[Tensor, " new"]:
    """Which copy of its old index each new index is, 0 to `copies` - 1, in order of place."""
    out = torch.empty_like(found)
    out[found.argsort(stable=True)] = torch.arange(len(found)) % copies
    return out
