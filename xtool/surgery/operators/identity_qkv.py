"""Only q, k and v are carried: the corner, and ones on the rest of the diagonal; all else is fresh.

This is what the code of the counting experiment did, whatever its text said
(brianakl/bootstrapped_model_up_scaling): every zero on the diagonal becomes a one. Not exact.
"""

import torch
from torch import Tensor

from xtool.axes import pattern_regex
from xtool.gather import prefix
from xtool.layers.initial import initial
from xtool.surgery.operators import Growth, Operator

PROMISE = "approximate"
CONDITION = "any width"
CARRIED = [
    pattern_regex(f"blocks.{{layer}}.attention.{part}.weight") for part in ("q", "k", "v", "vo")
]


class IdentityQkv:
    """The operator; see the module."""

    def rows(self, growth: Growth, name: str, start: int, stop: int) -> Tensor:
        """The corner of q, k and v, or fresh values."""
        if not any(regex.fullmatch(name) for regex in CARRIED):
            return initial(growth.new, name, growth.seed, start, stop)
        out = growth.gather(name, prefix, start, stop)
        diagonal = torch.arange(start, stop)[:, None] == torch.arange(out.shape[1])[None, :]
        return torch.where(diagonal & (out == 0), 1.0, out)


ENTRY: Operator = IdentityQkv()
