"""What the steps of a training run cost."""

from collections.abc import Mapping
from typing import Any

from xtool.archs import Ramped, architecture, training_flops


def costs_of(config: Mapping[str, Any], steps: int) -> list[tuple[int, int]]:
    """From which of so many steps of a lineage on training on one example takes how many FLOPs.

    Raises:
        XtoolError: an architecture of a user's own gives no whole number above 0.
    """
    arch, found = architecture(config), []
    for first, changes in arch.phases(config) if isinstance(arch, Ramped) else [(0, {})]:
        if first and first >= steps:
            break
        found.append((first, training_flops({**config, **changes})))
    return found
