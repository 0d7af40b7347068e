"""The structure of attention joins the input of the feed-forward part.

The fourth variant of tomhartke/transformer-modifications (2023): place and spread of each head,
each without its running mean over the positions so far, times a scale and plus a bias that belong
to the position, normed, stand beside the feed-forward part's input. The hidden layer keeps `d_ff`.
As published the residual stream was overwritten by the second norm, by accident: that is
`--structure-norm post`; `pre` is what was meant.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from xtool.errors import UsageError
from xtool.layers.attention import Attention, Mixed
from xtool.layers.attention._structure import Structure, Structured, normed
from xtool.layers.attention.plain import PlainEntry
from xtool.layers.linear import Linear

LIKE = "plain"
AXES = {
    "structure.weight": ("d_ff", "<2*n_kv_heads*n_heads/n_kv_heads"),
    "place_scale": ("context",),
    "place_bias": ("context",),
    "spread_scale": ("context",),
    "spread_bias": ("context",),
}
CACHED = True
# The features are normed over the heads, places are parts of the context; a norm that overwrites
# the residual stream sees new columns, and makes a new layer no identity.
FIXED = {
    "n_heads": [],
    "context": [],
    "d_model": ["structure_norm=post"],
    "n_layers": ["structure_norm=post"],
}
OPTIONS = [
    ("structure_norm", "pre|post", "pre", "the second norm stands beside the residual, or in it"),
]
NEUTRAL = {"structure.weight": 0.0}
UNIT = 4.0  # times the context: the first scale


class StructureMlp(Structured):
    """The variant; see the module."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.post_norm = config.structure_norm == "post"
        self.structure = Linear(2 * config.n_heads, config.d_ff)
        self.place_scale = nn.Parameter(torch.empty(config.context))
        self.place_bias = nn.Parameter(torch.empty(config.context))
        self.spread_scale = nn.Parameter(torch.empty(config.context))
        self.spread_bias = nn.Parameter(torch.empty(config.context))

    def told(self, mixed: Float[Tensor, "B H T W"], structure: Structure) -> Mixed:
        """The heads' outputs, and what joins the hidden layer."""
        both = torch.cat([structure.place, structure.spread], -1)  # (B, T, 2H)
        sums = self.cache.sums(both) if self.cache else both.cumsum(1)
        end = self.cache.length if self.cache else both.shape[1]
        at = slice(end - both.shape[1], end)
        counts = torch.arange(at.start + 1, end + 1, device=both.device, dtype=both.dtype)
        place, spread = (both - sums / counts[:, None]).chunk(2, -1)  # (B, T, H)
        scale = UNIT * self.context
        place = place * (scale * (1 + self.place_scale[at, None])) + self.place_bias[at, None]
        spread = spread * (scale * (1 + self.spread_scale[at, None])) + self.spread_bias[at, None]
        hidden = self.structure(normed(torch.cat([place, spread], -1)))  # (B, T, F)
        return Mixed(self.written(mixed), hidden=hidden)


class _Entry(PlainEntry):
    def configure(self, config: dict[str, Any]) -> dict[str, Any]:
        """There must be a feed-forward part to join."""
        if not config["d_ff"]:
            raise UsageError(
                "`structure-mlp` joins the feed-forward part, `d_ff` is 0", "leave `--d-ff` out"
            )
        if config["structure_norm"] == "post" and config["norm"] == "none":
            raise UsageError("`structure_norm` is post, `norm` is none", "choose a norm")
        return {}

    def more(self, config: Any, context: int) -> int:
        return int(2 * config.n_heads * config.d_ff)


ENTRY: Attention = _Entry(StructureMlp)
