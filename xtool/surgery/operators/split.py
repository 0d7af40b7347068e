"""Copies of units, exactly: what reads the copies of one unit gets unequal shares that sum to one.

Net2Net (Chen et al., 2015, arXiv:1511.05641) and LEMON (Wang et al., 2023, arXiv:2310.07999). Units
are copied in turn, so any number of them may be new; the residual stream under a norm grows by
whole factors only, because the norm's mean and variance must count every column equally often.
Every weight that reads a copy has a share of its own, of a weight that is stored transposed every
row, so the copies part in training without noise.
Of q and k only q gets shares, of a tied head's two readers the norm before it.
"""

import torch
from torch import Tensor

from xtool.axes import RESIDUAL
from xtool.gather import axis_map, tile
from xtool.layers.initial import draw
from xtool.seeds import derive
from xtool.surgery.operators import Growth, Operator, multiplied, nearest

PROMISE = "exact"
CONDITION = (
    "any width; d_model by whole factors where there is a norm; a tied head needs a final norm"
)
OPTIONS = [
    ("unequal", "float", 0.5, "how far shares of copies are drawn from equal ones, 0 to below 1"),
]


class Split:
    """The operator; see the module."""

    def refuse(self, growth: Growth) -> str:
        """A norm that would weigh columns unequally, or a tied head without one."""
        if not 0 <= growth.dials["unequal"] < 1:
            return f"`unequal` is {growth.dials['unequal']}, it must be at least 0 and below 1"
        wide = RESIDUAL in growth.old.units
        old, new = (one.size(RESIDUAL) if wide else 1 for one in (growth.old, growth.new))
        if new % old and growth.normed:
            return (
                f"a norm would weigh the columns of `{RESIDUAL}` {old} -> {new} unequally; "
                f"nearest: {nearest(old, new)}"
            )
        return multiplied(growth.old, growth.new)

    def rows(self, growth: Growth, name: str, start: int, stop: int) -> Tensor:
        """Copies along every axis; along those that are summed over, copies get shares."""
        values = growth.gather(name, tile, start, stop) * growth.root(name)
        rows = growth.new.shape(name)[0]
        for place, axis in enumerate(growth.new.axes(name)):
            groups = self._summed(growth, name, place)
            if groups is None:
                continue
            if place == 0:
                shares = self._shares(growth, name + " rows", groups, 1, 0, 1)[0, start:stop]
                values *= shares.view(-1, *[1] * (values.ndim - 1))
            elif axis.role == "reads":
                values *= self._shares(growth, name, groups, rows, start, stop)
            else:
                values *= self._shares(growth, name + " columns", groups, 1, 0, 1)
        return values

    def _summed(self, growth: Growth, name: str, place: int) -> Tensor | None:
        """The unit behind each index of an axis where a unit's copies are summed, else None."""
        axis = growth.new.axes(name)[place]
        tied_norm = any(name.startswith(tie.norm + ".") for tie in growth.new.ties)
        if axis.role == "reads" or tied_norm:
            return growth.maps(name, tile)[place]
        product = growth.new.product(name)
        if product is None or product[0] not in axis.factors:
            return None
        # Copies along the summed factor are of one unit, those along the others are units too.
        return axis_map(
            tuple(
                (one.old if one.name == product[0] else one.new, one.new, tile)
                for one in growth.factors(name, axis)
            )
        )

    def _shares(
        self, growth: Growth, name: str, groups: Tensor, rows: int, start: int, stop: int
    ) -> Tensor:
        """Rows [start, stop) of shares, one for each column; those of a group sum to one."""
        if int(groups.max()) + 1 == len(groups):
            return torch.ones(1, len(groups), dtype=torch.float64)
        drawn = draw(
            (rows, len(groups)),
            derive(growth.seed, "shares", name),
            start,
            stop,
            lambda values, generator: values.uniform_(-1, 1, generator=generator),
        )
        weights = 1 + growth.dials["unequal"] * drawn.double()  # (n, columns)
        sums = torch.zeros(len(weights), int(groups.max()) + 1, dtype=weights.dtype)
        sums.index_add_(1, groups, weights)  # (n, units)
        shares: Tensor = weights / sums[:, groups]  # (n, columns)
        return shares


ENTRY: Operator = Split()
