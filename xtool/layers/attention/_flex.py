"""Windows in FlexAttention, which skips blocks of keys on a GPU, forwards and backwards.

It is torch's own (Dong et al., 2024, arXiv:2412.05496); on a CPU it has no gradient, so blocks are
computed by `_fixed` there. A run asks for it with `--route torch+flex`.
"""

from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def flex(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B G T K"],
    v: Float[Tensor, "B G T W"],
    window: int,
    *,
    causal: bool,
    scale: float,
) -> Float[Tensor, "B H T W"]:
    """Attention to the nearest `window` positions."""
    mask = _blocks(q.shape[2], window, causal, str(q.device))
    grouped = k.shape[1] < q.shape[1]
    out: Tensor = _kernel(q.device.type)(
        q, k, v, block_mask=mask, scale=scale, enable_gqa=grouped
    )  # (B, H, T, W)
    return out


@lru_cache(maxsize=8)
def _blocks(positions: int, window: int, causal: bool, device: str) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    # The same as `_kernel.within`, whose annotations, checked in tests, torch cannot compile.
    ahead = 1 if causal else window
    with torch.inference_mode(False):  # an evaluation may be the first to ask
        return create_block_mask(
            lambda batch, head, query, key: (query - key < window) & (key - query < ahead),
            None,
            None,
            positions,
            positions,
            device=device,
        )


@lru_cache(maxsize=2)
def _kernel(device: str) -> Any:
    """The function, compiled where that gives a kernel which skips blocks."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention) if device == "cuda" else flex_attention
