"""Muon: a matrix moves by its mean gradient with all singular values made about equal.

Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/; torch's own, with a rate that gives
steps as long as AdamW's (Liu et al., 2025, arXiv:2502.16982). It takes the matrices inside layers;
embeddings, head, gains and biases are AdamW's.

Growth: N copies of each entry with equal gradients c g form a matrix whose singular values are
c sqrt(N) times the old ones, so its direction is the old one's copies over sqrt(N).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from xtool.training.eager import eager
from xtool.training.optimizers import Carried, Factors, Optimizer

MOMENTS = {"momentum_buffer": 1}
MATRICES = True
MOMENTUM = 0.95


class _Entry:
    def build(self, groups: Sequence[dict[str, Any]], dials: Mapping[str, Any]) -> Any:
        return eager(torch.optim.Muon)(
            groups, lr=dials["lr"], momentum=MOMENTUM, adjust_lr_fn="match_rms_adamw"
        )

    def factors(self, carried: Carried) -> Factors:
        """Torch multiplies the rate, but not the decay, with the root of the longer side."""
        copies = 1 / (carried.gradient * carried.scale)
        sides = max(carried.old) / max(carried.new)
        lr = carried.scale * (copies * sides) ** 0.5
        return Factors(lr=lr, decay=1 / lr)


ENTRY: Optimizer = _Entry()
