"""Schedules: what the learning rate is multiplied with at each step."""

import math

LEAST = 0.1


def lr_factor(schedule: str, step: int, total: int, warmup: int, decay_part: float = 0.2) -> float:
    """The factor before step `step` (from 0) of `total`.

    It rises linearly over `warmup` steps; `cosine` and `linear` then fall to a tenth, `wsd` only
    over the last part (warm-up, stable, decay: Hu et al., 2024, arXiv:2404.06395), linearly.

    Args:
        schedule: `constant`, `cosine`, `linear` or `wsd`.
        step: steps done.
        total: steps of the run.
        warmup: steps of the rise.
        decay_part: of `total`, over which `wsd` falls.
    """
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    begin = max(warmup, total - round(decay_part * total)) if schedule == "wsd" else warmup
    done = max(0, step - begin) / max(1, total - begin)
    fall = (1 + math.cos(math.pi * done)) / 2 if schedule == "cosine" else 1 - done
    return LEAST + (1 - LEAST) * fall
