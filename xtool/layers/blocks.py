"""The transformer block: attention and feed-forward, each added to the residual stream.

The norm stands before each part (Xiong et al., 2020, arXiv:2002.04745).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from xtool.layers.attention import Mixed


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); (B, T, D) -> (B, T, D).

    The second may be missing; without `residual` each replaces x. An attention module with a width
    `passes` is also given so many columns of its predecessor, which stand behind those of x; the
    first one finds zeros. One with `post_norm` has the second norm overwrite the residual stream.
    """

    def __init__(
        self,
        d_model: int,
        attention_norm: nn.Module,
        attention: nn.Module,
        mlp_norm: nn.Module | None,
        mlp: nn.Module | None,
        dropout: float,
        residual: bool = True,
    ) -> None:
        super().__init__()
        self.d_model, self.residual = d_model, residual
        self.post_norm = bool(getattr(attention, "post_norm", False))
        self.passes = int(getattr(attention, "passes", 0))
        self.attention_norm, self.attention = attention_norm, attention
        self.mlp_norm, self.mlp = mlp_norm, mlp
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "B T DP"]) -> Float[Tensor, "B T _"]:
        """Both parts in turn."""
        x, mixed = self._attended(x)
        x = self._added(x, mixed.out)
        if self.mlp is not None and self.mlp_norm is not None:
            normed = self.mlp_norm(x)
            x = normed if self.post_norm else x
            beside = () if mixed.hidden is None else (mixed.hidden,)
            x = self._added(x, self.mlp(normed, *beside))
        if mixed.after is not None:
            x = x + self.dropout(mixed.after)
        return x if mixed.passed is None else torch.cat([x, mixed.passed], -1)

    def _attended(self, x: Float[Tensor, "B T DP"]) -> tuple[Float[Tensor, "B T D"], Mixed]:
        """The residual stream before attention, and what that has to say."""
        if not self.passes:
            found = self.attention(self.attention_norm(x))
        else:
            x, passed = x.tensor_split([self.d_model], -1)
            if not passed.shape[-1]:
                passed = x.new_zeros(*x.shape[:2], self.passes)
            found = self.attention(self.attention_norm(x), passed)
        return x, found if isinstance(found, Mixed) else Mixed(found)

    def _added(self, x: Float[Tensor, "B T D"], out: Tensor) -> Float[Tensor, "B T D"]:
        out = self.dropout(out)
        return x + out if self.residual else out
