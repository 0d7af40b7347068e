"""AdamW (Loshchilov and Hutter, 2019, arXiv:1711.05101), decay on matrices alone, and schedules.

After a growth each parameter has a `Slot`: factors on the dials, moments, and the ages of its
entries. An entry that is younger than the rest of its tensor gets the bias correction of its own
age: with an old counter its first step would be (1 - beta1) / sqrt(1 - beta2) times too long.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Factors:
    """What a parameter's own learning rate, eps and weight decay are, as multiples of the dials."""

    lr: float = 1.0
    eps: float = 1.0
    decay: float = 1.0


@dataclass(frozen=True)
class Slot:
    """What the optimizer begins with for one parameter.

    Attributes:
        factors: on the dials.
        ages: for each axis, the steps behind each index, int64; an entry's age is the least over
            its axes.
        moments: the running means of the gradient and of its square; empty before the first step.
    """

    factors: Factors
    ages: tuple[Tensor, ...]
    moments: tuple[Tensor, ...] = ()

    @property
    def plain(self) -> bool:
        """Whether all of it is as in a run that began from nothing."""
        return self.factors == Factors() and not any(bool(age.any()) for age in self.ages)

    @property
    def age(self) -> int:
        """The age of the oldest entry."""
        return min(int(age.max()) for age in self.ages)

    def earlier(self, steps: int) -> "Slot":
        """Its factors, and its ages as they were so many steps before; without moments."""
        return Slot(self.factors, tuple(age - steps for age in self.ages))

    def younger(self) -> Tensor:
        """By how many steps each entry is younger than the oldest, in the parameter's shape."""
        ages = self.ages[0]
        for age in self.ages[1:]:
            ages = torch.minimum(ages[..., None], age)
        return self.age - ages


def adamw(
    model: nn.Module, dials: Mapping[str, Any], slots: Mapping[str, Slot]
) -> torch.optim.AdamW:
    """The optimizer: matrices decay, the rest does not; a group for each set of factors.

    Args:
        model: what is trained.
        dials: of the training run.
        slots: by the parameter's name; without one a parameter begins from nothing.

    Each group holds its factor on the learning rate as `lr_factor`, for the schedule.
    """
    groups: dict[tuple[bool, Factors], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        factors = slots[name].factors if name in slots else Factors()
        matrix = parameter.ndim - (dials.get("replicas", 1) > 1) >= 2
        groups.setdefault((matrix, factors), []).append(parameter)
    optimizer = torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr_factor": factors.lr,
                "eps": dials["adam_eps"] * factors.eps,
                "weight_decay": dials["weight_decay"] * factors.decay if matrices else 0.0,
            }
            for (matrices, factors), parameters in groups.items()
        ],
        lr=dials["lr"],
        betas=(dials["beta1"], dials["beta2"]),
        fused=True,
    )
    young = []
    for name, parameter in model.named_parameters():
        if name not in slots or not slots[name].moments:
            continue
        slot = slots[name]
        first, second = (moment.to(parameter) for moment in slot.moments)
        step = torch.tensor(float(slot.age), device=parameter.device)
        optimizer.state[parameter] = {"step": step, "exp_avg": first, "exp_avg_sq": second}
        younger = slot.younger()
        if younger.any():
            young.append(_Young(parameter, younger.to(parameter.device), slot.age))
    if young:
        optimizer.register_step_post_hook(lambda used, args, kwargs: _correct(used, young))
    return optimizer


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


def lr_factor(schedule: str, step: int, total: int, warmup: int) -> float:
    """What the learning rate is multiplied with before step `step` (from 0) of `total`.

    It rises linearly over `warmup` steps; cosine and linear then fall to a tenth.
    """
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    done = (step - warmup) / max(1, total - warmup)
    fall = (1 + math.cos(math.pi * done)) / 2 if schedule == "cosine" else 1 - done
    return 0.1 + 0.9 * fall
