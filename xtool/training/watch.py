"""Watching a run: what the gradients and the updates of each part are, and how fast it goes.

Gradients and updates are those of the step before an evaluation, so other steps pay nothing.
"""

import time
from collections.abc import Mapping
from typing import cast

from jaxtyping import Float
from torch import Tensor, nn

from xtool.archs import SIZE, Model
from xtool.rows import Row, row
from xtool.training.replicas import Replicas


class Watch:
    """Follows the parts of a model, its `stages`.

    Args:
        model: what is trained.
        who: its replicas.
        step: where the run stands.
    """

    def __init__(self, model: nn.Module, who: Replicas, step: int) -> None:
        self.who = who
        prefixes = [prefix for prefix, _ in cast(Model, model).stages() if prefix]
        self.parts: dict[str, list[nn.Parameter]] = {prefix.strip("."): [] for prefix in prefixes}
        for name, parameter in model.named_parameters():
            words = name.split(".")  # tell the parts of a model that is one stage
            own = ".".join(words[:2]) if words[0] == "blocks" else words[0]
            owner = next((p for p in prefixes if name.startswith(p)), SIZE if prefixes else own)
            self.parts.setdefault(owner.strip("."), []).append(parameter)
        if not prefixes:  # from input to output
            last = sorted(self.parts, key=lambda part: (part == "head", part.startswith("blocks.")))
            self.parts = {part: self.parts[part] for part in last}
        self.before: dict[nn.Parameter, Tensor] = {}
        self.start(step)

    def start(self, step: int) -> None:
        """Begin to count the time at a step, with nothing found."""
        self.found: dict[str, dict[str, Float[Tensor, " R"]]] = {}
        self.began, self.step = time.monotonic(), step
        self.ended = self.began

    def stop(self) -> None:
        """What comes until the next start is no training."""
        self.ended = time.monotonic()

    def gradients(self) -> None:
        """Before a step that is followed by an evaluation: norms, and the weights to compare."""
        self.found = {"gradient_norm": {}}
        for part, parameters in self.parts.items():
            gradients = [p.grad for p in parameters if p.grad is not None]
            if gradients:
                self.found["gradient_norm"][part] = self.who.norm(gradients)
        self.before = {p: p.detach().clone() for own in self.parts.values() for p in own}

    def updates(self) -> None:
        """After that step: the norm of each part's change over that of its weights."""
        self.found["update_ratio"] = {}
        for part, parameters in self.parts.items():
            if parameters:
                changes = [p.detach() - self.before[p] for p in parameters]
                weights = self.who.norm([self.before[p] for p in parameters])
                self.found["update_ratio"][part] = self.who.norm(changes) / weights
        self.before = {}

    def rows(self, replica: int, spent: Mapping[str, float], base: Row) -> list[Row]:
        """What was found of one replica, and the speed since `start`.

        Args:
            replica: which.
            spent: what it took since `start` of each unit, such as tokens.
            base: the columns that all rows have.
        """
        rows = [
            row(metric=metric, value=float(values[replica]), part=part, **base)
            for metric, parts in self.found.items()
            for part, values in parts.items()
        ]
        seconds = (self.ended - self.began) / self.who.count
        return rows + [
            row(metric=f"{unit}_per_second", value=each / seconds, **base)
            for unit, each in spent.items()
        ]


def without_gradient(model: nn.Module) -> list[str]:
    """The parameters that the last backward pass did not reach."""
    named = model.named_parameters()
    return [name for name, p in named if p.grad is None or not bool(p.grad.any())]
