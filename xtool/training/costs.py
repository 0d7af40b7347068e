"""What the steps of a training run cost."""

from collections.abc import Mapping
from typing import Any

from xtool.archs import (
    FORWARD_AND_BACKWARD,
    HEAD,
    Ramped,
    TrainingFlops,
    architecture,
    axes_of,
    flops,
    sized,
    sizes_of,
)
from xtool.errors import XtoolError


def costs_of(config: Mapping[str, Any], steps: int) -> list[tuple[int, int]]:
    """From which of so many steps of a lineage on training on one example takes how many FLOPs.

    Raises:
        XtoolError: see `training_flops`.
    """
    arch, found = architecture(config), []
    for first, changes in arch.phases(config) if isinstance(arch, Ramped) else [(0, {})]:
        if first and first >= steps:
            break
        found.append((first, training_flops({**config, **changes})))
    return found


def training_flops(config: Mapping[str, Any]) -> int:
    """Operations of training on one example, the mean of the sizes that a step may draw.

    Raises:
        XtoolError: an architecture of a user's own gives no whole number above 0.
    """
    axes = axes_of(config)
    if not axes:
        return _whole(config)
    whole = {**config, "nest": None}
    if HEAD in axes:
        heads = [flops({**whole, "d_model": p, "n_layers": 0}) for p in axes[HEAD][:-1]]
        return _whole(whole) + FORWARD_AND_BACKWARD * sum(heads)
    each = [_whole(sized(config, size.changes)) for size in sizes_of(config)]
    if config["nest_schedule"] == "joint":
        return sum(each)
    if config["nest_schedule"] == "random":
        return sum(each) // len(each)
    smallest, middle = each[0] if len(each) > 1 else 0, each[1:-1]
    drawn = min(config["nest_drawn"], len(middle))
    return each[-1] + smallest + (drawn * sum(middle) // len(middle) if middle else 0)


def _whole(config: Mapping[str, Any]) -> int:
    """Operations of training the whole model on one example, with no size nested in it.

    They are those of three forward passes, or what the architecture says.

    Raises:
        XtoolError: an architecture of a user's own gives no whole number above 0.
    """
    arch = architecture(config)
    if isinstance(arch, TrainingFlops):
        return arch.training_flops(config)
    found = arch.flops(config)
    if not isinstance(found, int) or found < 1:
        raise XtoolError(f"{config['arch']}: `flops` gives {found!r}, not a whole number above 0")
    return FORWARD_AND_BACKWARD * found
