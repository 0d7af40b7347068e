"""Fixed tables of positions, which are stored in the file because they depend on d_model.

`sinusoidal` is that of Vaswani et al. (2017, arXiv:1706.03762): columns 2i and 2i+1 share a
frequency. `sinusoidal-unpaired` is that of the counting experiment: each column m has its own,
10000^(-2m/D).
"""

import torch
from jaxtyping import Float64
from torch import Tensor

TABLES = ("sinusoidal", "sinusoidal-unpaired")


def table(kind: str, context: int, d_model: int) -> Float64[Tensor, "{context} {d_model}"]:
    """Positions as (T, D) float64: sines in even columns, cosines in odd ones."""
    columns = torch.arange(d_model, dtype=torch.float64)  # (D,)
    steps = 2 * columns if kind == "sinusoidal-unpaired" else columns - columns % 2  # (D,)
    angles = torch.arange(context)[:, None] * 10000.0 ** (-steps / d_model)  # (T, D)
    return torch.where(columns % 2 == 0, angles.sin(), angles.cos())  # (T, D)
