"""Whole factors, exactly: units are copied, and what reads the copies is divided by their number.

HyperCloning (Samragh et al., 2024, arXiv:2409.12903). Copies of one input cancel paired noise, +N
on the weights of one and -N on its partner's, so the copies may differ and still compute the same;
without noise they would never separate in training. Of q and k only q is rescaled, so that the
scores stay.
"""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from xtool.axes import RESIDUAL
from xtool.checkpoint import one_thread
from xtool.gather import copy_numbers, gather, prefix, runs, tile
from xtool.layers.initial import CHUNK, chunks
from xtool.seeds import derive
from xtool.surgery.operators import Carry, Growth, Operator, multiplied, uneven

PROMISE = "exact"
CONDITION = "whole factors; a tied head needs a final norm"
OPTIONS = [
    ("noise", "bool", True, "add paired noise, which breaks the symmetry of the copies"),
    ("noise_db", "float", 10.0, "the weights' power over the noise's, in decibels"),
]
WORD = 64  # bits
BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)  # of each byte
LOUDEST = 200  # in dB, a factor of 10^10
SIGNS = BITS.astype(np.float32) * 2 - 1  # (256, 8)


class Clone:
    """The operator; see the module."""

    def refuse(self, growth: Growth) -> str:
        """A size that is no whole multiple, or a tied head that reads the stream without a norm."""
        if growth.dials["noise"] and not abs(growth.dials["noise_db"]) <= LOUDEST:
            return f"`noise_db` is {growth.dials['noise_db']}, it must be -{LOUDEST} to {LOUDEST}"
        return uneven(growth.old, growth.new) or multiplied(growth.old, growth.new)

    @one_thread()
    def rows(self, growth: Growth, name: str, start: int, stop: int) -> Tensor:
        """Copies along every axis, divided by the number of copies that are summed over."""
        scale = self.carry(growth, name).scale
        dtype = growth.working(name, scale)
        summed = growth.new.reading(name)
        noisy = growth.dials["noise"] and summed is not None and len(growth.new.shape(name)) == 2
        source = growth.source(name)
        if noisy and summed and growth.new.shape(name)[1] >= 2 * growth.reader.shape(source)[1]:
            found = [growth.maps(name, tile)[0], _same(growth.reader.shape(source)[1])]
            values = gather(growth.reader, source, found, start, stop, dtype)  # (n, old)
            return _copies_apart(growth, name, _scaled(values, scale), start)
        values = _scaled(growth.gather(name, tile, start, stop, dtype), scale)
        if noisy and summed == 0:
            _add_noise_to_rows(growth, name, values, start)
        return values

    def carry(self, growth: Growth, name: str) -> Carry:
        """Every entry of every copy."""
        return Carry(tile, growth.root(name) / self._summed(growth, name))

    def _summed(self, growth: Growth, name: str) -> float:
        """How many copies of each input this tensor's values are summed over."""
        out = 1.0
        for axis in growth.new.axes(name):
            if axis.role == "reads":
                out *= growth.times(name, axis)
        product = growth.new.product(name)
        if product is not None:
            out *= growth.ratio(product[0])
        if any(name.startswith(tie.norm + ".") for tie in growth.new.ties):
            out *= growth.ratio(RESIDUAL)
        return out


@lru_cache(maxsize=32)
def _same(size: int) -> Tensor:
    return prefix(size, size)


def _scaled(values: Tensor, scale: float) -> Tensor:
    return values if scale == 1 else values.mul_(scale)


def _copies_apart(growth: Growth, name: str, values: Tensor, start: int) -> Tensor:
    """Rows (n, old) from `start` on, copied along the columns with paired noise: (n, columns).

    The noise is plus or minus one level, which each row's own power gives: so the power is the
    asked one exactly, a weight takes one random bit, and a row needs no other row. An odd last
    copy gets none.
    """
    columns, old = growth.maps(name, tile)[1], values.shape[1]
    copies = len(columns) // old
    pairs = copies // 2
    out = values.new_empty(len(values), len(columns))
    level = values.norm(dim=1, keepdim=True).mul_(_ratio(growth) / old**0.5)  # (n, 1)
    shape = (growth.new.shape(name)[0], pairs, -(-old // WORD))
    places = [*_paired(columns, copies, old), _unpaired(columns, copies)]
    for first, words in _words(growth, name, shape, start, start + len(values)):
        part = slice(first - start, first - start + len(words))
        base, apart, signs = values[part], level[part], _signs(words, old).to(values.dtype)
        for sign, place in zip((1, -1, 0), places, strict=True):
            for at, old_at, length in runs(place):
                column = old_at % old
                torch.addcmul(
                    base[:, column : column + length],
                    signs[:, old_at : old_at + length],
                    apart,
                    value=sign,
                    out=out[part, at : at + length],
                )
    return out


def _add_noise_to_rows(growth: Growth, name: str, values: Tensor, start: int) -> None:
    """The same for a transposed weight, whose copies of an input are rows.

    Their level comes from the input's own row, so it is the same for all of its copies.
    """
    found, width = growth.maps(name, tile)[0], values.shape[1]
    old = growth.reader.shape(growth.source(name))[0]
    copies = len(found) // old
    level = values.norm(dim=1, keepdim=True).mul_(_ratio(growth) / width**0.5)  # (n, 1)
    shape = (copies // 2 * old, 1, -(-width // WORD))
    for sign, places in zip((1, -1), _paired(found, copies, old), strict=True):
        for at, old_at, length in runs(places[start : start + len(values)]):
            for first, words in _words(growth, name, shape, old_at, old_at + length):
                row = at + first - old_at
                part = slice(row, row + len(words))
                values[part] += sign * level[part] * _signs(words, width).to(values.dtype)


def _words(
    growth: Growth, name: str, shape: tuple[int, int, int], start: int, stop: int
) -> Iterator[tuple[int, Tensor]]:
    """Rows [start, stop) of the random words behind a tensor's noise, in parts."""
    return chunks(
        shape,
        derive(growth.seed, "noise", name),
        start,
        stop,
        lambda words, generator: words.random_(-(2**63), None, generator=generator),
        torch.int64,
        CHUNK // WORD,
    )


def _ratio(growth: Growth) -> float:
    """The noise's amplitude over the weights'."""
    return float(10 ** (-growth.dials["noise_db"] / 20))


def _signs(words: Tensor, count: int) -> Tensor:
    """Random words (n, pairs, words) as signs -1 and 1, one a bit: (n, pairs*count), float32."""
    found = np.take(SIGNS, words.view(torch.uint8).numpy(), axis=0, mode="clip")
    return torch.from_numpy(found).flatten(2)[..., :count].flatten(1)


@lru_cache(maxsize=32)
def _paired(columns: Tensor, copies: int, old: int) -> tuple[Tensor, Tensor]:
    """For each column the place of the noise that is added to it, and that is taken off, or -1."""
    order = copy_numbers(columns, copies)
    place = torch.where(order < copies // 2 * 2, order // 2 * old + columns, -1)  # (columns,)
    return torch.where(order % 2 == 0, place, -1), torch.where(order % 2 == 1, place, -1)


@lru_cache(maxsize=32)
def _unpaired(columns: Tensor, copies: int) -> Tensor:
    """For each column its old one if it is an odd last copy, which gets no noise, or -1."""
    return torch.where(copy_numbers(columns, copies) < copies // 2 * 2, -1, columns)


ENTRY: Operator = Clone()
