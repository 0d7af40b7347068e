"""AdamW: a step of each entry's mean gradient over its root mean square.

Loshchilov and Hutter, 2019, arXiv:1711.05101; torch's own, fused. After a growth an entry that is
younger than the rest of its tensor gets the bias correction of its own age: with an old counter its
first step would be (1 - beta1) / sqrt(1 - beta2) times too long.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from xtool.training.eager import eager
from xtool.training.optimizers import Carried, Factors, Optimizer, Slot
from xtool.training.parallel import like

MOMENTS = {"exp_avg": 1, "exp_avg_sq": 2}


class AdamW:
    """The optimizer; see the module."""

    def build(
        self, groups: Sequence[dict[str, Any]], dials: Mapping[str, Any]
    ) -> torch.optim.AdamW:
        """Torch's."""
        return eager(torch.optim.AdamW)(
            [group | {"eps": dials["adam_eps"] * group["eps_factor"]} for group in groups],
            betas=(dials["beta1"], dials["beta2"]),
            fused=True,
        )

    def begin(self, optimizer: torch.optim.AdamW, slots: Mapping[nn.Parameter, Slot]) -> None:
        """Counters of the oldest entries, and a correction of the others after each step."""
        young = []
        for parameter, slot in slots.items():
            step = torch.tensor(float(slot.age), device=parameter.device)
            optimizer.state[parameter]["step"] = step
            younger = slot.younger()
            if younger.any():
                young.append(_Young(parameter, like(younger, parameter), slot.age))
        if young:
            optimizer.register_step_post_hook(lambda used, args, kwargs: _correct(used, young))

    def factors(self, carried: Carried) -> Factors:
        """The step m / (sqrt(v) + eps) stays, so the rate scales with the entries."""
        return Factors(lr=carried.scale, eps=carried.gradient, decay=1 / carried.scale)


@dataclass
class _Young:
    """A parameter with entries that are younger than its counter, which stands at `age`."""

    parameter: nn.Parameter
    younger: Tensor
    age: int


@torch.no_grad()
def _correct(optimizer: torch.optim.Optimizer, young: Sequence[_Young]) -> None:
    """After a step: give the young entries the step of their own age in place of the old one."""
    groups = {p: group for group in optimizer.param_groups for p in group["params"]}
    for one in young:
        if one.parameter.grad is None:
            continue
        one.age += 1
        group, state = groups[one.parameter], optimizer.state[one.parameter]
        youngest = one.age - int(one.younger.max())
        if max(group["betas"]) ** youngest < torch.finfo(one.parameter.dtype).eps / 8:
            continue
        taken, due = (
            _direction(state["exp_avg"], state["exp_avg_sq"], group, age)
            for age in (torch.full_like(one.younger, one.age), one.age - one.younger)
        )
        change = torch.where(one.younger > 0, taken - due, 0.0)
        one.parameter.add_(change, alpha=group["lr"])


def _direction(first: Tensor, second: Tensor, group: Mapping[str, Any], age: Tensor) -> Tensor:
    """Adam's step at rate 1, by entries of these ages (Kingma and Ba, 2014, arXiv:1412.6980)."""
    least = 1e-300  # stands for a beta of 0, which has no logarithm
    unbiased, unbiased_square = (
        moment / -torch.expm1(age.to(moment) * math.log(max(beta, least)))
        for moment, beta in zip((first, second), group["betas"], strict=True)
    )
    direction: Tensor = unbiased / (unbiased_square.sqrt() + group["eps"])
    return direction


ENTRY: Optimizer = AdamW()
