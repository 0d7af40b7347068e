"""Scores of a model on a split, example by example, and the rows made of them."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Float64, Num
from torch import Tensor, nn

from xtool.averages import FRACTIONS, bounded
from xtool.dataset import Split
from xtool.errors import Diverged
from xtool.header import Header
from xtool.intervals import Estimate, estimate, wilson
from xtool.lineage import trained_on
from xtool.rows import Row, row
from xtool.tasks import Task

BATCH = 1024
POSITIONS = 4096
LOWER_IS_BETTER = ("loss", "perplexity", "bits_per_char", "bits_per_byte", "squared_error")
LARGEST = 700.0  # whose exponential is still a number
TEXT = {"bits_per_char", "bits_per_byte"}


@torch.inference_mode()
def scores(model: nn.Module, task: Task, split: Split) -> dict[str, Float64[Tensor, " N"]]:
    """Each metric for each example of a split, (N,) float64 on the CPU.

    Batches have a fixed size, so the result depends on nothing but model and data. Where the split
    knows how many characters and bytes its tokens are, the loss is given in bits of each as well.

    Raises:
        Diverged: a score is NaN or infinite.
    """
    device = next(model.parameters()).device
    model.eval()
    parts: list[dict[str, Tensor]] = []
    for inputs, targets in batches(split, device):
        found = task.score(model(inputs), targets)
        parts.append({name: values.cpu() for name, values in found.items()})
    found = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    require_finite(found)
    for unit, each in split.units.items():
        found[f"bits_per_{unit}"] = found["loss"] / (math.log(2) * each)
    return found


def batches(split: Split, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs (B, T) or (B, T, d) and targets (B, T) or (B, n), in order, of a fixed size."""
    size = together(split, BATCH)
    for at in range(0, len(split), size):
        yield split.inputs[at : at + size].to(device), split.targets[at : at + size].to(device)


def together(split: Split, most: int) -> int:
    """How many examples to compute at once: `most`, fewer where they are long."""
    return max(1, min(most, POSITIONS // split.inputs.shape[1]))


def metrics(task: Task, split: Split) -> tuple[str, ...]:
    """The metrics that the rows of a split have."""
    text = ("perplexity", *(f"bits_per_{unit}" for unit in split.units)) if split.units else ()
    return (*task.metrics, *text)


@torch.inference_mode()
def predict(model: nn.Module, inputs: Num[Tensor, "B T *d"]) -> Num[Tensor, "B T"]:
    """The likeliest class at each position; of a model with one output, that number."""
    model.eval()
    logits: Tensor = model(inputs)  # (B, T, C)
    return logits[..., 0] if logits.shape[-1] == 1 else logits.argmax(-1)


def require_finite(
    found: Mapping[str, Float64[Tensor, " N"]],
    where: str = "",
    hint: str = "the run that made it diverged: lower `--lr`, or set `--clip 1`",
) -> None:
    """Raise Diverged, with a hint, where a score is NaN or infinite."""
    for name, values in found.items():
        if not torch.isfinite(values).all():
            raise Diverged(
                f"the model's {name}{where} is {float(values.mean())}: its logits are out of range",
                hint,
            )


def score_rows(found: dict[str, Float64[Tensor, " N"]], **columns: Any) -> list[Row]:
    """One row a metric: the mean over examples with its 95 % interval.

    Examples, not positions, are the independent unit: positions of one string are not independent.
    """
    rows = []
    for metric, values in found.items():
        mean = bounded(metric, estimate(values.tolist()))
        if metric in FRACTIONS and mean.n > 1 and mean.low == mean.high in (0.0, 1.0):
            mean = Estimate(mean.value, *wilson(mean.value, mean.n), mean.n)
        numbers = vars(mean)
        rows.append(row(metric=metric, **numbers, **columns))
        if metric == "loss" and TEXT & found.keys():
            # Of the mean, not a mean over examples.
            powers = {
                name: math.exp(min(n, LARGEST)) for name, n in numbers.items() if n is not None
            }
            rows.append(row(metric="perplexity", **powers | {"n": mean.n}, **columns))
    return rows


def columns_of_model(header: Header, params: int) -> dict[str, Any]:
    """The columns of a row that come from a model's header."""
    progress = header.training.get("progress", {})
    data = trained_on(header.lineage)
    return {
        "arch": header.config.get("arch"),
        "task": header.task.get("name"),
        "seed": header.training.get("dials", {}).get("seed"),
        "step": progress.get("steps", 0),
        "epoch": progress.get("epochs", 0.0),
        "params": params,
        "flops": progress.get("flops", 0),
        "lineage_flops": progress.get("lineage_flops", 0),
        "lineage_epoch": progress.get("lineage_epochs", 0.0),
        "data": data[:12] if data else None,
    }
