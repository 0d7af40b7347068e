"""Optimizers: one file each; matrices decay and the rest does not.

A file may leave some parameters to AdamW (Muon takes matrices alone), so a run has one or two
optimizers of torch. After a growth each parameter has a `Slot`: factors on the dials, moments, and
the ages of its entries.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from xtool import registry
from xtool.axes import Layout
from xtool.training.parallel import like

FOLDER = "training/optimizers"
REST = "adamw"


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
        moments: what the optimizer remembers, by its file's names; empty before the first step.
    """

    factors: Factors
    ages: tuple[Tensor, ...]
    moments: Mapping[str, Tensor]

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
        return Slot(self.factors, tuple(age - steps for age in self.ages), {})

    def younger(self) -> Tensor:
        """By how many steps each entry is younger than the oldest, in the parameter's shape."""
        ages = self.ages[0]
        for age in self.ages[1:]:
            ages = torch.minimum(ages[..., None], age)
        return self.age - ages


@dataclass(frozen=True)
class Carried:
    """A parameter whose old entries a growth carried on.

    Attributes:
        scale: what the entries were multiplied with.
        gradient: what their gradients are multiplied with, in turn.
        old: the small tensor's shape.
        new: the grown one's.
    """

    scale: float
    gradient: float
    old: tuple[int, ...]
    new: tuple[int, ...]


@runtime_checkable
class Optimizer(Protocol):
    """What a file in this folder ends with, as `ENTRY`.

    A file also declares the literal `MOMENTS`: what is remembered of each parameter, by the name
    that torch's optimizer has for it, with the power of the gradient that is in it; and where it
    applies `MATRICES`: it takes the matrices inside layers alone, and leaves the rest to AdamW.
    """

    def build(self, groups: Sequence[dict[str, Any]], dials: Mapping[str, Any]) -> Any:
        """An optimizer of torch.

        Args:
            groups: parameters with their `weight_decay`, and `eps_factor` and `lr_factor`; the
                loop sets `lr` before each step.
            dials: of the training run.
        """

    def factors(self, carried: Carried) -> Factors:
        """The factors by which a carried parameter goes on as in the small run."""


@runtime_checkable
class Ageing(Protocol):
    """An optimizer whose step depends on the age of each entry."""

    def begin(self, optimizer: Any, slots: Mapping[nn.Parameter, Slot]) -> None:
        """Tell an optimizer that was built of the ages of the entries."""


def entry(name: str) -> Optimizer:
    """The optimizer of a name."""
    found: Optimizer = registry.load(FOLDER, name)
    return found


def kind(name: str, layout: Layout, parameter: str) -> str:
    """The optimizer of a parameter: the one named, or the one that it leaves the rest to."""
    if not registry.literal(FOLDER, name, "MATRICES", False):
        return name
    inside = layout.layer(parameter) is not None and len(layout.shape(parameter)) == 2
    return name if inside else REST


def moments(name: str, layout: Layout, parameter: str) -> dict[str, int]:
    """What is remembered of a parameter, with the power of the gradient in it."""
    found: dict[str, int] = registry.literal(FOLDER, kind(name, layout, parameter), "MOMENTS")
    return found


def make(
    model: nn.Module, layout: Layout, dials: Mapping[str, Any], slots: Mapping[str, Slot]
) -> list[torch.optim.Optimizer]:
    """The optimizers of a run; each group holds its factor on the learning rate as `lr_factor`.

    Args:
        model: what is trained.
        layout: the axes of its tensors.
        dials: of the training run.
        slots: by the parameter's name; without one a parameter begins from nothing.
    """
    kinds: dict[str, dict[tuple[bool, Factors], list[nn.Parameter]]] = {}
    for name, parameter in model.named_parameters():
        factors = slots[name].factors if name in slots else Factors()
        matrix = parameter.ndim - (dials.get("replicas", 1) > 1) >= 2
        groups = kinds.setdefault(kind(dials["optimizer"], layout, name), {})
        groups.setdefault((matrix, factors), []).append(parameter)
    begun = {p: slots[n] for n, p in model.named_parameters() if n in slots and slots[n].moments}
    return [_make_one(one, groups, dials, begun) for one, groups in kinds.items()]


def _make_one(
    name: str,
    groups: Mapping[tuple[bool, Factors], list[nn.Parameter]],
    dials: Mapping[str, Any],
    slots: Mapping[nn.Parameter, Slot],
) -> torch.optim.Optimizer:
    optimizer: torch.optim.Optimizer = entry(name).build(
        [
            {
                "params": parameters,
                "lr_factor": factors.lr,
                "eps_factor": factors.eps,
                "weight_decay": dials["weight_decay"] * factors.decay if matrices else 0.0,
            }
            for (matrices, factors), parameters in groups.items()
        ],
        dials,
    )
    own = {p: slots[p] for group in groups.values() for p in group if p in slots}
    for parameter, slot in own.items():
        held = {key: like(moment, parameter) for key, moment in slot.moments.items()}
        optimizer.state[parameter].update(held)
    if isinstance(entry(name), Ageing):
        entry(name).begin(optimizer, own)  # type: ignore[attr-defined]
    return optimizer
