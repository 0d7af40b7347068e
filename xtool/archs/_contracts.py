"""What architectures promise, and what their models may be able to do."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn

from xtool.tasks import Shape


@runtime_checkable
class Model(Protocol):
    """A built model: (B, T) symbols, or (B, T, d) numbers -> (B, T, C) logits.

    In training one that is looped gives those of each loop of the loss, (S, B, T, C).
    """

    def __call__(self, inputs: Num[Tensor, "B T *d"]) -> Float[Tensor, "B T C"]:
        """Logits of every position."""

    def stages(self) -> Sequence[tuple[str, nn.Module]]:
        """The parts to apply in turn, each with the prefix of its tensors' names.

        Examples stand on the first axis between them, and do not depend on each other.
        """


@runtime_checkable
class Architecture(Protocol):
    """What a file in this folder ends with, as `ENTRY`.

    A file also declares the literals `OPTIONS`, `AXES`, and where they apply `PRESETS`, `TIED`,
    `FROZEN`, `PRODUCTS` (see `xtool.axes`), `TASK` (the default one) and `TUNABLE` (dials that may
    change on a trained model because no tensor depends on them), `LATER` (dials that older files
    lack; their defaults are what was before), `CACHED` (its modules that look back have a cache,
    see `xtool.layers._cache`), `INEXACT` (growths that no exact operator, or not this `method`, can
    do: an axis, conditions that must all hold, the reason), `LIKE` (another one, whose literals it
    has too, after its own).
    """

    def configure(self, dials: Mapping[str, Any], shape: Shape) -> dict[str, Any]:
        """All dials with the derived ones filled in, and the sizes of `shape`.

        Raises:
            UsageError: dials that contradict each other; the message gives both numbers.
        """

    def build(self, config: Mapping[str, Any]) -> nn.Module:
        """A `Model` with uninitialised weights."""

    def flops(self, config: Mapping[str, Any]) -> int:
        """Operations of one forward pass over one example, a multiply and an add counted apart."""


@runtime_checkable
class Stepped(Protocol):
    """A model that changes its ways as training goes on."""

    def at_step(self, step: int) -> None:
        """The next batch is that of this step, counted over the lineage."""


@dataclass(frozen=True)
class Between:
    """What is done to a looped model between its loops, to see what these need.

    Attributes:
        mask: `state` or `input`: which of them is set to 0 at positions that are not kept.
        keep: `first` or `last`: at which end of the positions those are that are kept.
        kept: how many.
        noise: standard deviation of what is added to the state before each loop but the first.
        seed: of the noise; another one for each batch.
    """

    mask: str | None = None
    keep: str = "first"
    kept: int = 0
    noise: float = 0.0
    seed: int = 0

    def at(self, what: str, x: Float[Tensor, "B RT D"], skip: int) -> Float[Tensor, "B RT D"]:
        """A state or an input with the positions that are not kept set to 0, but the first few."""
        if what != self.mask:
            return x
        places = torch.arange(x.shape[1], device=x.device)  # (T,)
        first, stop = skip + self.kept, x.shape[1] - self.kept
        there = places < first if self.keep == "first" else (places >= stop) | (places < skip)
        return torch.where(there[:, None], x, 0.0)


class After(NamedTuple):
    """What a looped model has after a loop."""

    logits: Float[Tensor, "B T C"]
    state: Float[Tensor, "B T D"]


@runtime_checkable
class Loops(Protocol):
    """A model that has an answer after every loop.

    Attributes:
        loops: how many it runs unless told otherwise.
    """

    loops: int

    def every_loop(
        self, inputs: Num[Tensor, "B T *d"], loops: int, between: Between | None = None
    ) -> Iterator[After]:
        """The logits and the state after each of so many loops, in one pass."""

    def begin(self, inputs: Num[Tensor, "B T *d"], between: Between | None = None) -> After | None:
        """The logits and the state before the first loop, unless that begins with nothing."""


@runtime_checkable
class Compiling(Protocol):
    """A model with a part to compile in place of the whole."""

    def compile_part(self, compiler: Callable[..., Any]) -> bool:
        """Put what the compiler makes of a function in its place, or say that there is no part."""


@runtime_checkable
class TrainingCosts(Protocol):
    """An architecture whose training does not cost three times its forward pass."""

    def training_costs(self, config: Mapping[str, Any]) -> list[tuple[int, int]]:
        """From which step of a lineage on training on one example takes how many operations.

        In order of the steps, from step 0 on.
        """


@runtime_checkable
class Noting(Protocol):
    """An architecture that has something to say on dials that do less than they seem to."""

    def notes(self, config: Mapping[str, Any]) -> list[str]:
        """Lines for whoever trains it."""
