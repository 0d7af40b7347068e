"""What a model says: a score for every class."""

from types import SimpleNamespace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from xtool.layers.linear import Linear
from xtool.layers.norms import norm


class Head(nn.Module):
    """Vectors (B, T, D) to logits (B, T, C), through a norm and one or two layers.

    A tied head scores with the first C rows of the embedding. What attention passed on beside the
    residual stream ends here.
    """

    def __init__(self, c: SimpleNamespace, embedding: Tensor | None) -> None:
        super().__init__()
        self.norm = norm(c.norm, c.d_model, c.norm_eps)
        self.n_outputs, self.d_model = c.n_outputs, c.d_model
        self.hidden: Linear | None = None
        if c.tied_head:
            assert isinstance(embedding, nn.Parameter)
            self.weight = embedding
        elif c.d_hidden:
            self.hidden = Linear(c.d_model, c.d_hidden, c.bias != "none")
            self.out = Linear(c.d_hidden, c.n_outputs)
            self.dropout = nn.Dropout(c.dropout_hidden)
        else:
            self.weight = nn.Parameter(torch.empty(c.n_outputs, c.d_model))
        with_bias = c.bias != "none" and not c.tied_head
        self.bias = nn.Parameter(torch.empty(c.n_outputs)) if with_bias else None

    def forward(self, x: Float[Tensor, "B T DP"]) -> Float[Tensor, "B T C"]:
        """Norm and score every class."""
        return self.scored(self.norm(x[..., : self.d_model]))

    def scored(self, x: Float[Tensor, "*B T D"]) -> Float[Tensor, "*B T C"]:
        """Score every class of what is normed already."""
        if self.hidden is None:
            return F.linear(x, self.weight[: self.n_outputs], self.bias)  # (B, T, C)
        hidden = self.dropout(F.relu(self.hidden(x)))  # (B, T, F)
        return F.linear(hidden, self.out.weight, self.bias)  # (B, T, C)
