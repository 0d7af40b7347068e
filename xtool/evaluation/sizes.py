"""A small size of a model: its agreement with the whole, what it knows of groups, its speed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import torch
from jaxtyping import Float, Float64, Integer
from torch import Tensor, nn
from torch.nn import functional as F

from xtool.archs import HEAD
from xtool.categories import Groups
from xtool.dataset import Split
from xtool.evaluation.score import BATCH, batches, together

TIMED = 9  # whose second to eighth hold the median with 96 %, were they independent


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
    for inputs, _ in batches(split, device):
        p, q = (model(inputs).double().softmax(-1) for model in (large, small))  # (B, T, C)
        same = (p.argmax(-1) == q.argmax(-1)).double()
        parts["agreement"].append(same.mean(1).cpu())
        parts["acceptance"].append(torch.minimum(p, q).sum(-1).mean(1).cpu())
    return {name: torch.cat(found) for name, found in parts.items()}


def groups_of(groups: Groups | None, changes: Mapping[str, Any]) -> list[int] | None:
    """The groups that a size learned in place of tokens; None where it learned tokens."""
    if set(changes) not in ({"d_model"}, {HEAD}):
        return None
    (level,) = changes.values()
    return (groups or {}).get(str(level))


@torch.inference_mode()
def over_groups(model: nn.Module, split: Split, groups: Sequence[int]) -> Float64[Tensor, " N"]:
    """The loss over groups beyond its floor, in nats, the mean of each example; see `excess`."""
    device = next(model.parameters()).device
    return torch.cat(
        [
            excess(model(inputs).double(), targets, groups).mean(1).cpu()
            for inputs, targets in batches(split, device)
        ]
    )


def excess(
    logits: Float[Tensor, "*R B T V"], targets: Integer[Tensor, "*R B T"], groups: Sequence[int]
) -> Float[Tensor, "*R B T"]:
    """Cross-entropy with the uniform distribution over the target's group, less its entropy.

    Args:
        logits: of a replica and position.
        targets: the tokens.
        groups: the group of every token.

    Returns:
        nats at each position: 0 where the group has every chance, each token of it the same.
    """
    of = torch.tensor(groups, device=logits.device)  # (V,)
    members = F.one_hot(of).to(logits.dtype)  # (V, G)
    sizes = members.sum(0)  # (G,)
    means = F.log_softmax(logits, -1) @ (members / sizes)  # (*R, B, T, G)
    wanted = of[targets.long()]
    return -means.gather(-1, wanted[..., None])[..., 0] - sizes.log()[wanted]


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
