"""Fixed tables of positions, which are stored in the file because they depend on a width.

`sinusoidal` is that of Vaswani et al. (2017, arXiv:1706.03762): columns 2i and 2i+1 share a
frequency. `sinusoidal-unpaired` is that of the counting experiment: each column m has its own,
10000^(-2m/D). `rotary` (Su et al., 2021, arXiv:2104.09864) turns columns 2i and 2i+1 of queries and
keys by the position times a frequency. Pairs stand side by side, unlike in the half-split layout of
other tools, so that a prefix of a head's columns, or copies of all of them, keep theirs.
"""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

TABLES = ("sinusoidal", "sinusoidal-unpaired")


def table(kind: str, context: int, d_model: int) -> Float64[Tensor, "{context} {d_model}"]:
    """Positions as (T, D) float64: sines in even columns, cosines in odd ones."""
    columns = torch.arange(d_model, dtype=torch.float64)  # (D,)
    steps = 2 * columns if kind == "sinusoidal-unpaired" else columns - columns % 2  # (D,)
    angles = torch.arange(context)[:, None] * 10000.0 ** (-steps / d_model)  # (T, D)
    return torch.where(columns % 2 == 0, angles.sin(), angles.cos())  # (T, D)


def frequencies(pairs: int) -> Float64[Tensor, "{pairs}"]:
    """The angle by which each pair of columns of a head turns from one position to the next."""
    return 10000.0 ** (-torch.arange(pairs, dtype=torch.float64) / pairs)


def turned(
    x: Float[Tensor, "B H T K"], frequencies: Float[Tensor, " pairs"], start: int = 0
) -> Float[Tensor, "B H T K"]:
    """Each pair of columns turned by its position, counted from `start`, times its frequency."""
    # Not in bf16, which has no whole numbers of its own beyond 256.
    exact = torch.promote_types(x.dtype, torch.float32)
    steps = torch.arange(start, start + x.shape[-2], device=x.device, dtype=exact)
    angles = steps[:, None] * frequencies  # (T, K/2)
    cosine, sine = angles.cos(), angles.sin()
    first, second = x[..., 0::2], x[..., 1::2]  # (B, H, T, K/2)
    pair = (first * cosine - second * sine, first * sine + second * cosine)
    return torch.stack(pair, -1).flatten(-2).to(x.dtype)  # (B, H, T, K)
