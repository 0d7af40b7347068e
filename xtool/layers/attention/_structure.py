"""The structure of attention as features: what each head's row of weights looks like.

After tomhartke/transformer-modifications (2023): of a query's weights a over the keys, before
dropout, the mean logit, the mean place that is looked at, relative to the query's own, and the
spread of the places; places are in parts of the context.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from xtool.layers.attention import Mixed
from xtool.layers.attention._kernel import distances, scored
from xtool.layers.attention.plain import Plain

LEAST = 1e-12  # of a variance


class Structure(NamedTuple):
    """Features by position and head, and the places of the queries."""

    logit: Float[Tensor, "B T H"]
    place: Float[Tensor, "B T H"]
    spread: Float[Tensor, "B T H"]
    own: Float[Tensor, " T"]


class Structured(Plain):
    """Attention that uses its structure; it has to compute every weight."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.context = int(config.context)

    def forward(
        self, x: Float[Tensor, "B T D"], passed: Float[Tensor, "B T P"] | None = None
    ) -> Float[Tensor, "B T D"] | Mixed:
        """(B, T, D) -> (B, T, D), and what the structure says."""
        q, k, v = self.heads(x)
        scores = scored(q, k, self.scale)  # (B, H, T, S)
        weights = self.seen(scores).softmax(-1)
        mixed = self.mixed(weights, v)  # (B, H, T, W)
        return self.told(mixed, self._structure(scores, weights))

    def told(self, mixed: Float[Tensor, "B H T W"], structure: Structure) -> Tensor | Mixed:
        """What the block gets of the heads' outputs and the structure."""
        raise NotImplementedError

    def _structure(
        self, scores: Float[Tensor, "B H T S"], weights: Float[Tensor, "B H T S"]
    ) -> Structure:
        queries, keys = scores.shape[-2:]
        far = distances(queries, keys, scores.device).to(weights.dtype) / self.context  # (T, S)
        place = -(weights * far).sum(-1)  # (B, H, T)
        around = (far + place[..., None]).square() + LEAST
        spread = (weights * around).sum(-1).sqrt()
        logit = (weights * scores).sum(-1)
        own = torch.arange(keys - queries, keys, device=far.device) / self.context
        logit, place, spread = (one.transpose(1, 2) for one in (logit, place, spread))
        return Structure(logit, place, spread, own.to(far.dtype))


def normed(x: Float[Tensor, "B T E"]) -> Float[Tensor, "B T E"]:
    """LayerNorm without gain and bias, which the linear layer that follows has anyway."""
    return F.layer_norm(x, x.shape[-1:])
