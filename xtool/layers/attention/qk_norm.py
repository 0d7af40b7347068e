"""Attention whose queries and keys have the same length at every position, so scores stay bounded.

Each head's queries and keys are divided by their root mean square, before positions turn them
(Henry et al., 2020, arXiv:2010.04245; without gains, as in nanochat). The scores of a head depend
on its width then, so no exact operator changes `d_head`.
"""

from torch import Tensor
from torch.nn import functional as F

from xtool.layers.attention import Attention
from xtool.layers.attention.plain import Plain, PlainEntry

LIKE = "plain"
CACHED = True
FIXED = {"d_head": [], "d_model": ["score_scale=d_model"]}


class QkNorm(Plain):
    """The variant; see the module."""

    def prepared(self, x: Tensor) -> Tensor:
        """Queries or keys (B, H, T, K) of root mean square 1."""
        return F.rms_norm(x, x.shape[-1:])


ENTRY: Attention = PlainEntry(QkNorm)
