"""Scaled dot-product attention of several heads (Vaswani et al., 2017, arXiv:1706.03762).

Queries and keys may be narrower than values, and the output projection may be left out; the heads'
values are then the residual's columns themselves. There is no key bias: the softmax cancels it. A
group of query heads, side by side, may share a head of keys and values (Ainslie et al., 2023,
arXiv:2305.13245); so a query's head is a head of keys and a place in its group.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from xtool.layers._cache import Cache
from xtool.layers._trace import Trace
from xtool.layers.attention import Attention, AttentionConfig, Mixed
from xtool.layers.attention._kernel import attend, for_each, is_masked, scored, seen
from xtool.layers.linear import Linear
from xtool.layers.positions import turned

AXES = {
    "q.weight": ("n_kv_heads*n_heads/n_kv_heads*d_head", "<d_model"),
    "k.weight": ("n_kv_heads*d_head", "<d_model"),
    "v.weight": ("n_kv_heads*d_value", "<d_model"),
    "o.weight": ("d_model", "<n_kv_heads*n_heads/n_kv_heads*d_value"),
    "vo.weight": ("d_model", "<d_model"),
    "frequencies": ("d_head/2",),
    "q.bias": ("n_kv_heads*n_heads/n_kv_heads*d_head",),
    "v.bias": ("n_kv_heads*d_value",),
    "o.bias": ("d_model",),
    "vo.bias": ("d_model",),
}
PRODUCTS = {"q.*": ("d_head", "score_scale")}
CACHED = True
FROZEN = {"frequencies": ["positions=rotary"]}
NEUTRAL: dict[str, float] = {}


class Plain(nn.Module):
    """Attention over all positions, or those up to the query's when causal.

    Without an output projection the values are `vo`, since they write the residual themselves.
    """

    cache: Cache | None = None
    trace: Trace | None = None

    def __init__(self, config: AttentionConfig) -> None:
        super().__init__()
        d_model, inner = config.d_model, config.n_heads * config.d_value
        bias = config.bias == "all"
        self.n_heads, self.n_kv_heads = config.n_heads, config.n_kv_heads
        self.causal = config.causal
        self.scale = {"d_head": config.d_head**-0.5, "d_model": d_model**-0.5, "none": 1.0}[
            config.score_scale
        ]
        self.q = Linear(d_model, config.n_heads * config.d_head, bias)
        self.k = Linear(d_model, config.n_kv_heads * config.d_head)
        if config.attention_output:
            self.v = Linear(d_model, config.n_kv_heads * config.d_value, bias)
            self.o = Linear(inner, d_model, bias)
        else:
            self.vo = Linear(d_model, inner, bias)
        self.frequencies: Tensor | None = None
        if config.positions == "rotary":
            del self.frequencies
            self.register_buffer("frequencies", torch.empty(config.d_head // 2))
        self.dropout = config.dropout_attention

    def forward(
        self, x: Float[Tensor, "B T D"], passed: Float[Tensor, "B T P"] | None = None
    ) -> Float[Tensor, "B T D"] | Mixed:
        """(B, T, D) -> (B, T, D); a subclass with `passes` is given what its predecessor passed."""
        q, k, v = self.heads(x)
        if self.trace is None and not is_masked():
            return self.written(self.quick(x, q, k, v))
        return self.written(self.mixed(self.weights(x, q, k), v))

    def heads(
        self, x: Float[Tensor, "B T D"], logits: Float[Tensor, "B T 1"] | None = None
    ) -> tuple[Float[Tensor, "B H T K"], Float[Tensor, "B G S K"], Float[Tensor, "B G S W"]]:
        """Queries, keys and values; with a cache, keys and values of all positions seen.

        What is given as `logits` is added to those of each key: it is one more column of the keys,
        and of the queries what the scale makes 1.
        """
        values = self.v if hasattr(self, "v") else self.vo
        q = self._heads(self.q(x), self.n_heads)  # (B, H, T, K)
        k = self._heads(self.k(x), self.n_kv_heads)  # (B, G, T, K)
        v = self._heads(values(x), self.n_kv_heads)  # (B, G, T, W)
        q, k = self.prepared(q), self.prepared(k)
        start = self.cache.places(x.shape[1]).start if self.cache else 0
        if self.frequencies is not None:
            q, k = (turned(one, self.frequencies, start) for one in (q, k))
        if logits is not None:
            q = F.pad(q, (0, 1), value=1 / self.scale)
            k = torch.cat([k, logits[:, None].expand(*k.shape[:3], 1).to(k.dtype)], -1)
        if self.cache:
            k, v = self.cache.extend(k, v)
        return q, k, v

    def quick(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "B H T W"]:
        """What the weights mix of the values, in the fastest way there is."""
        return attend(q, k, v, causal=self.causal, scale=self.scale, dropout=self.rate)

    def weights(self, x: Tensor, q: Tensor, k: Tensor) -> Float[Tensor, "B H T S"]:
        """The attention weights by their definition, before dropout; what `quick` must equal."""
        return self.seen(scored(q, k, self.scale)).softmax(-1)

    def seen(self, scores: Float[Tensor, "B H T S"]) -> Float[Tensor, "B H T S"]:
        """Scores without those of later keys."""
        if not self.causal:
            return scores
        return scores.masked_fill(~seen(*scores.shape[-2:], scores.device), float("-inf"))

    def pairs(self, queries: int, keys: int) -> int:
        """Pairs of a query and a key that it sees, in all."""
        later = queries * (queries - 1) // 2 if self.causal else 0
        return queries * keys - later

    def mixed(
        self, weights: Float[Tensor, "B H T S"], v: Float[Tensor, "B G S W"]
    ) -> Float[Tensor, "B H T W"]:
        """The values mixed by weights, some of which drop out."""
        if self.trace is not None:
            self.trace.weights(weights)
        kept = F.dropout(weights, self.rate) if self.rate else weights
        return kept.to(v.dtype) @ for_each(v, self.n_heads)

    def written(self, mixed: Float[Tensor, "B H T W"]) -> Float[Tensor, "B T D"]:
        """The heads' outputs on the residual stream."""
        out = mixed.transpose(1, 2).flatten(2)  # (B, T, H*W)
        return self.o(out) if hasattr(self, "o") else out

    @property
    def rate(self) -> float:
        """Of dropout on the weights, now."""
        return self.dropout if self.training else 0.0

    def prepared(self, x: Float[Tensor, "B H T K"]) -> Float[Tensor, "B H T K"]:
        """What becomes of queries and of keys before positions turn them: here nothing."""
        return x

    def _heads(self, x: Float[Tensor, "B T HK"], heads: int) -> Float[Tensor, "B H T K"]:
        return torch.unflatten(x, -1, (heads, -1)).transpose(1, 2)  # (B, H, T, K)


class Weighed(Plain):
    """A variant that its `weights` alone define: it computes all of them."""

    def quick(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "B H T W"]:
        """There is no quicker way."""
        return self.mixed(self.weights(x, q, k), v)


class PlainEntry:
    """The contract of the folder; variants with the same tensors build on it.

    Args:
        module: the variant's, made of a configuration.
    """

    def __init__(self, module: Callable[[Any], nn.Module] = Plain) -> None:
        self.module = module

    def build(self, config: AttentionConfig) -> nn.Module:
        """The module."""
        return self.module(config)

    def flops(self, config: Any, context: int) -> int:
        """Projections, scores and sums."""
        pairs = context * self.keys(config, context)
        d, h, g = config.d_model, config.n_heads, config.n_kv_heads
        k, v = config.d_head, config.d_value
        projections = d * (h * k + g * (k + v)) + (h * v * d if config.attention_output else 0)
        return int(2 * (context * (projections + self.more(config, context)) + pairs * h * (k + v)))

    def keys(self, config: Any, context: int) -> float:
        """Keys that a query meets, the mean over heads; those after it count too."""
        return float(context)

    def more(self, config: Any, context: int) -> int:
        """Multiplications a position of what the variant adds."""
        return 0


ENTRY: Attention = PlainEntry()
