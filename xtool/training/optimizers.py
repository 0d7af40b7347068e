"""AdamW (Loshchilov and Hutter, 2019, arXiv:1711.05101), decay on matrices alone, and schedules."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


def adamw(model: nn.Module, dials: Mapping[str, Any]) -> torch.optim.AdamW:
    """The optimizer: one group for matrices, which decay, and one for the rest, which do not."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": dials["weight_decay"]},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=dials["lr"],
        betas=(dials["beta1"], dials["beta2"]),
        eps=dials["adam_eps"],
        fused=True,
    )


def lr_factor(schedule: str, step: int, total: int, warmup: int) -> float:
    """What the learning rate is multiplied with before step `step` (from 0) of `total`.

    It rises linearly over `warmup` steps; cosine and linear then fall to a tenth.
    """
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    done = (step - warmup) / max(1, total - warmup)
    fall = (1 + math.cos(math.pi * done)) / 2 if schedule == "cosine" else 1 - done
    return 0.1 + 0.9 * fall
