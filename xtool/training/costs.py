"""What the steps of a training run cost."""

from collections.abc import Mapping
from typing import Any

from xtool.archs import (
    FORWARD_AND_BACKWARD,
    HEAD,
    TrainingCosts,
    architecture,
    axes_of,
    flops,
    sized,
    sizes_of,
)
from xtool.errors import XtoolError

Costs = list[tuple[int, int]]


def costs_of(config: Mapping[str, Any]) -> Costs:
    """From which step of a lineage on training on one example takes how many FLOPs.

    They are the mean of the sizes that a step may draw.

    Raises:
        XtoolError: an architecture of a user's own gives no whole number above 0.
    """
    axes = axes_of(config)
    if not axes:
        return _whole(config)
    whole = {**config, "nest": None}
    if HEAD in axes:
        heads = [flops({**whole, "d_model": p, "n_layers": 0}) for p in axes[HEAD][:-1]]
        more = FORWARD_AND_BACKWARD * sum(heads)
        return [(first, cost + more) for first, cost in _whole(whole)]
    sizes = [_whole(sized(config, size.changes)) for size in sizes_of(config)]
    # All sizes have the same loops, so their costs change at the same steps.
    return [
        (each[0][0], _drawn(config, [cost for _, cost in each]))
        for each in zip(*sizes, strict=True)
    ]


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
