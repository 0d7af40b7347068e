"""The transformer block: attention and feed-forward, each added to the residual stream.

The norm stands before each part (Xiong et al., 2020, arXiv:2002.04745).
"""

from jaxtyping import Float
from torch import Tensor, nn


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); (B, T, D) -> (B, T, D)."""

    def __init__(
        self,
        attention_norm: nn.Module,
        attention: nn.Module,
        mlp_norm: nn.Module,
        mlp: nn.Module,
        dropout: float,
    ) -> None:
        super().__init__()
        self.attention_norm, self.attention = attention_norm, attention
        self.mlp_norm, self.mlp = mlp_norm, mlp
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Both parts in turn."""
        x = x + self.dropout(self.attention(self.attention_norm(x)))  # (B, T, D)
        out: Tensor = x + self.dropout(self.mlp(self.mlp_norm(x)))  # (B, T, D)
        return out
