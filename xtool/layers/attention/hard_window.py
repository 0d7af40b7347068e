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
from torch import Tensor, nn

from xtool.errors import UsageError
from xtool.layers.attention import Attention, AttentionConfig
from xtool.layers.attention._windows import Windowed
from xtool.layers.attention.plain import PlainEntry
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
RAMP = 32


class Learned(Windowed):
    """Windows between 1 and `window` + `ramp` tokens, by a number that a subclass has."""

    penalty: Tensor | None = None

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.longest, self.ramp = int(config.window), int(config.ramp)
        self.price = float(config.window_penalty)

    def lengths(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "#B #H #T"]:
        """The windows, and what they cost where they are trained."""
        parts = torch.sigmoid(self.told(x))  # (B, H, T)
        if self.price and self.training:
            self.penalty = self.price * parts.mean()
        return 1 + (self.longest + self.ramp - 1) * parts

    def told(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "#B H #T"]:
        """The number behind each window, or what broadcasts."""
        raise NotImplementedError


class HardWindow(Learned):
    """The variant; see the module."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.window = Linear(config.d_model, config.n_heads, bias=True)

    def told(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "#B H #T"]:
        """By query and head."""
        said: Tensor = self.window(x).transpose(1, 2)
        return said.to(torch.promote_types(said.dtype, torch.float32))


class LearnedEntry(PlainEntry):
    """The dials of learned windows; their FLOPs are those of the longest."""

    def configure(self, config: dict[str, Any]) -> dict[str, Any]:
        """The context and a ramp that fits it, unless given."""
        if config["ramp"] is not None and config["ramp"] < 1:
            raise UsageError(
                f"`ramp` is {config['ramp']}, it must be at least 1", "1 ends a window at once"
            )
        if config["window_penalty"] < 0:
            raise UsageError(
                f"`window_penalty` is {config['window_penalty']}, it must be 0 or more",
                "0 charges nothing for long windows",
            )
        return {
            "window": config["window"] or config["context"],
            "ramp": config["ramp"] or max(1, min(RAMP, config["context"] // 2)),
        }

    def keys(self, config: Any, context: int) -> float:
        """Those of the longest window."""
        return float(min(config.window + config.ramp, context))


class _Entry(LearnedEntry):
    def build(self, config: AttentionConfig) -> nn.Module:
        return HardWindow(config)

    def more(self, config: Any, context: int) -> int:
        return int(config.d_model * config.n_heads)


ENTRY: Attention = _Entry()
