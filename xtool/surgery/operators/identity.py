"""The small matrix in the corner, added to an identity of the new size.

So the counting experiment tells it (brianakl/bootstrapped_model_up_scaling): every matrix inside a
layer is so grown; embeddings, head and norms keep their corner and are fresh elsewhere. Not exact:
the identity adds a stream of its own.
"""

import torch
from torch import Tensor

from xtool.gather import prefix
from xtool.layers.initial import initial
from xtool.surgery.operators import Growth, Operator

PROMISE = "approximate"
CONDITION = "any width"


class Identity:
    """The operator; see the module."""

    def rows(self, growth: Growth, name: str, start: int, stop: int) -> Tensor:
        """The corner, on an identity or on fresh values."""
        axes = growth.new.axes(name)
        found = growth.maps(name, prefix)
        corner = growth.gather(name, prefix, start, stop)
        rows = torch.arange(start, stop)
        if growth.new.layer(name) is not None and len(axes) == 2:
            return corner + (rows[:, None] == torch.arange(corner.shape[1])[None, :])
        old = found[0][start:stop] >= 0
        if len(found) == 2:
            old = old[:, None] & (found[1] >= 0)[None, :]
        return torch.where(
            old, corner, initial(growth.new, name, growth.seed, start, stop).double()
        )


ENTRY: Operator = Identity()
