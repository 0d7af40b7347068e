"""A window for every query and head, learned, beyond which attention fades.

The first variant of tomhartke/transformer-modifications (2023): a linear map of the block's normed
input gives s, the window is r = 1 + (window / 2) exp(s) tokens long, and a key d = |i - j| + 1
tokens away gets (r - d) / r added to its logit. The 1 in it cancels: it is a linear bias by
distance, as in ALiBi (Press et al., 2021, arXiv:2108.12409), whose slope each query chooses. Unlike
a hard window it computes every pair, and a very long one is plain attention.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from xtool.layers.attention import Attention
from xtool.layers.attention._kernel import distances, scored
from xtool.layers.attention.plain import PlainEntry, Weighed
from xtool.layers.linear import Linear

LIKE = "plain"
AXES = {
    "window.weight": ("n_kv_heads*n_heads/n_kv_heads", "<d_model"),
    "window.bias": ("n_kv_heads*n_heads/n_kv_heads",),
}
CACHED = True
OPTIONS = [("window", "int", None, "twice the window at s = 0; the context unless given")]
NEUTRAL = {"window.weight": 0.0, "window.bias": 40.0}


class SoftWindow(Weighed):
    """The variant; see the module."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.window = Linear(config.d_model, config.n_heads, bias=True)
        self.unit = config.window / 2

    def weights(self, x: Tensor, q: Tensor, k: Tensor) -> Float[Tensor, "B H T S"]:
        """The softmax of the logits with the bias, the sum in their precision or better."""
        scores = scored(q, k, self.scale)  # (B, H, T, S)
        exact = torch.promote_types(scores.dtype, torch.float32)
        lengths = 1 + self.unit * self.window(x).transpose(1, 2).to(exact).exp()  # (B, H, T)
        if self.trace is not None:
            self.trace.note("window_length", lengths.clamp(max=1e6))
        far = distances(*scores.shape[-2:], scores.device).abs() + 1  # (T, S)
        return self.seen(scores - far / lengths[..., None]).softmax(-1)


class _Entry(PlainEntry):
    def configure(self, config: dict[str, Any]) -> dict[str, Any]:
        """The context unless given."""
        return {"window": config["window"] or config["context"]}

    def more(self, config: Any, context: int) -> int:
        return int(config.d_model * config.n_heads)


ENTRY: Attention = _Entry(SoftWindow)
