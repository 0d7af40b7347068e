"""The cache of keys and values: what a model keeps of the positions that it has seen.

A module that looks back declares `cache: Cache | None = None`; inside `caching` each has one, and
the model takes only the positions that are new.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Cache:
    """What one module has seen: how many positions, and of attention their keys and values."""

    def __init__(self) -> None:
        self.length = 0
        self.kept: tuple[Tensor, Tensor] | None = None
        self.total: Tensor | float = 0.0

    def places(self, count: int) -> slice:
        """The places of the next `count` positions, which count as seen from now on."""
        start = self.length
        self.length += count
        return slice(start, self.length)

    def extend(
        self, keys: Float[Tensor, "B G T K"], values: Float[Tensor, "B G T W"]
    ) -> tuple[Float[Tensor, "B G S K"], Float[Tensor, "B G S W"]]:
        """The keys and values of all positions seen, these last."""
        if self.kept is not None:
            keys = torch.cat([self.kept[0], keys], -2)
            values = torch.cat([self.kept[1], values], -2)
        self.kept = keys, values
        return self.kept

    def sums(self, values: Float[Tensor, "B T E"]) -> Float[Tensor, "B T E"]:
        """The running sums of values over all positions seen, these last."""
        found = values.cumsum(1) + self.total
        self.total = found[:, -1:]
        return found


@contextmanager
def caching(model: nn.Module) -> Iterator[None]:
    """Give each module of a model that looks back an empty cache inside."""
    looking = [module for module in model.modules() if hasattr(module, "cache")]
    for module in looking:
        module.cache = Cache()  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in looking:
            module.cache = None  # type: ignore[assignment]
