"""Rows and columns repeated and not divided, as the counting experiment tried: not exact."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from xtool.surgery.gather import repeat
from xtool.surgery.operators import Growth, Operator
from xtool.surgery.operators.clone import ENTRY as CLONE

PROMISE = "approximate"
CONDITION = "whole factors"


class Double:
    """The operator; see the module."""

    def refuse(self, growth: Growth) -> str:
        """A size that is not a whole multiple."""
        reason = CLONE.refuse(growth)
        return reason if "whole factor" in reason else ""

    def config(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
        """Nothing."""
        return {}

    def rows(self, growth: Growth, name: str, start: int, stop: int) -> Tensor:
        """Each value as often as its axes grew."""
        dtype = growth.working(name, 1.0)
        return growth.gather(name, repeat, start, stop, dtype)


ENTRY: Operator = Double()
