"""The structure of attention scales the output of each head.

The third variant of tomhartke/transformer-modifications (2023): the mean logit, place and spread of
each head, normed over the heads, go through a small network, and each head's output is multiplied
by 2 sigmoid of what it says: 1 where it says 0.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from xtool.errors import UsageError
from xtool.layers.attention import Attention, Mixed
from xtool.layers.attention._structure import Structure, Structured, normed
from xtool.layers.attention.plain import PlainEntry
from xtool.layers.linear import Linear

LIKE = "plain"
AXES = {
    "gate.up.weight": ("12*n_kv_heads*n_heads/n_kv_heads", "<3*n_kv_heads*n_heads/n_kv_heads"),
    "gate.up.bias": ("12*n_kv_heads*n_heads/n_kv_heads",),
    "gate.down.weight": ("n_kv_heads*n_heads/n_kv_heads", "<12*n_kv_heads*n_heads/n_kv_heads"),
    "gate.down.bias": ("n_kv_heads*n_heads/n_kv_heads",),
}
CACHED = True
# The features are normed over the heads, and places are parts of the context.
FIXED: dict[str, list[str]] = {"n_heads": [], "context": []}
NEUTRAL = {"gate.down.weight": 0.0, "gate.down.bias": 0.0}


class HeadGate(Structured):
    """The variant; see the module."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        heads = config.n_heads
        self.gate = nn.ModuleDict(
            {"up": Linear(3 * heads, 12 * heads, True), "down": Linear(12 * heads, heads, True)}
        )

    def told(
        self, mixed: Float[Tensor, "B H T W"], structure: Structure
    ) -> Float[Tensor, "B T D"] | Mixed:
        """Heads times their gates."""
        features = torch.cat([normed(one) for one in structure[:3]], -1)  # (B, T, 3H)
        hidden = F.gelu(self.gate["up"](features), approximate="tanh")
        said = F.dropout(self.gate["down"](hidden), self.rate)  # (B, T, H)
        gates = (2 * said.sigmoid()).transpose(1, 2)  # (B, H, T)
        if self.trace is not None:
            self.trace.note("head_gate", gates)
        return self.written(mixed * gates[..., None])


class _Entry(PlainEntry):
    def configure(self, config: dict[str, Any]) -> dict[str, Any]:
        """One head has no others to be compared with."""
        if config["n_heads"] < 2:
            raise UsageError(
                f"`n_heads` is {config['n_heads']}: the features of `head-gate` are normed over "
                "the heads, so it needs two or more",
                "`--n-heads 2`",
            )
        return {}

    def more(self, config: Any, context: int) -> int:
        return 48 * int(config.n_heads) ** 2


ENTRY: Attention = _Entry(HeadGate)
