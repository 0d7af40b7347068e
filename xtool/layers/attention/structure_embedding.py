"""The structure of attention scales and shifts the residual stream.

The fifth variant of tomhartke/transformer-modifications (2023): three small networks read place and
spread of each head and the position; the first scales what attention adds, by 1 where it says 0,
the second is added to that, and the third behind the feed-forward part. Their hidden layer has 8
units a head, and reads the position with a weight of its own.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from xtool.layers.attention import Attention, Mixed
from xtool.layers.attention._structure import Structure, Structured
from xtool.layers.attention.plain import PlainEntry
from xtool.layers.linear import Linear

LIKE = "plain"
AXES = {
    "structure.*.up.weight": (
        "8*n_kv_heads*n_heads/n_kv_heads",
        "<2*n_kv_heads*n_heads/n_kv_heads",
    ),
    "structure.*.up.bias": ("8*n_kv_heads*n_heads/n_kv_heads",),
    "structure.*.position": ("8*n_kv_heads*n_heads/n_kv_heads",),
    "structure.*.down.weight": ("d_model", "<8*n_kv_heads*n_heads/n_kv_heads"),
    "structure.*.down.bias": ("d_model",),
}
CACHED = True
# Places are parts of the context; under layernorm new columns must hold the mean of the old, and
# a product of two means is not the mean of the products.
FIXED = {"context": [], "d_model": ["norm=layernorm"]}
NEUTRAL = {"structure.*.down.weight": 0.0, "structure.*.down.bias": 0.0}


class Says(nn.Module):
    """A network from structure and position to the residual's width."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        heads = config.n_heads
        self.up = Linear(2 * heads, 8 * heads, True)
        self.position = nn.Parameter(torch.empty(8 * heads))
        self.down = Linear(8 * heads, config.d_model, True)

    def forward(
        self, features: Float[Tensor, "B T E"], own: Float[Tensor, " T"]
    ) -> Float[Tensor, "B T D"]:
        """From features (B, T, 2H) and places (T,)."""
        out: Tensor = self.down(F.gelu(self.up(features) + own[:, None] * self.position))
        return out


class StructureEmbedding(Structured):
    """The variant; see the module."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        names = ("scale", "shift", "after")
        self.structure = nn.ModuleDict({name: Says(config) for name in names})

    def told(self, mixed: Float[Tensor, "B H T W"], structure: Structure) -> Mixed:
        """The heads' outputs scaled and shifted, and what comes behind the feed-forward part."""
        features = torch.cat([structure.place, structure.spread], -1)  # (B, T, 2H)
        scale, shift, after = (
            F.dropout(says(features, structure.own), self.rate) for says in self.structure.values()
        )
        return Mixed(self.written(mixed) * (1 + scale) + shift, after=after)


class _Entry(PlainEntry):
    def more(self, config: Any, context: int) -> int:
        return int(3 * 8 * config.n_heads * (2 * config.n_heads + config.d_model))


ENTRY: Attention = _Entry(StructureEmbedding)
