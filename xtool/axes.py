"""Axes: every tensor names its axes, so surgery is written once for every architecture.

An architecture's file holds literal tables, read without importing it:

    AXES      name pattern -> the axes of that tensor, first match wins. A plain axis is written by
              the tensor, `<` marks one that it sums over, `=` one that it rescales or shifts in
              place. A product names a fused axis in memory order, a quotient (`d_head/2`) a part
              of a size; `{layer}` stands for the layer.
    TIED      alias -> (stored tensor, the condition `dial=value`, the norm that feeds the alias).
    FROZEN    name pattern -> the conditions under which it is a fixed table, not a parameter.
    PRODUCTS  tensor -> (axis, dial): it is multiplied with another tensor's output and summed over
              that axis, and the sum is divided by the root of the axis that the dial names.
    LOW_RANK  a dial with the rank of what is added to each matrix of a block, apart for each loop.

An attention variant's tables are merged below `blocks.{layer}.attention.`. The idea of declaring
weights by named axes follows penzai (Johnson, 2024, arXiv:2408.00211).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from math import prod
from typing import Any, Literal

from xtool import registry
from xtool.errors import XtoolError

Role = Literal["writes", "reads", "scales"]
SIGILS: dict[str, Role] = {"<": "reads", "=": "scales"}
RESIDUAL = "d_model"
# The axes that the task's data fix: a new index stands for something that was never seen.
DATA = ("vocab", "context", "n_outputs", "d_input")
# The sizes that surgery changes, with their help.
SIZES = {
    "d_model": "width of the residual stream",
    "n_layers": "blocks",
    "n_heads": "attention heads",
    "n_kv_heads": "heads of keys and values, each shared by a group of query heads",
    "d_head": "width of a head's queries and keys",
    "d_value": "width of a head's values",
    "d_ff": "width of the feed-forward part",
    "d_hidden": "width of a two-layer head",
    "context": "positions of an input",
    "vocab_size": "symbols, and the outputs where these are the symbols",
}
ATTENTION = "blocks.{layer}.attention."
# The leading axis of a file that holds several models; no operator touches it.
REPLICAS = "replicas"


@dataclass(frozen=True)
class Axis:
    """One axis of a tensor: its factors in memory order and what the tensor does with it."""

    factors: tuple[str | int, ...]
    role: Role

    def __str__(self) -> str:
        sigil = {"reads": "<", "scales": "=", "writes": ""}[self.role]
        return sigil + "*".join(str(factor) for factor in self.factors)


def parse(text: str) -> Axis:
    """An axis from its notation, such as `<n_heads*d_head`.

    Raises:
        XtoolError: not in the grammar.
    """
    role = SIGILS.get(text[:1], "writes")
    parts = (text[1:] if role != "writes" else text).split("*")
    name, number = r"[a-z][a-z0-9_]*", r"[1-9][0-9]*"
    if not all(re.fullmatch(f"{name}(/({name}|{number}))?|{number}", part) for part in parts):
        raise XtoolError(f"`{text}` is not an axis", "write it like `n_heads*d_head` or `<d_model`")
    return Axis(tuple(map(_number, parts)), role)


@lru_cache
def pattern_regex(pattern: str) -> re.Pattern[str]:
    """A name pattern as a regular expression: `*` is anything, `{layer}` a number."""
    escaped = re.escape(pattern).replace(r"\*", ".*").replace(r"\{layer\}", r"(?P<layer>\d+)")
    return re.compile(escaped)


@dataclass(frozen=True)
class Tie:
    """An alias whose values are another tensor's, and the norm that only the alias reads."""

    alias: str
    stored: str
    norm: str


@dataclass(frozen=True)
class Layout:
    """The axes of one configured model.

    Attributes:
        config: the model's dials, where the sizes stand.
        table: name pattern -> axes, in order.
        ties: the aliases that are in force.
        frozen: name patterns of the fixed tables.
        products: name pattern -> (summed axis, axis under the root or None).
        passed: name patterns of what writes beside the residual stream, for later layers.
    """

    config: Mapping[str, Any]
    table: Mapping[str, tuple[str, ...]]
    ties: tuple[Tie, ...] = ()
    frozen: tuple[str, ...] = ()
    products: Mapping[str, tuple[str, str | None]] = field(default_factory=dict)
    passed: tuple[str, ...] = ()

    @cached_property
    def _patterns(self) -> list[tuple[re.Pattern[str], tuple[Axis, ...]]]:
        return [
            (pattern_regex(key), tuple(parse(axis) for axis in value))
            for key, value in self.table.items()
        ]

    @cached_property
    def _matches(self) -> dict[str, tuple[tuple[Axis, ...], int | None] | None]:
        return {}

    @cached_property
    def units(self) -> tuple[str, ...]:
        """The factors that hold units of the model, such as `d_ff`; the data's axes are not.

        Of a quotient of two sizes both count, and the quotient.
        """
        named = {str(f) for _, axes in self._patterns for axis in axes for f in axis.factors}
        quotients = {factor for factor in named if "/" in factor}
        named |= {part for factor in quotients for part in factor.split("/")}
        there = {f for f in named - {*DATA} if all(map(self.config.get, f.split("/")))}
        return tuple(sorted(there, key=lambda factor: (factor != RESIDUAL, factor)))

    @cached_property
    def replicas(self) -> int:
        """How many independent models share a file; more than one stand on a leading axis."""
        return int(self.config.get(REPLICAS, 1))

    def axes(self, name: str) -> tuple[Axis, ...]:
        """The axes of a tensor.

        Raises:
            XtoolError: no pattern matches the name.
        """
        if found := self._match(name):
            return found[0]
        raise XtoolError(f"tensor `{name}` has no axes", "add its pattern to the `AXES` table")

    def reading(self, name: str) -> int | None:
        """Which axis of a tensor is summed over, 0 or 1; None where none is."""
        places = (place for place, axis in enumerate(self.axes(name)) if axis.role == "reads")
        return next(places, None)

    def writes_residual(self, name: str) -> bool:
        """Whether a tensor's output goes to the residual stream, or to what stands beside it."""
        if any(pattern_regex(pattern).fullmatch(name) for pattern in self.passed):
            return True
        return any(a.role == "writes" and a.factors == (RESIDUAL,) for a in self.axes(name))

    def is_frozen(self, name: str) -> bool:
        """Whether a tensor is a fixed table."""
        return any(pattern_regex(pattern).fullmatch(name) for pattern in self.frozen)

    def roles(self, name: str) -> list[tuple[Axis, ...]]:
        """The axes of a stored tensor in each of its roles; a tied tensor has two."""
        return [self.axes(name)] + [self.axes(t.alias) for t in self.ties if t.stored == name]

    def layer(self, name: str) -> int | None:
        """The layer that a tensor belongs to, or None."""
        found = self._match(name)
        return found[1] if found else None

    def _match(self, name: str) -> tuple[tuple[Axis, ...], int | None] | None:
        """Axes and layer by the first pattern that matches; a name is looked up once."""
        if name not in self._matches:
            hits = ((regex.fullmatch(name), axes) for regex, axes in self._patterns)
            match, axes = next((hit for hit in hits if hit[0]), (None, ()))
            layer = match.groupdict().get("layer") if match else None
            found = axes, None if layer is None else int(layer)
            self._matches[name] = found if match else None
        return self._matches[name]

    def size(self, factor: str | int, layer: int | None = None) -> int:
        """The size of one factor; a dial that differs by layer is a list.

        Raises:
            XtoolError: the configuration has no such size.
        """
        if isinstance(factor, int):
            return factor
        if "/" in factor:
            above, below = (self.size(_number(part), layer) for part in factor.split("/"))
            if above % below:
                raise XtoolError(f"axis `{factor}` is {above} / {below}, which is not whole")
            return above // below
        value = self.config.get("vocab_size" if factor == "vocab" else factor)
        if isinstance(value, list) and layer is not None and layer < len(value):
            value = value[layer]
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise XtoolError(f"axis `{factor}` has no size in the configuration")
        return value

    def axis_sizes(self, name: str, axis: Axis) -> tuple[int, ...]:
        """The size of each factor of one axis of a tensor."""
        return tuple(self.size(factor, self.layer(name)) for factor in axis.factors)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape that the configuration gives to a tensor."""
        sizes = (self.axis_sizes(name, axis) for axis in self.axes(name))
        return tuple(map(prod, sizes))

    def check(self, name: str, shape: Sequence[int], where: str) -> None:
        """Compare a tensor's shape with the table.

        Raises:
            XtoolError: they differ; the message names the axis and both numbers.
        """
        axes = self.axes(name)
        if self.replicas > 1:
            if not shape or shape[0] != self.replicas:
                raise XtoolError(
                    f"{where}: tensor `{name}` has shape {list(shape)}, its first axis must be "
                    f"`{REPLICAS}`, {self.replicas}"
                )
            shape = shape[1:]
        if len(axes) != len(shape):
            raise XtoolError(
                f"{where}: tensor `{name}` has {len(shape)} axes, its table says {len(axes)} "
                f"({explain(axes)})"
            )
        for axis, actual, wanted in zip(axes, shape, self.shape(name), strict=True):
            if actual != wanted:
                raise XtoolError(
                    f"{where}: tensor `{name}`, axis `{axis}`: {actual} in the file, "
                    f"{wanted} in the configuration"
                )

    def product(self, name: str) -> tuple[str, str | None] | None:
        """The axis summed over with another tensor's output, and the axis under the root."""
        for pattern, value in self.products.items():
            if pattern_regex(pattern).fullmatch(name):
                return value
        return None


def _number(text: str) -> str | int:
    return int(text) if text.isdigit() else text


def explain(axes: Sequence[Axis], replicas: int = 1) -> str:
    """Axes as `inspect` prints them."""
    return " x ".join([REPLICAS] * (replicas > 1) + [str(axis) for axis in axes])


def holds(condition: str, config: Mapping[str, Any]) -> bool:
    """Whether `dial=value`, or `dial=value|other`, is true of a configuration."""
    dial, _, values = condition.partition("=")
    return str(config.get(dial)).lower() in values.lower().split("|")


def fixed(config: Mapping[str, Any]) -> list[str]:
    """The axes that no exact operator may change, as the attention variant declares them."""
    if "attention" not in config:
        return []
    found = registry.literal("layers/attention", str(config["attention"]), "FIXED", {})
    return [axis for axis, of in found.items() if not of or any(holds(c, config) for c in of)]


def one_model(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of each model of a file that holds several."""
    return {name: value for name, value in config.items() if name != REPLICAS}


def layout(config: Mapping[str, Any]) -> Layout:
    """The layout of a configured model, from its architecture's and attention variant's tables.

    Args:
        config: a model's configuration, with `arch` and, where it attends, `attention`.

    Raises:
        UsageError: the architecture or variant is not there.
        XtoolError: it has no `AXES`.
    """
    own = ("archs", str(config.get("arch")))
    table: dict[str, tuple[str, ...]] = {}
    products: dict[str, tuple[str, str]] = {}
    frozen: dict[str, list[str]] = dict(registry.literal(*own, "FROZEN", {}))
    passed: list[str] = []
    for variant in _variants(config):
        found = partial(registry.literal, "layers/attention", variant)
        table |= {ATTENTION + key: axes for key, axes in found("AXES", {}).items()}
        products |= {ATTENTION + key: value for key, value in found("PRODUCTS", {}).items()}
        frozen |= {ATTENTION + key: of for key, of in found("FROZEN", {}).items()}
        passed += [ATTENTION + key for key in found("PASSED", [])]
    table |= registry.literal(*own, "AXES", {})
    if not table:
        raise XtoolError(f"architecture `{own[1]}` has no `AXES` table")
    products |= registry.literal(*own, "PRODUCTS", {})
    rank = registry.literal(*own, "LOW_RANK")
    if rank and config.get(rank):
        added = {key: axes for key, axes in table.items() if _is_matrix(key, axes)}
        for key, (write, read) in added.items():
            first, second = (difference_name(key, part) for part in (FIRST, SECOND))
            table |= {first: (rank, read), second: (write, f"<{rank}")}
            products |= {second: products[key]} if key in products else {}
    tied = registry.literal(*own, "TIED", {}).items()
    return Layout(
        config=config,
        table=table,
        ties=tuple(Tie(alias, t[0], t[2]) for alias, t in tied if holds(t[1], config)),
        frozen=tuple(
            name for name, found in frozen.items() if any(holds(c, config) for c in found)
        ),
        products={key: (axis, _root(config, dial)) for key, (axis, dial) in products.items()},
        passed=tuple(passed),
    )


def _is_matrix(pattern: str, axes: Sequence[str]) -> bool:
    """Whether a pattern is of a linear layer's matrix in a block."""
    within = pattern.startswith("blocks.{layer}.") and pattern.endswith(".weight")
    return within and len(axes) == 2 and axes[1].startswith("<")


# What is added to a matrix in one loop is SECOND @ FIRST (Hu et al., 2021, arXiv:2106.09685).
FIRST, SECOND = "lora_A", "lora_B"


def matrix_of(name: str) -> str:
    """The matrix that a part of a difference is added to; of another tensor its own name."""
    if not name.endswith((FIRST, SECOND)):
        return name
    head, layer, _, _, *rest, _ = name.split(".")
    return ".".join([head, layer, *rest, "weight"])


def loop_of(name: str) -> int:
    """The loop that a part of a difference is of."""
    return int(name.split(".")[3])


def difference_name(weight: str, part: str, loop: int | None = None) -> str:
    """Where a part of what is added to a matrix in a block stands: of one loop, or a pattern."""
    head, layer, *rest = weight.removesuffix(".weight").split(".")
    return ".".join([head, layer, "loops", "*" if loop is None else str(loop), *rest, part])


def _variants(config: Mapping[str, Any]) -> list[str]:
    """The attention variant, after the one whose tensors it has too."""
    if "attention" not in config:
        return []
    own = str(config["attention"])
    like = registry.literal("layers/attention", own, "LIKE")
    return [own] if like is None else [str(like), own]


def _root(config: Mapping[str, Any], dial: str) -> str | None:
    axis = config.get(dial)
    return axis if isinstance(axis, str) and axis in config else None
