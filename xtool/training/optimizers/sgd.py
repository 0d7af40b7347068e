"""Gradient descent with momentum: the gradient itself, summed over about 1 / (1 - beta1) steps.

Sutskever et al., 2013; torch's own, whose weight decay is added to the gradient.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from xtool.training.eager import eager
from xtool.training.optimizers import Carried, Factors, Optimizer

MOMENTS = {"momentum_buffer": 1}


class _Entry:
    def build(self, groups: Sequence[dict[str, Any]], dials: Mapping[str, Any]) -> torch.optim.SGD:
        return eager(torch.optim.SGD)(groups, lr=dials["lr"], momentum=dials["beta1"])

    def factors(self, carried: Carried) -> Factors:
        """The step scales with the gradient, and the decay is a part of it."""
        return Factors(lr=carried.scale / carried.gradient, decay=carried.gradient / carried.scale)


ENTRY: Optimizer = _Entry()
