"""Plans: whether and how a model can grow, decided before anything is read or written.

Under an exact operator a new layer begins as the identity: a copy whose writers to the residual
stream are zero. Under another it is what the operator makes of the layer that it comes from, the
last one unless the operator says otherwise. Whatever the operator, the rows of new positions and
new symbols are fresh: no old input has any, so what the model made of those stays.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from xtool import registry
from xtool.archs import SIZE, checked
from xtool.axes import DATA, RESIDUAL, Layout, fixed, holds, layout
from xtool.checkpoint import NAMES, Reader
from xtool.errors import UsageError
from xtool.layers.initial import initial
from xtool.surgery.operators import (
    KEYS,
    QUERIES,
    Adjusting,
    Conditional,
    Depth,
    Fit,
    Fitted,
    Growth,
    Operator,
    nearest,
)
from xtool.widths import changed, resized
from xtool.writing import Spec

AUTO = ("pad", "clone")
TABLE_ROWS = 1024


@dataclass(frozen=True)
class Plan:
    """A growth that was found possible: the operator, the new sizes, and what it promises."""

    method: str
    growth: Growth
    changes: list[str]

    @cached_property
    def operator(self) -> Operator:
        """What makes the new tensors."""
        entry: Operator = registry.load("surgery/operators", self.method)
        return entry

    @cached_property
    def exact(self) -> bool:
        """Whether the operator promises to keep the function."""
        return promise(self.method) == "exact"

    def fit(self) -> Fit:
        """What the operator learns from data first; nothing for most."""
        operator = self.operator
        return operator.fit(self.growth) if isinstance(operator, Fitted) else Fit()

    def names(self) -> list[str]:
        """The tensors of the grown model."""
        growth = self.growth
        # What nested sizes have of their own ends with them.
        stored = [name for name in growth.reader.names if not name.startswith(f"{SIZE}.")]
        names = [name for name in stored if growth.old.layer(name) is None]
        for layer in range(growth.new.config.get("n_layers", 0)):
            source = growth.source_layer(layer)
            names += [
                name.replace(f".{source}.", f".{layer}.", 1)
                for name in stored
                if growth.old.layer(name) == source
            ]
        return names

    def specs(self, prefix: str = "") -> list[Spec]:
        """The grown model's tensors as they are stored, each in the type of the old one.

        Args:
            prefix: stands before each name.
        """
        growth, specs = self.growth, []
        for name in self.names():
            dtype = NAMES[growth.reader.dtype(growth.source(name))]
            specs.append(Spec(prefix + name, dtype, growth.new.shape(name)))
        return specs

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Rows of a grown tensor; an exact operator's new layers write nothing yet."""
        growth = self.growth
        if self.exact and growth.again(name) and growth.writes_residual(name):
            return torch.zeros(stop - start, *growth.new.shape(name)[1:])
        values = self.operator.rows(growth, name, start, stop)
        for place, axis in enumerate(growth.new.axes(name)):
            if axis.factors[0] in DATA:
                values = self._with_fresh(name, values, start, place)
        return values

    def _with_fresh(self, name: str, values: Tensor, start: int, place: int) -> Tensor:
        """Rows from `start` on, with first values where an axis of the data is new."""
        growth = self.growth
        seen = growth.reader.shape(growth.source(name))[place]
        kept = max(0, seen - start) if place == 0 else seen
        if kept >= values.shape[place]:
            return values
        first, stop = start + (kept if place == 0 else 0), start + len(values)
        fresh = initial(growth.new, name, growth.seed, first, stop).to(values.dtype)
        if place == 1:
            fresh = fresh[:, kept:]
        return torch.cat([values.narrow(place, 0, kept), fresh], place)


def promise(method: str) -> str:
    """`exact` or `approximate`, as the operator's file states it."""
    return str(registry.literal("surgery/operators", method, "PROMISE"))


def plan(
    reader: Reader, changes: Mapping[str, int], method: str, dials: Mapping[str, Any], seed: int
) -> Plan:
    """Decide the new sizes and check the operator's condition, before anything is read or written.

    Args:
        reader: the small model, with its layout.
        changes: the sizes asked for, by dial.
        method: an operator's name, or `auto`: pad where it is exact, else clone.
        dials: the operator's own.
        seed: of what is drawn.

    Raises:
        UsageError: nothing grows, something shrinks, or the operator refuses; the reason is given.
    """
    config = reader.layout.config
    layers: list[int] = []
    if method != "auto":
        layers = _layers(method, config, changes, dials)
        changes = {**changes, "n_layers": len(layers)} if layers else changes
    where = str(reader.source.path)
    if isinstance(changes.get("d_ff", config.get("d_ff")), list) or isinstance(
        config.get("d_ff"), list
    ):
        raise UsageError(
            f"{where}: a `d_ff` that differs by layer cannot grow", "grow before it is sliced so"
        )
    for name, size in changes.items():
        if name in config and isinstance(config[name], int) and size < config[name]:
            raise UsageError(
                f"{where}: cannot grow `{name}` {config[name]} -> {size}: growing only makes a "
                "model larger",
                "to make it smaller use `xtool slice`",
            )
    if not changed(config, resized(config, changes, keep_heads=True)):
        raise UsageError("nothing to grow: every size is already as asked", "give a larger `--to`")
    if method != "auto":
        return _plan_one(reader, changes, method, dials, seed, layers)
    reasons = {}
    for name in AUTO:
        try:
            return _plan_one(reader, changes, name, dials, seed, [])
        except UsageError as error:
            reasons[name] = error
    if len({error.message for error in reasons.values()}) == 1:
        raise reasons[AUTO[0]]
    said = "; ".join(f"{name}: {error.message}" for name, error in reasons.items())
    raise UsageError(f"no exact operator fits: {said}", "choose one with `--method`")


def _own(method: str, dials: Mapping[str, Any]) -> dict[str, Any]:
    names = {row[0] for row in registry.literal("surgery/operators", method, "OPTIONS", [])}
    return {name: value for name, value in dials.items() if name in names}


def _layers(
    method: str, config: Mapping[str, Any], changes: Mapping[str, int], dials: Mapping[str, Any]
) -> list[int]:
    operator = registry.load("surgery/operators", method)
    if not isinstance(operator, Depth) or "n_layers" not in config:
        return []
    return operator.depth(config["n_layers"], changes.get("n_layers"), _own(method, dials))


def _plan_one(
    reader: Reader,
    changes: Mapping[str, int],
    method: str,
    dials: Mapping[str, Any],
    seed: int,
    layers: list[int],
) -> Plan:
    old = reader.layout
    operator: Operator = registry.load("surgery/operators", method)
    new_config = resized(old.config, changes, keep_heads=True)
    if new_config.get("nest"):
        new_config |= {"nest": None, "nest_weights": None}
        new_config["arch"] = "gpt" if new_config["arch"] == "matryoshka" else new_config["arch"]
    if isinstance(operator, Adjusting):
        new_config |= operator.config(old.config, new_config)
    own = _own(method, dials)
    growth = Growth(reader, old, layout(new_config), seed, own, tuple(layers))
    _require_groups(growth)
    if promise(method) == "exact" and (reason := _inexact(method, old, growth.new)):
        raise UsageError(f"`{method}` refuses: {reason}", "an approximate operator can do it")
    if isinstance(operator, Conditional) and (reason := operator.refuse(growth)):
        raise UsageError(f"`{method}` refuses: {reason}", "see `xtool grow --help` for the others")
    checked(new_config)
    _require_tables(growth)
    return Plan(method, growth, changed(old.config, new_config))


def _inexact(method: str, old: Layout, new: Layout) -> str:
    """Why the operator, or any, cannot keep the function at these sizes; empty if it may."""
    known = {**old.config, "method": method}
    for axis, conditions, reason in registry.literal("archs", old.config["arch"], "INEXACT", []):
        if new.size(axis) != old.size(axis) and all(holds(c, known) for c in conditions):
            return str(reason)
    for axis in fixed(old.config):
        if new.size(axis) != old.size(axis):
            return f"the attention variant `{old.config['attention']}` depends on `{axis}`"
    deeper = new.config.get("n_layers") != old.config.get("n_layers")
    if deeper and old.config.get("residual") is False:
        return "without residual connections no new block is the identity"
    return ""


def _require_groups(growth: Growth) -> None:
    """Raise UsageError where no new head of keys could stand for an old one of each query's."""
    if not growth.regroups:
        return
    keys, now = growth.old.size(KEYS), growth.new.size(KEYS)
    if now % keys or growth.ratio(QUERIES) != 1:
        raise UsageError(
            f"`{KEYS}` {keys} -> {now}: fewer queries for each needs a whole factor and the same "
            f"`{QUERIES}`",
            f"grow `--n-kv-heads` first, then `--n-heads`; nearest: {nearest(keys, now)}",
        )


def _require_tables(growth: Growth) -> None:
    """Raise UsageError where a fixed table gets rows that its stored ones do not go on to."""
    for name in growth.reader.names:
        if not growth.old.is_frozen(name) or "context" not in growth.old.axes(name)[0].factors:
            continue
        rows, columns = growth.old.shape(name)
        if growth.new.shape(name)[0] == rows:
            continue
        some = min(rows, TABLE_ROWS)
        stored = growth.reader.rows(name, 0, some).double()
        wanted = initial(growth.old, name, 0, 0, some)
        if growth.new.shape(name)[1] != columns or not torch.allclose(stored, wanted, atol=1e-5):
            raise UsageError(
                "`context` grows with a fixed table of positions, which goes on "
                f"only at the `{RESIDUAL}` that it was made for",
                f"grow `--context` first, then `{RESIDUAL}`",
            )
