"""Growth operators: one file each, from old tensors to rows of new ones, given only the axes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import frexp, prod, sqrt
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from xtool.axes import DATA, RESIDUAL, Axis, Layout
from xtool.checkpoint import Reader
from xtool.gather import Along, axis_map, gather, prefix, repeat

T = TypeVar("T")
# Heads of queries, of keys, and the queries that share a head of keys.
QUERIES, KEYS, GROUP = "n_heads", "n_kv_heads", "n_heads/n_kv_heads"


class Factor(NamedTuple):
    """A factor of an axis with its old and new size."""

    name: str | int
    old: int
    new: int


@dataclass(frozen=True)
class Growth:
    """What an operator is told: never a model class.

    Attributes:
        reader: the small model's tensors.
        old: the small model's layout and configuration.
        new: the large model's.
        seed: of what is drawn.
        dials: the operator's own.
        layers: the old layer behind each new one; empty where new layers come from the last.
        memory: for what is costly and needed for several blocks.
    """

    reader: Reader
    old: Layout
    new: Layout
    seed: int
    dials: Mapping[str, Any]
    layers: tuple[int, ...] = ()
    memory: dict[str, Any] = field(default_factory=dict)

    def source(self, name: str) -> str:
        """The old tensor behind a new one."""
        layer = self.new.layer(name)
        if layer is None:
            return name
        return name.replace(f".{layer}.", f".{self.source_layer(layer)}.", 1)

    def source_layer(self, layer: int) -> int:
        """The old layer behind a new one."""
        return self.layers[layer] if self.layers else min(layer, self.old.size("n_layers") - 1)

    def again(self, name: str) -> bool:
        """Whether a tensor's layer is a further copy of a layer that stands before it."""
        layer = self.new.layer(name)
        if layer is None:
            return False
        return self.source_layer(layer) in map(self.source_layer, range(layer))

    def maps(self, name: str, along: Along) -> list[Tensor]:
        """For each axis of a new tensor, the old index behind each new one, or -1."""
        return [
            axis_map(tuple((f.old, f.new, self.along(f, along)) for f in self.factors(name, axis)))
            for axis in self.new.axes(name)
        ]

    def along(self, factor: "Factor", along: Along) -> Along:
        """The map of a factor: new data have no old index, and key heads follow their queries."""
        if factor.name in DATA:
            return prefix
        return repeat if factor.name == KEYS and self.regroups else along

    def gather(
        self, name: str, along: Along, start: int, stop: int, dtype: torch.dtype = torch.float64
    ) -> Tensor:
        """The old values behind rows [start, stop) of a new tensor; zero where there are none."""
        return gather(self.reader, self.source(name), self.maps(name, along), start, stop, dtype)

    def working(self, name: str, scale: float) -> torch.dtype:
        """The type to scale a tensor in: its own where a power of two keeps that exact."""
        own = torch.promote_types(self.reader.dtype(self.source(name)), torch.float32)
        return own if frexp(scale)[0] == 0.5 else torch.float64

    def factors(self, name: str, axis: Axis) -> list["Factor"]:
        """The factors of an axis in memory order, with their old and new sizes."""
        old = self.old.axis_sizes(self.source(name), axis)
        new = self.new.axis_sizes(name, axis)
        found = [Factor(*one) for one in zip(axis.factors, old, new, strict=True)]
        if not (self.regroups and GROUP in axis.factors):
            return found
        # The query heads stay in their order; only the groups are drawn anew.
        queries = Factor(QUERIES, self.old.size(QUERIES), self.new.size(QUERIES))
        place = axis.factors.index(GROUP)
        assert axis.factors[place - 1] == KEYS
        return [*found[: place - 1], queries, *found[place + 1 :]]

    @cached_property
    def regroups(self) -> bool:
        """Whether query heads that shared a head of keys and values get one each, or share less.

        Then the new heads of keys are copies of the old ones, under every operator: whatever else
        they were, old queries would read something new.
        """
        return regroups(self.old, self.new)

    def times(self, name: str, axis: Axis) -> float:
        """How many times larger an axis became."""
        found = self.factors(name, axis)
        return prod(f.new for f in found) / prod(f.old for f in found)

    def ratio(self, factor: str) -> float:
        """How many times larger one size became."""
        return self.new.size(factor) / self.old.size(factor)

    @property
    def normed(self) -> bool:
        """Whether the residual stream is read through a norm."""
        return bool(self.old.config.get("norm", "none") != "none")

    def held(self, key: str, name: str, make: Callable[[], T]) -> T:
        """What is made once for a tensor, and held in `memory` while its rows are asked for."""
        if self.memory.get(key, ("",))[0] != name:
            self.memory.pop(key, None)  # before the next is made
            self.memory[key] = (name, make())
        made: T = self.memory[key][1]
        return made

    def root(self, name: str) -> float:
        """What keeps a product's scores where the axis under their root has grown, else 1."""
        product = self.new.product(name)
        if product is None or product[1] is None:
            return 1.0
        return sqrt(self.ratio(product[1]))

    def writes_residual(self, name: str) -> bool:
        """Whether a tensor of a layer adds to the residual stream."""
        return self.new.writes_residual(name) and self.new.layer(name) is not None


def regroups(old: Layout, new: Layout) -> bool:
    """Whether fewer query heads share a head of keys and values than before."""
    return GROUP in old.units and new.size(GROUP) < old.size(GROUP)


def uneven(old: Layout, new: Layout) -> str:
    """Which size grows by no whole factor, as a reason to refuse; empty where there is none."""
    for unit in old.units:
        was, now = old.size(unit), new.size(unit)
        if now % was and not (unit == GROUP and regroups(old, new)):
            return f"`{unit}` {was} -> {now} is not a whole factor; nearest: {nearest(was, now)}"
    return ""


def multiplied(old: Layout, new: Layout) -> str:
    """Why the residual's columns cannot be copied under a tied head, as a reason to refuse.

    The head cannot be divided by their number, only the norm before it. Empty where there is none:
    an architecture that has ties and no dial `norm` is taken to have a norm always.
    """
    wider = RESIDUAL in old.units and new.size(RESIDUAL) > old.size(RESIDUAL)
    if wider and old.ties and old.config.get("norm") == "none":
        return "a tied head without a final norm would multiply the logits"
    return ""


def nearest(old: int, new: int) -> str:
    """The whole multiples of a size that stand around a new one."""
    below = new // old * old
    return ", ".join(str(size) for size in sorted({max(2 * old, below), below + old}))


class Operator(Protocol):
    """What a file in this folder ends with, as `ENTRY`.

    A file also declares the literals `PROMISE` (`exact` or `approximate`), `CONDITION` (a sentence:
    inside it the promise holds), and where it has dials, `OPTIONS`. What only some operators do
    stands in the protocols below; each is asked for where its method is there.
    """

    def rows(self, growth: Growth, name: str, start: int, stop: int) -> Tensor:
        """Rows [start, stop) of a new tensor."""


@runtime_checkable
class Conditional(Protocol):
    """An operator that cannot do every growth."""

    def refuse(self, growth: Growth) -> str:
        """Why the growth is outside the condition; empty when it is inside."""


@runtime_checkable
class Adjusting(Protocol):
    """An operator that changes dials beside the sizes, such as `norm_eps`."""

    def config(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
        """These dials, from the old configuration and the new sizes."""


@runtime_checkable
class Depth(Protocol):
    """An operator that says which old layer each new one is a copy of.

    Without it new layers come from the last one, and an exact operator's write nothing yet.
    """

    def depth(self, old: int, asked: int | None, dials: Mapping[str, Any]) -> list[int]:
        """The old layer, 0 to `old` - 1, behind each new one.

        Raises:
            UsageError: dials that name a layer that is not there, or another depth than `asked`.
        """


@dataclass(frozen=True)
class Fit:
    """What an operator learnt from data before it made tensors.

    Attributes:
        note: a line for the user.
        inputs: digest of each file that a dial named, by the dial. In the lineage these dials
            stand among the inputs, so that no path is kept.
        flops: training FLOPs, which the lineage of the grown file counts.
    """

    note: str = ""
    inputs: Mapping[str, str] = field(default_factory=dict)
    flops: int = 0


@runtime_checkable
class Fitted(Protocol):
    """An operator that has to learn something from data first."""

    def fit(self, growth: Growth) -> Fit:
        """Learn it, once for a growth; `rows` uses what `growth.memory` then holds."""


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
