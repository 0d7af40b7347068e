"""What the operators share that repeat whole blocks: every value is copied as it stands."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from xtool.gather import prefix
from xtool.surgery.operators import Growth, nearest


def other_sizes(growth: Growth) -> str:
    """Why not, where a width is to change; blocks are repeated as they are."""
    for name in growth.old.units:
        old, new = growth.old.size(name), growth.new.size(name)
        if old != new:
            return (
                f"it repeats whole blocks and leaves `{name}` {old} as it is, not {new}: "
                "grow widths in a step of their own"
            )
    return ""


@dataclass(frozen=True)
class Repeated:
    """An operator that repeats all blocks equally often.

    Attributes:
        order: from the old and the new depth to the old layer behind each new one.
    """

    order: Callable[[int, int], list[int]]

    def refuse(self, growth: Growth) -> str:
        """A width that changes, or a depth that is no whole multiple."""
        if reason := other_sizes(growth):
            return reason
        old, new = growth.old.config.get("n_layers"), growth.new.config.get("n_layers")
        if old and new and new % old:
            return f"`n_layers` {old} -> {new} is not a whole factor; nearest: {nearest(old, new)}"
        return ""

    def depth(self, old: int, asked: int | None, dials: Mapping[str, Any]) -> list[int]:
        """The old layer behind each new one."""
        return self.order(old, asked or old)

    def rows(self, growth: Growth, name: str, start: int, stop: int) -> Tensor:
        """The old values."""
        return growth.gather(name, prefix, start, stop)
