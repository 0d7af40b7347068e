"""The control: a fresh model of the new size, which knows nothing."""

from torch import Tensor

from xtool.layers.initial import initial
from xtool.surgery.operators import Growth, Operator

PROMISE = "approximate"
CONDITION = "any width; nothing is carried over"


class Random:
    """The operator; see the module."""

    def rows(self, growth: Growth, name: str, start: int, stop: int) -> Tensor:
        """First values."""
        return initial(growth.new, name, growth.seed, start, stop)


ENTRY: Operator = Random()
