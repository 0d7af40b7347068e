"""Attention that may look at nothing: a learned logit of each head stands beside those of its keys.

A variant in a file of its own (the sink of Xiao et al., 2023, arXiv:2309.17453, as one number):

    xtool check examples/sink.py
    xtool train text.st --attention examples/sink.py
"""

import torch
from torch import Tensor, nn

from xtool.layers.attention import Attention, AttentionConfig
from xtool.layers.attention._kernel import scored
from xtool.layers.attention.plain import PlainEntry, Weighed

LIKE = "plain"  # it has the tensors of plain attention too
AXES = {"sink": ("n_kv_heads*n_heads/n_kv_heads",)}
CACHED = True
NEUTRAL = {"sink": -1e6}  # nothing is looked at: plain attention


class Sink(Weighed):
    """The variant; see the module."""

    def __init__(self, config: AttentionConfig) -> None:
        super().__init__(config)
        self.sink = nn.Parameter(torch.empty(config.n_heads))

    def weights(self, x: Tensor, q: Tensor, k: Tensor) -> Tensor:
        """The weights of the keys, (B, H, T, S); they sum to less than 1."""
        scores = self.seen(scored(q, k, self.scale))
        sink = self.sink.view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        return torch.cat([scores, sink], -1).softmax(-1)[..., :-1]


ENTRY: Attention = PlainEntry(Sink)
