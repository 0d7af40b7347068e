"""Attention to the last tokens alone: a fixed window (Beltagy et al., 2020, arXiv:2004.05150).

A query sees the `window` nearest positions, itself among them; without a causal mask those on both
sides. Beyond them nothing is computed, so time and memory grow with the window, not the context.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from xtool.layers.attention import Attention
from xtool.layers.attention._fixed import near
from xtool.layers.attention._kernel import attend, distances, within
from xtool.layers.attention._windowed import Windowed
from xtool.layers.attention._windows import block_of
from xtool.layers.attention.plain import PlainEntry

LIKE = "plain"
CACHED = True
OPTIONS = [("window", "int", None, "positions that a query sees; context / 4 unless given")]
TUNABLE = ["window"]
NEUTRAL = {"window": "context"}


class Window(Windowed):
    """The variant; see the module."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.window = int(config.window)

    def lengths(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "#B #H #T"]:
        """The same for all."""
        return torch.full((1, 1, 1), float(self.window), device=x.device)

    def quick(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "B H T W"]:
        """A short text, or one inside the window, is one block for the fused kernel."""
        queries, keys = q.shape[2], k.shape[2]
        common = {"causal": self.causal, "scale": self.scale, "dropout": self.rate}
        if self.window >= keys:
            return attend(q, k, v, **common)
        block = block_of(queries, self.causal) if queries == keys else None
        if block is not None:
            return near(q, k, v, self.window, block=block, **common)
        kept = within(distances(queries, keys, q.device), self.window, causal=self.causal)
        return attend(q, k, v, mask=kept, **common)


class _Entry(PlainEntry):
    def configure(self, config: dict[str, Any]) -> dict[str, Any]:
        """A quarter of the context unless given."""
        return {"window": config["window"] or max(1, config["context"] // 4)}

    def keys(self, config: Any, context: int) -> float:
        return float(min(config.window, context))


ENTRY: Attention = _Entry(Window)
