"""A window for every query and head, learned, and exactly zero beyond it.

The second variant of tomhartke/transformer-modifications (2023), mended: its window had no upper
bound and its floors of 1e-10 let every key through. Here a linear map of the block's normed input
gives s, and the window is r = 1 + (window + ramp - 1) sigmoid(s) tokens long; a key at distance
x = |i - j| counts min(1, (r - x) / ramp). So a window of the context can see all of it undisturbed,
`window` caps it, and what no window of a block of queries reaches is not computed.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from xtool.layers.attention import Attention
from xtool.layers.attention._windowed import Learned, LearnedEntry
from xtool.layers.linear import Linear

LIKE = "plain"
AXES = {
    "window.weight": ("n_kv_heads*n_heads/n_kv_heads", "<d_model"),
    "window.bias": ("n_kv_heads*n_heads/n_kv_heads",),
}
CACHED = True
OPTIONS = [
    ("window", "int", None, "the longest window; the context unless given"),
    ("ramp", "int", None, "tokens over which a window ends; unless given 32, or context / 2"),
    ("window_penalty", "float", 0.0, "loss for the mean part of the longest window, as in span"),
]
TUNABLE = ["window_penalty"]
NEUTRAL = {"window": "context", "window.weight": 0.0, "window.bias": 40.0}


class HardWindow(Learned):
    """The variant; see the module."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.window = Linear(config.d_model, config.n_heads, bias=True)

    def told(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "#B H #T"]:
        """By query and head."""
        said: Tensor = self.window(x).transpose(1, 2)
        return said.to(torch.promote_types(said.dtype, torch.float32))


class _Entry(LearnedEntry):
    def more(self, config: Any, context: int) -> int:
        return int(config.d_model * config.n_heads)


ENTRY: Attention = _Entry(HardWindow)
