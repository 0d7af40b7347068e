"""Lion: every entry moves by the rate, in the direction of a mean of gradients.

Chen et al., 2023, arXiv:2302.06675. The direction is the sign of a mean over about 1 / (1 - beta1)
steps, what is remembered a mean over about 1 / (1 - beta2). The rate is to be three to ten times
lower than AdamW's, and the weight decay as much higher.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from xtool.training.eager import eager
from xtool.training.optimizers import Carried, Factors, Optimizer

MOMENTS = {"exp_avg": 1}


class Lion(torch.optim.Optimizer):
    """The optimizer; see the module."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            moved = [p for p in group["params"] if p.grad is not None]
            if not moved:
                continue
            gradients = [p.grad for p in moved]
            means = [self._mean(p) for p in moved]
            beta1, beta2 = group["betas"]
            signs = torch._foreach_lerp(means, gradients, 1 - beta1)
            torch._foreach_sign_(signs)
            torch._foreach_mul_(moved, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(moved, signs, alpha=-group["lr"])
            torch._foreach_lerp_(means, gradients, 1 - beta2)

    def _mean(self, parameter: torch.Tensor) -> torch.Tensor:
        state = self.state[parameter]
        if "exp_avg" not in state:
            state["exp_avg"] = torch.zeros_like(parameter)
        mean: torch.Tensor = state["exp_avg"]
        return mean


class _Entry:
    def build(self, groups: Sequence[dict[str, Any]], dials: Mapping[str, Any]) -> Lion:
        return eager(Lion)(groups, {"lr": dials["lr"], "betas": (dials["beta1"], dials["beta2"])})

    def factors(self, carried: Carried) -> Factors:
        """A sign does not scale with the gradient."""
        return Factors(lr=carried.scale, decay=1 / carried.scale)


ENTRY: Optimizer = _Entry()
