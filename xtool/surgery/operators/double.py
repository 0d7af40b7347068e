"""Rows and columns repeated and not divided, as the counting experiment tried: not exact."""

from torch import Tensor

from xtool.gather import repeat
from xtool.surgery.operators import Growth, Operator, uneven

PROMISE = "approximate"
CONDITION = "whole factors"


class Double:
    """The operator; see the module."""

    def refuse(self, growth: Growth) -> str:
        """A size that is not a whole multiple."""
        return uneven(growth.old, growth.new)

    def rows(self, growth: Growth, name: str, start: int, stop: int) -> Tensor:
        """Each value as often as its axes grew."""
        dtype = growth.working(name, 1.0)
        return growth.gather(name, repeat, start, stop, dtype)


ENTRY: Operator = Double()
