"""What a model reads: symbols or numbers, with their positions."""

from types import SimpleNamespace

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn
from torch.nn import functional as F

from xtool.layers._cache import Cache
from xtool.layers.linear import Linear
from xtool.layers.positions import TABLES


class Embed(nn.Module):
    """Symbols (B, T), or numbers (B, T, d), to vectors (B, T, D), with positions added."""

    cache: Cache | None = None

    def __init__(self, c: SimpleNamespace) -> None:
        super().__init__()
        self.weight: Tensor | None = None
        self.read: Linear | None = None
        if c.vocab_size is None:
            self.read = Linear(c.d_input, c.d_model, c.bias == "all")
        else:
            self.weight = nn.Parameter(torch.empty(c.vocab_size, c.d_model))
        self.positions: Tensor | None = None
        if c.positions == "learned":
            self.positions = nn.Parameter(torch.empty(c.context, c.d_model))
        elif c.positions in TABLES:
            del self.positions
            self.register_buffer("positions", torch.empty(c.context, c.d_model))
        self.dropout = nn.Dropout(c.dropout)

    def forward(self, inputs: Num[Tensor, "B T *d"]) -> Float[Tensor, "B T D"]:
        """Look up, or map linearly, and add."""
        if self.weight is not None:
            x = F.embedding(inputs.long(), self.weight)  # (B, T, D)
        elif self.read is not None:
            kind = self.read.weight.dtype
            x = self.read(inputs.to(kind)).to(kind)  # (B, T, D), its product alone in bf16
        if self.positions is not None:
            count = inputs.shape[1]
            x = x + self.positions[self.cache.places(count) if self.cache else slice(count)]
        out: Tensor = self.dropout(x)
        return out
