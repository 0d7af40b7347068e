"""Growth operators: one file each, from old tensors to rows of new ones, given only the axes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import sqrt
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from xtool.axes import RESIDUAL, Axis, Layout
from xtool.checkpoint import Reader
from xtool.surgery.gather import Along, gather, maps


@dataclass(frozen=True)
class Growth:
    """What an operator is told: never a model class.

    Attributes:
        reader: the small model's tensors.
        old: the small model's layout and configuration.
        new: the large model's.
        seed: of what is drawn.
        dials: the operator's own.
        memory: for what is costly and needed for several blocks.
    """

    reader: Reader
    old: Layout
    new: Layout
    seed: int
    dials: Mapping[str, Any]
    memory: dict[str, Any] = field(default_factory=dict)

    def source(self, name: str) -> str:
        """The old tensor behind a new one; a new layer is made from the last old one."""
        layer = self.new.layer(name)
        if layer is None or layer < self.old.size("n_layers"):
            return name
        last = self.old.size("n_layers") - 1
        return name.replace(f".{layer}.", f".{last}.", 1)

    def maps(self, name: str, along: Along) -> list[Tensor]:
        """For each axis of a new tensor, the old index behind each new one, or -1; made once."""
        key = f"maps {along.__name__} {name}"
        if key not in self.memory:
            self.memory[key] = maps(self.old, self.new, self.source(name), name, along)
        found: list[Tensor] = self.memory[key]
        return found

    def gather(self, name: str, along: Along, start: int, stop: int) -> Tensor:
        """The old values behind rows [start, stop) of a new tensor, float64; zero where none."""
        return gather(self.reader, self.source(name), self.maps(name, along), start, stop)

    def sizes(self, name: str, axis: Axis) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The old and new size of each factor of an axis."""
        return self.old.axis_sizes(self.source(name), axis), self.new.axis_sizes(name, axis)

    def ratio(self, factor: str) -> float:
        """How many times larger one size became."""
        return self.new.size(factor) / self.old.size(factor)

    def root(self, name: str) -> float:
        """What keeps a product's scores where the axis under their root has grown, else 1."""
        product = self.new.product(name)
        if product is None or product[1] is None:
            return 1.0
        return sqrt(self.ratio(product[1]))

    def writes_residual(self, name: str) -> bool:
        """Whether a tensor of a layer adds to the residual stream."""
        axes = self.new.axes(name)
        plain = axes[0].role == "writes" and axes[0].factors == (RESIDUAL,)
        return plain and self.new.layer(name) is not None


class Operator(Protocol):
    """What a file in this folder ends with, as `ENTRY`.

    A file also declares the literals `PROMISE` (`exact` or `approximate`), `CONDITION` (a sentence:
    inside it the promise holds), and where it has dials, `OPTIONS`.
    """

    def refuse(self, growth: Growth) -> str:
        """Why the growth is outside the condition; empty when it is inside."""

    def config(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
        """Dials that the construction changes beside the sizes, such as `norm_eps`."""

    def rows(self, growth: Growth, name: str, start: int, stop: int) -> Tensor:
        """Rows [start, stop) of a new tensor."""


@dataclass(frozen=True)
class Carry:
    """Where a new tensor's carried entries come from: each is an old one times `scale`.

    Attributes:
        along: the map of the axes' factors; it gives every old entry equally many copies.
        scale: above zero; what `rows` multiplies the old values with.
    """

    along: Along
    scale: float


@runtime_checkable
class StatefulOperator(Protocol):
    """An operator that has a rule for the optimizer's state too; see `surgery.state`."""

    def carry(self, growth: Growth, name: str) -> Carry:
        """How the carried entries of a new tensor come from old ones."""
