"""Norms by name: none, layernorm, rmsnorm.

LayerNorm is that of Ba et al. (2016, arXiv:1607.06450), RMSNorm that of Zhang and Sennrich (2019,
arXiv:1910.07467).
"""

from torch import nn


def norm(kind: str, d_model: int, eps: float) -> nn.Module:
    """The norm over the last axis of (..., D); `none` is the identity and has no tensors."""
    if kind == "layernorm":
        return nn.LayerNorm(d_model, eps=eps)
    if kind == "rmsnorm":
        return nn.RMSNorm(d_model, eps=eps)
    assert kind == "none", kind
    return nn.Identity()
