"""Wider at any width, and the new units of a layer are those of the layer above it.

Advanced knowledge initialisation of bert2BERT (Chen et al., 2021, arXiv:2110.07143): units are
copied as a function-preserving widening would copy them, and what reads copies divides by their
number; but a new unit takes its values from the same place of the next layer. The last layer and
what belongs to no layer take their own. Not exact; new units differ from old ones from the start.
"""

from dataclasses import replace

import torch
from torch import Tensor

from xtool.gather import prefix
from xtool.surgery.operators import Growth, Operator
from xtool.surgery.operators.split import ENTRY as SPLIT

PROMISE = "approximate"
CONDITION = "any width; depth stays"


class Aki:
    """The operator; see the module."""

    def refuse(self, growth: Growth) -> str:
        """A depth that changes."""
        old, new = growth.old.config.get("n_layers"), growth.new.config.get("n_layers")
        if old != new:
            return f"it widens and leaves `n_layers` {old} as it is, not {new}: `stack` afterwards"
        return ""

    def rows(self, growth: Growth, name: str, start: int, stop: int) -> Tensor:
        """Rows of this layer's units, then rows of the next one's."""
        own, above = self._growths(growth)
        values = SPLIT.rows(own, name, start, stop)
        if growth.new.layer(name) is None:
            return values
        next_values = SPLIT.rows(above, name, start, stop)
        for place, found in enumerate(growth.maps(name, prefix)):
            if place != growth.new.reading(name):
                new = (found[start:stop] if place == 0 else found) < 0
                new = new.view(-1, *[1] * (values.ndim - 1 - place))
                values = torch.where(new, next_values, values)
        return values

    def _growths(self, growth: Growth) -> tuple[Growth, Growth]:
        """The same growth with equal shares, from each layer itself and from the one above it."""
        if "aki" not in growth.memory:
            layers = growth.new.config.get("n_layers", 0)
            upper = tuple(min(layer + 1, layers - 1) for layer in range(layers))
            equal = {"unequal": 0.0}
            growth.memory["aki"] = (
                replace(growth, dials=equal, memory={}),
                replace(growth, dials=equal, layers=upper, memory={}),
            )
        both: tuple[Growth, Growth] = growth.memory["aki"]
        return both


ENTRY: Operator = Aki()
