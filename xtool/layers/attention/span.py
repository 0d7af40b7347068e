"""A window for every head, learned: adaptive span (Sukhbaatar et al., 2019, arXiv:1905.07799).

Every head has one number p. Its window is 1 + (window + ramp - 1) sigmoid(p) tokens long, and ends
over `ramp` tokens. The mean of sigmoid(p), times `window_penalty`, is added to the loss, so a head
keeps only what helps it. No head computes more than its own window needs, however long those of the
others are. The sigmoid stands in place of the paper's clamp, which stops learning at both ends.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from xtool.layers.attention import Attention
from xtool.layers.attention._windowed import Learned, LearnedEntry

LIKE = "plain"
AXES = {"span": ("n_kv_heads*n_heads/n_kv_heads",)}
CACHED = True
OPTIONS = [
    ("window", "int", None, "the longest window; the context unless given"),
    ("ramp", "int", None, "tokens over which a window ends; unless given 32, or context / 2"),
    ("window_penalty", "float", 0.02, "loss for the mean part of the longest window"),
]
TUNABLE = ["window_penalty"]
NEUTRAL = {"window": "context", "span": 40.0}


class Span(Learned):
    """The variant; see the module."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.span = nn.Parameter(torch.empty(config.n_heads))

    def told(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "#B H #T"]:
        """Of each head."""
        return self.span.view(1, -1, 1)


ENTRY: Attention = LearnedEntry(Span)
