"""A linear layer whose weights are left to `initial`, so that building a model draws nothing."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class Linear(nn.Module):
    """y = x W^T + b, (..., n_in) -> (..., n_out); W is (n_out, n_in)."""

    def __init__(self, n_in: int, n_out: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_out, n_in))
        self.bias = nn.Parameter(torch.empty(n_out)) if bias else None

    def forward(self, x: Float[Tensor, "*B n_in"]) -> Float[Tensor, "*B n_out"]:
        """Apply it along the last axis."""
        return F.linear(x, self.weight, self.bias)
