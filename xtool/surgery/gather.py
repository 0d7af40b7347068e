"""Gathering: the rows of a resized tensor, picked from the old one by an index map for each axis.

A map gives, for each index of the new axis, the old index whose values it takes, or -1 where there
is none. The map of a product such as n_heads*d_head is composed from one map for each factor.
"""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from xtool.axes import Axis, Layout
from xtool.checkpoint import Reader


@runtime_checkable
class Along(Protocol):
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


def axis_map(old: tuple[int, ...], new: tuple[int, ...], along: Along) -> Int64[Tensor, " new"]:
    """The map of an axis whose factors have these old and new sizes."""
    out = torch.zeros(1, dtype=torch.int64)
    for was, now in zip(old, new, strict=True):
        part = along(was, now)  # (now,)
        both = out[:, None] * was + part[None, :]  # (before, now)
        out = torch.where((out[:, None] < 0) | (part[None, :] < 0), -1, both).flatten()
    return out


def new_places(old: tuple[int, ...], new: tuple[int, ...], factor: int) -> Bool[Tensor, " new"]:
    """Where an axis is new because of one of its factors, as a mask over the whole axis."""
    masks = [
        prefix(was, now) < 0 if place == factor else torch.zeros(now, dtype=torch.bool)
        for place, (was, now) in enumerate(zip(old, new, strict=True))
    ]
    out = torch.zeros(1, dtype=torch.bool)
    for mask in masks:
        out = (out[:, None] | mask[None, :]).flatten()
    return out


def maps(old: Layout, new: Layout, old_name: str, name: str, along: Along) -> list[Tensor]:
    """One map for each axis of a tensor."""
    return [
        axis_map(old.axis_sizes(old_name, axis), new.axis_sizes(name, axis), along)
        for axis in new.axes(name)
    ]


def gather(
    reader: Reader, name: str, found: list[Int64[Tensor, " _"]], start: int, stop: int
) -> Float64[Tensor, "{stop-start} *columns"]:
    """Rows [start, stop) of the resized tensor in float64; zero where there is no old value."""
    wanted = found[0][start:stop]  # (n,)
    shape = reader.shape(name)
    out = torch.zeros(len(wanted), *shape[1:], dtype=torch.float64)
    for at, length in _runs(wanted):
        first = int(wanted[at])
        out[at : at + length] = reader.rows(name, first, first + length).double()
    if len(found) > 1:
        columns = found[1]
        out = out[:, columns.clamp(min=0)]  # (n, columns)
        out[:, columns < 0] = 0
    return out


def _runs(wanted: Tensor) -> list[tuple[int, int]]:
    """Stretches of consecutive old rows, as (place, length), without rows that have no old one."""
    begins = torch.ones(len(wanted), dtype=torch.bool)
    begins[1:] = (wanted[1:] != wanted[:-1] + 1) | (wanted[1:] < 0)
    places = begins.nonzero().flatten()
    lengths = torch.diff(places, append=torch.tensor([len(wanted)]))
    kept = wanted[places] >= 0
    return list(zip(places[kept].tolist(), lengths[kept].tolist(), strict=True))


def copy_numbers(found: Int64[Tensor, " new"], copies: int) -> Int64[Tensor, " new"]:
    """Which copy of its old index each new index is, 0 to `copies` - 1, in order of place."""
    out = torch.empty_like(found)
    out[found.argsort(stable=True)] = torch.arange(len(found)) % copies
    return out


def factor_of(axis: Axis, old: tuple[int, ...], new: tuple[int, ...]) -> float:
    """How many times larger an axis became."""
    was, now = 1, 1
    for a, b in zip(old, new, strict=True):
        was, now = was * a, now * b
    return now / was
