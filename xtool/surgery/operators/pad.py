"""Any width, exactly: new columns of the residual stream carry nothing, new readers are random.

Without a norm or with RMSNorm what writes the stream writes zeros into the new columns; with
LayerNorm it writes the mean of the old ones, which keeps the mean and scales the variance (LEMON:
Wang et al., 2023, arXiv:2310.07999). Gains are multiplied by sqrt(d/D) and eps by d/D. Other axes
(heads, feed-forward) get random new units that are read with weight zero, and of two tensors that
are multiplied, one gets zeros. New entries so have a gradient from the first or second step.
"""

from collections.abc import Mapping
from math import prod, sqrt
from typing import Any

import torch
from torch import Tensor

from xtool.axes import RESIDUAL
from xtool.gather import axis_map, prefix
from xtool.layers.initial import initial
from xtool.surgery.operators import Carry, Growth, Operator

PROMISE = "exact"
CONDITION = "any width; with layernorm and several heads only with an output projection"


class Pad:
    """The operator; see the module."""

    def refuse(self, growth: Growth) -> str:
        """LayerNorm needs the mean of all heads' values, which no single head can write."""
        config = growth.old.config
        several = config.get("n_heads", 1) > 1 and not config.get("attention_output", True)
        if several and config.get("norm") == "layernorm" and growth.ratio(RESIDUAL) > 1:
            return "layernorm with several heads and no output projection cannot be averaged over"
        return ""

    def config(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
        """The smaller eps that undoes the smaller variance."""
        if old.get("norm", "none") == "none":
            return {}
        return {"norm_eps": old["norm_eps"] * old[RESIDUAL] / new[RESIDUAL]}

    def rows(self, growth: Growth, name: str, start: int, stop: int) -> Tensor:
        """Old values in the corner, then what the roles of the axes ask for."""
        axes = growth.new.axes(name)
        found = growth.maps(name, prefix)
        if axes[0].role == "scales":
            values = growth.gather(name, prefix, start, stop)
            return self._gain(growth, name, values, found[0][start:stop] < 0)
        root, averaged = self.carry(growth, name).scale, self._averaged(growth, name)
        dtype = torch.float64 if averaged else growth.working(name, root)
        values = growth.gather(name, prefix, start, stop, dtype)
        if root != 1:
            values *= root
        silent = [self._silent(growth, name, place) for place in range(len(axes))]
        fresh = [(where < 0) & ~quiet for where, quiet in zip(found, silent, strict=True)]
        rows = slice(start, stop)
        if any(bool(one.any()) for one in fresh):
            new = initial(growth.new, name, growth.seed, start, stop).to(dtype)
            values = torch.where(_either(fresh, rows), new, values)
        if not averaged:
            return values.masked_fill_(_either(silent, rows), 0)
        mean = self._mean(growth, name, values, found, silent)
        return torch.where(_either(silent, rows), mean, values)

    def carry(self, growth: Growth, name: str) -> Carry:
        """The corner of old entries; the rule is exact but for writers under layernorm.

        There the small model's gradient is shared with the averaged entries, and a copied moment
        is up to 7% off.
        """
        axis = growth.new.axes(name)[0]
        if axis.role != "scales":
            return Carry(prefix, growth.root(name))
        # One number for the whole stream stands behind no norm.
        gain = growth.normed and not name.endswith("bias") and axis.factors != (1,)
        return Carry(prefix, sqrt(1 / growth.ratio(RESIDUAL)) if gain else 1.0)

    def _gain(self, growth: Growth, name: str, values: Tensor, new: Tensor) -> Tensor:
        if name.endswith("bias"):
            return values
        scaled = values * self.carry(growth, name).scale
        return torch.where(new, torch.ones_like(scaled), scaled)

    def _silent(self, growth: Growth, name: str, place: int) -> Tensor:
        """The new indices of one axis that must not be heard: written zero, or read with zero."""
        axis = growth.new.axes(name)[place]
        factors = growth.factors(name, axis)
        product = growth.new.product(name)
        out = torch.zeros(prod(one.new for one in factors), dtype=torch.bool)
        for factor in factors:
            hidden = axis.role == "reads" and factor.name != RESIDUAL
            written = axis.role == "writes" and factor.name == RESIDUAL
            multiplied = product is not None and factor.name == product[0]
            if hidden or written or multiplied:
                own = ((f.old if f is factor else f.new, f.new, prefix) for f in factors)
                out |= axis_map(tuple(own)) < 0
        return out

    def _averaged(self, growth: Growth, name: str) -> bool:
        """Whether new columns that a tensor writes hold a mean, not zero."""
        return growth.new.writes_residual(name) and growth.old.config.get("norm") == "layernorm"

    def _mean(
        self, growth: Growth, name: str, values: Tensor, found: list[Tensor], silent: list[Tensor]
    ) -> Tensor:
        """What the silent entries of a writer hold under layernorm: the mean over old columns."""
        axes = growth.new.axes(name)
        old = growth.old.size(RESIDUAL)
        if len(axes) == 1:
            return _column_mean(growth, name)
        if axes[1].role == "writes" and axes[1].factors == (RESIDUAL,):
            return values[:, :old].mean(1, keepdim=True)
        mean = _column_mean(growth, name)[found[1].clamp(min=0)]  # (columns,)
        return torch.where((found[1] < 0) | silent[1], 0.0, mean)


def _either(masks: list[Tensor], rows: slice) -> Tensor:
    """Where any axis is marked, over the given rows of the tensor."""
    first = masks[0][rows]
    return first if len(masks) == 1 else first[:, None] | masks[1][None, :]


def _column_mean(growth: Growth, name: str) -> Tensor:
    """The mean over all old rows of a tensor, read once."""
    if name not in growth.memory:
        source = growth.source(name)
        rows, step = growth.reader.shape(source)[0], 1024
        total = sum(
            growth.reader.rows(source, at, min(at + step, rows)).double().sum(0)
            for at in range(0, rows, step)
        )
        growth.memory[name] = total / rows
    mean: Tensor = growth.memory[name]
    return mean


ENTRY: Operator = Pad()
