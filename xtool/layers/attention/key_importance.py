"""A weight of each token on its logit as a key, learned and passed from layer to layer.

The sixth variant of tomhartke/transformer-modifications (2023), described there and never
published: a linear map of the block's normed input adds to the importance that the layers before
gave the token, and it stands in the logit of every query that looks at it. So a token can be
silenced, or heard, for all later layers at once.
"""

from typing import Any

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from xtool.layers.attention import Attention, Mixed
from xtool.layers.attention._kernel import is_masked
from xtool.layers.attention.plain import Plain, PlainEntry
from xtool.layers.linear import Linear

LIKE = "plain"
AXES = {"importance.weight": ("1", "<d_model")}
PASSED = ["importance.weight"]
CACHED = True
NEUTRAL = {"importance.weight": 0.0}


class KeyImportance(Plain):
    """The variant; see the module."""

    passes = 1

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.importance = Linear(config.d_model, 1)

    def forward(
        self, x: Float[Tensor, "B T D"], passed: Float[Tensor, "B T 1"] | None = None
    ) -> Mixed:
        """(B, T, D) and the importance so far -> (B, T, D) and the new one."""
        importance = self.importance(x)  # (B, T, 1)
        if passed is not None:
            importance = importance + passed
        q, k, v = self.heads(x, importance)
        if self.trace is not None:
            self.trace.note("key_importance", importance.transpose(1, 2).expand(q.shape[:3]))
        if self.trace is None and not is_masked():
            mixed = self.quick(x, q, k, v)
        else:
            mixed = self.mixed(self.weights(x, q, k), v)
        return Mixed(self.written(mixed), passed=importance)

    def quick(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "B H T W"]:
        """Values as wide as the keys, which have a column more, for the fused kernel."""
        out = super().quick(x, q, k, F.pad(v, (0, 1)))
        return out[..., :-1]


class _Entry(PlainEntry):
    def more(self, config: Any, context: int) -> int:
        return int(config.d_model + 2 * context * config.n_heads)


ENTRY: Attention = _Entry(KeyImportance)
