"""The feed-forward part and its non-linearity.

`relu2` is the squared relu (So et al., 2021, arXiv:2109.08668), `swiglu` gated (Shazeer, 2020,
arXiv:2002.05202), `none` none: the part is linear.
"""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from xtool.layers.linear import Linear

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
    "gelu": F.gelu,
    "none": lambda x: x,
}


class Mlp(nn.Module):
    """down(f(up(x))), or down(silu(gate(x)) * up(x)); (B, T, D) -> (B, T, D)."""

    def __init__(
        self, d_model: int, d_ff: int, activation: str, bias: bool = False, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.activation = activation
        self.up = Linear(d_model, d_ff, bias)
        self.gate = Linear(d_model, d_ff, bias) if activation == "swiglu" else None
        self.down = Linear(d_ff, d_model, bias)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "B T D"], beside: Float[Tensor, "B T F"] | None = None
    ) -> Float[Tensor, "B T D"]:
        """Apply it to each position alone; what is given beside joins the hidden layer."""
        hidden = self.up(x)  # (B, T, F)
        if beside is not None:
            hidden = hidden + beside
        if self.gate is not None:
            hidden = F.silu(self.gate(x)) * hidden
        else:
            hidden = FUNCTIONS[self.activation](hidden)
        out: Tensor = self.down(self.dropout(hidden))  # (B, T, D)
        return out
