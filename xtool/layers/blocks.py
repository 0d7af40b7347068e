"""The transformer block: attention and feed-forward, each added to the residual stream.

The norm stands before each part (Xiong et al., 2020, arXiv:2002.04745).
"""

from jaxtyping import Float
from torch import Tensor, nn


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); (B, T, D) -> (B, T, D).

    The second may be missing; without `residual` each replaces x.
    """

    def __init__(
        self,
        attention_norm: nn.Module,
        attention: nn.Module,
        mlp_norm: nn.Module | None,
        mlp: nn.Module | None,
        dropout: float,
        residual: bool = True,
    ) -> None:
        super().__init__()
        self.residual = residual
        self.attention_norm, self.attention = attention_norm, attention
        self.mlp_norm, self.mlp = mlp_norm, mlp
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Both parts in turn."""
        x = self._added(x, self.attention(self.attention_norm(x)))
        if self.mlp is None or self.mlp_norm is None:
            return x
        return self._added(x, self.mlp(self.mlp_norm(x)))

    def _added(self, x: Float[Tensor, "B T D"], out: Tensor) -> Float[Tensor, "B T D"]:
        out = self.dropout(out)
        return x + out if self.residual else out
