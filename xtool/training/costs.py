"""What the steps of a training run cost."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from xtool.archs import (
    FORWARD_AND_BACKWARD,
    HEAD,
    Size,
    TrainingCosts,
    architecture,
    axes_of,
    flops,
    sized,
    sizes_of,
)
from xtool.errors import XtoolError

Costs = list[tuple[int, int]]


def costs_of(config: Mapping[str, Any], lengths: Costs | None = None) -> Costs:
    """From which step of a lineage on training on one example takes how many FLOPs.

    They are the mean of the sizes that a step may draw.

    Args:
        config: the model's.
        lengths: from which step on examples have how many positions; as many as the context.

    Raises:
        XtoolError: an architecture of a user's own gives no whole number above 0.
    """
    lengths = lengths or [(0, config["context"])]
    ends: list[float] = [*(first for first, _ in lengths[1:]), math.inf]
    found: Costs = []
    for (begin, positions), end in zip(lengths, ends, strict=True):
        own = _costs({**config, "context": positions})
        before = [cost for first, cost in own if first <= begin]
        found += [(begin, before[-1]), *((f, cost) for f, cost in own if begin < f < end)]
    return found


def _costs(config: Mapping[str, Any]) -> Costs:
    """The costs of examples of one length."""
    axes = axes_of(config)
    if not axes:
        return _whole(config)
    whole = {**config, "nest": None}
    if HEAD in axes:
        heads = [flops({**whole, "d_model": p, "n_layers": 0, "d_input": 0}) for p in axes[HEAD]]
        more = FORWARD_AND_BACKWARD * (_drawn(config, heads) - heads[-1])
        return [(first, cost + more) for first, cost in _whole(whole)]
    sizes = sizes_of(config)
    mixed = sizes[1:-1] if config["nest_mix"] else []
    each = [_mixed(config, s, axes["d_ff"]) if s in mixed else _sized(config, s) for s in sizes]
    return _joined(each, lambda costs: _drawn(config, costs))


def _sized(config: Mapping[str, Any], size: Size) -> Costs:
    return _whole(sized(config, size.changes))


def _mixed(config: Mapping[str, Any], size: Size, widths: list[int]) -> Costs:
    """The mean over the feed-forward widths that each layer may draw, in which FLOPs are linear."""
    each = [_whole(sized(config, {**size.changes, "d_ff": width})) for width in widths]
    return _joined(each, lambda costs: sum(costs) // len(costs))


def _joined(each: list[Costs], join: Callable[[list[int]], int]) -> Costs:
    """One for several sizes, which loop alike, so that their costs change at the same steps."""
    return [(at[0][0], join([cost for _, cost in at])) for at in zip(*each, strict=True)]


def _drawn(config: Mapping[str, Any], each: list[int]) -> int:
    """What the sizes of a step cost, from what each of them does, the smallest first."""
    if config["nest_schedule"] == "joint":
        return sum(each)
    if config["nest_schedule"] == "random":
        return sum(each) // len(each)
    smallest, middle = each[0] if len(each) > 1 else 0, each[1:-1]
    drawn = min(config["nest_drawn"], len(middle))
    return each[-1] + smallest + (drawn * sum(middle) // len(middle) if middle else 0)


def _whole(config: Mapping[str, Any]) -> Costs:
    """The costs of one model: three forward passes, or what the architecture says."""
    arch = architecture(config)
    if isinstance(arch, TrainingCosts):
        return arch.training_costs(config)
    found = arch.flops(config)
    if not isinstance(found, int) or found < 1:
        raise XtoolError(f"{config['arch']}: `flops` gives {found!r}, not a whole number above 0")
    return [(0, FORWARD_AND_BACKWARD * found)]
