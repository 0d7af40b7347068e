"""A plain average in place of attention: every position seen counts alike, and none is chosen.

It shows what the learned attention weights are worth (Wang et al., 2020, arXiv:2006.04768, compare
such fixed weights). There are no queries and keys, so positions that turn them do nothing.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from xtool.layers.attention import Attention, AttentionConfig
from xtool.layers.linear import Linear

LIKE = "plain"


class Average(nn.Module):
    """The mean of the values of all positions, or those up to its own when causal."""

    def __init__(self, config: AttentionConfig) -> None:
        super().__init__()
        d_model, inner = config.d_model, config.n_heads * config.d_value
        bias = config.bias == "all"
        self.n_heads, self.n_kv_heads = config.n_heads, config.n_kv_heads
        self.causal = config.causal
        if config.attention_output:
            self.v = Linear(d_model, config.n_kv_heads * config.d_value, bias)
            self.o = Linear(inner, d_model, bias)
        else:
            self.vo = Linear(d_model, inner, bias)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """(B, T, D) -> (B, T, D)."""
        values = self.v(x) if hasattr(self, "v") else self.vo(x)  # (B, T, G*W)
        if self.causal:
            counts = torch.arange(1, x.shape[1] + 1, device=x.device, dtype=x.dtype)
            mixed = values.cumsum(1) / counts[:, None]
        else:
            mixed = values.mean(1, keepdim=True).expand_as(values)
        heads = mixed.unflatten(-1, (self.n_kv_heads, -1))  # (B, T, G, W)
        out = heads.repeat_interleave(self.n_heads // self.n_kv_heads, 2).flatten(2)  # (B, T, H*W)
        written: Tensor = self.o(out) if hasattr(self, "o") else out
        return written


class _Entry:
    def build(self, config: AttentionConfig) -> nn.Module:
        return Average(config)

    def flops(self, config: Any, context: int) -> int:
        d, inner = config.d_model, config.n_heads * config.d_value
        projections = d * config.n_kv_heads * config.d_value
        projections += inner * d if config.attention_output else 0
        total: int = 2 * context * (projections + config.n_kv_heads * config.d_value)
        return total


ENTRY: Attention = _Entry()
