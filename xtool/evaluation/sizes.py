"""A small size of a model beside the whole: how often they agree, and how fast each is."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from xtool.dataset import Split
from xtool.evaluation.score import BATCH, together

TIMED = 7


@dataclass(frozen=True)
class SizeRequest:
    """Which sizes of a model to score.

    Attributes:
        labels: `16`, or `d_ff=64,128`; `all` stands for those that are nested in it.
        untrained: whether one may be among them that was never trained.
        speed: whether to time each.
    """

    labels: Sequence[str] = ()
    untrained: bool = False
    speed: bool = False


@torch.inference_mode()
def beside(large: nn.Module, small: nn.Module, split: Split) -> dict[str, Float64[Tensor, " N"]]:
    """How a small model follows a large one of the same outputs, for each example, (N,) float64.

    `agreement` is the part of positions at which their likeliest classes are the same, and
    `acceptance` the chance that the large one takes what the small one drafts, the sum of
    min(p, q) (Leviathan et al., 2023, arXiv:2211.17192).
    """
    device = next(large.parameters()).device
    large.eval()
    small.eval()
    parts: dict[str, list[Tensor]] = {"agreement": [], "acceptance": []}
    if large(split.inputs[:1].to(device)).shape[-1] == 1:
        return {}  # numbers, which have no likeliest class
    size = together(split, BATCH)
    for at in range(0, len(split), size):
        inputs = split.inputs[at : at + size].to(device)  # (B, T)
        p, q = (model(inputs).double().softmax(-1) for model in (large, small))  # (B, T, C)
        same = (p.argmax(-1) == q.argmax(-1)).double()
        parts["agreement"].append(same.mean(1).cpu())
        parts["acceptance"].append(torch.minimum(p, q).sum(-1).mean(1).cpu())
    return {name: torch.cat(found) for name, found in parts.items()}


@torch.inference_mode()
def tokens_per_second(model: nn.Module, split: Split) -> list[float]:
    """Positions that a model reads in a second, on batches of the size that scores use."""
    device = next(model.parameters()).device
    model.eval()
    inputs = split.inputs[: together(split, BATCH)].to(device)  # (B, T)
    found = []
    for _ in range(TIMED):
        start = perf_counter()
        model(inputs)
        if device.type == "cuda":
            torch.cuda.synchronize()
        found.append(inputs.shape[:2].numel() / (perf_counter() - start))
    return sorted(found)


def middle(values: Sequence[float]) -> tuple[float, float, float]:
    """The median, and the second lowest and second highest of several timings."""
    return median(values), values[1], values[-2]
