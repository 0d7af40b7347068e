"""Whole factors, exactly: units are copied, and what reads the copies is divided by their number.

HyperCloning (Samragh et al., 2024, arXiv:2409.12903). Copies of one input cancel paired noise, +N
on the weights of one and -N on its partner's, so the copies may differ and still compute the same;
without noise they would never separate in training. Of q and k only q is rescaled, so that the
scores stay.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from xtool.axes import RESIDUAL
from xtool.layers.initial import draw
from xtool.seeds import derive
from xtool.surgery.gather import copy_numbers, factor_of, tile
from xtool.surgery.operators import Carry, Growth, Operator

PROMISE = "exact"
CONDITION = "whole factors; a tied head needs a final norm"
OPTIONS = [
    ("noise", "bool", True, "add paired noise, which breaks the symmetry of the copies"),
    ("noise_db", "float", 10.0, "the weights' power over the noise's, in decibels"),
]


class Clone:
    """The operator; see the module."""

    def refuse(self, growth: Growth) -> str:
        """A size that is no whole multiple, or a tied head that reads the stream without a norm."""
        for size in ("d_model", "n_heads", "d_head", "d_value", "d_ff", "d_hidden"):
            if not growth.old.config.get(size):
                continue
            old, new = growth.old.size(size), growth.new.size(size)
            if new % old:
                near = sorted({max(2, new // old) * old, (new // old + 1) * old})
                return (
                    f"`{size}` {old} -> {new} is not a whole factor; "
                    f"nearest: {', '.join(map(str, near))}"
                )
        wider = growth.ratio(RESIDUAL) > 1
        if wider and growth.old.ties and growth.old.config.get("norm") == "none":
            return "a tied head without a final norm would multiply the logits"
        return ""

    def config(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
        """Nothing: copies change neither mean nor variance."""
        return {}

    def rows(self, growth: Growth, name: str, start: int, stop: int) -> Tensor:
        """Copies along every axis, divided by the number of copies that are summed over."""
        axes = growth.new.axes(name)
        found = growth.maps(name, tile)
        scale = self.carry(growth, name).scale
        values = growth.gather(name, tile, start, stop) * scale
        if len(axes) > 1 and axes[1].role == "reads" and growth.dials["noise"]:
            values += scale * self._noise(growth, name, found[1], start, stop)
        return values

    def carry(self, growth: Growth, name: str) -> Carry:
        """Every entry of every copy."""
        return Carry(tile, growth.root(name) / self._summed(growth, name))

    def _summed(self, growth: Growth, name: str) -> float:
        """How many copies of each input this tensor's values are summed over."""
        out = 1.0
        for axis in growth.new.axes(name):
            if axis.role == "reads":
                out *= factor_of(axis, *growth.sizes(name, axis))
        product = growth.new.product(name)
        if product is not None:
            out *= growth.ratio(product[0])
        if any(name.startswith(tie.norm + ".") for tie in growth.new.ties):
            out *= growth.ratio(RESIDUAL)
        return out

    def _noise(self, growth: Growth, name: str, columns: Tensor, start: int, stop: int) -> Tensor:
        """Paired noise for rows [start, stop), before scaling; an odd last copy gets none."""
        source = growth.source(name)
        rows, old = growth.new.shape(name)[0], growth.reader.shape(source)[1]
        copies = len(columns) // old
        if copies < 2:
            return torch.zeros(1, 1, dtype=torch.float64)
        order = copy_numbers(columns, copies)
        drawn = draw(
            (rows, copies // 2, old),
            derive(growth.seed, "noise", name),
            start,
            stop,
            lambda values, generator: values.normal_(generator=generator),
        )  # (n, pairs, old)
        pair = (order // 2).clamp(max=copies // 2 - 1)
        sign = torch.where(order % 2 == 0, 1.0, -1.0)
        sign[order >= copies // 2 * 2] = 0
        level: float = _power(growth, source) ** 0.5 * 10 ** (-growth.dials["noise_db"] / 20)
        return drawn[:, pair, columns].double() * sign * level  # (n, columns)


def _power(growth: Growth, source: str) -> float:
    """The mean square of an old tensor, read once."""
    key = f"power {source}"
    if key not in growth.memory:
        rows, step = growth.reader.shape(source)[0], 1024
        total = sum(
            float(growth.reader.rows(source, at, min(at + step, rows)).double().square().sum())
            for at in range(0, rows, step)
        )
        growth.memory[key] = total / (rows * growth.reader.shape(source)[1])
    return float(growth.memory[key])


ENTRY: Operator = Clone()
