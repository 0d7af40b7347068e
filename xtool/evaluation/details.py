"""Scores that tell apart: after each loop, in one pass, and by the examples in the prompt."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from xtool.archs import Loops
from xtool.averages import BASELINES
from xtool.dataset import Split
from xtool.errors import UsageError
from xtool.evaluation.score import BATCH, together
from xtool.tasks import ByExamples, Task

Columns = dict[str, Any]
Detail = tuple[Columns, dict[str, Float64[Tensor, " N"]]]


@torch.inference_mode()
def details(
    model: nn.Module, task: Task, split: Split, loops: Sequence[int], by_examples: bool
) -> list[Detail]:
    """Scores after some loops, in one pass over the split, and by examples in the prompt.

    Args:
        model: a `Loops` model where loops are asked for.
        task: what scores it.
        split: the examples.
        loops: after which to score; none scores the model as it is.
        by_examples: whether to tell apart how many examples a prediction has read.

    Returns:
        columns, `loops` and `examples`, with each metric for each example of the split; those of
        exact methods have a `label` of their own.

    Raises:
        UsageError: the model does not loop, or the task's prompts have no examples.
    """
    if loops and not isinstance(model, Loops):
        raise UsageError("`--loops` is for a looped model", "`xtool train --arch looped`")
    if by_examples and not isinstance(task, ByExamples):
        raise UsageError(
            "`--by-examples` is for a task whose prompts hold examples",
            "`xtool prepare regression`",
        )
    device = next(model.parameters()).device
    model.eval()
    kept: dict[tuple[tuple[str, int], ...], dict[str, list[Tensor]]] = {}
    size = together(split, BATCH)
    for at in range(0, len(split), size):
        inputs = split.inputs[at : at + size].to(device)  # (B, T)
        targets = split.targets[at : at + size].to(device)  # (B, T)
        for done, logits in _after(model, inputs, loops):
            for columns, metrics in _cells(task, logits, targets, by_examples):
                cell = kept.setdefault(tuple((done | columns).items()), {})
                for name, values in metrics.items():
                    cell.setdefault(name, []).append(values.cpu())
    out = [(dict(c), {n: torch.cat(v) for n, v in found.items()}) for c, found in kept.items()]
    return out + (_solved(split) if by_examples else [])


def _after(
    model: nn.Module, inputs: Tensor, loops: Sequence[int]
) -> Iterator[tuple[Columns, Tensor]]:
    """The logits after each of some loops; those of the model as it is where none are named."""
    if not loops or not isinstance(model, Loops):
        yield {}, model(inputs)
        return
    wanted = set(loops)
    for done, logits in enumerate(model.every_loop(inputs, max(loops)), 1):
        if done in wanted:
            yield {"loops": done}, logits


def _cells(task: Task, logits: Tensor, targets: Tensor, by_examples: bool) -> Iterator[Detail]:
    """The scores of a batch, all together or by examples in the prompt."""
    if not by_examples or not isinstance(task, ByExamples):
        yield {}, task.score(logits, targets)
        return
    found = task.by_examples(logits, targets)  # (B, n) each
    for examples in range(next(iter(found.values())).shape[1]):
        yield {"examples": examples}, {name: each[:, examples] for name, each in found.items()}


def _solved(split: Split) -> list[Detail]:
    """What exact methods make of the same examples."""
    return [
        ({"examples": k, "label": name.replace("_", " ")}, {BASELINES[name]: errors[:, k].double()})
        for name, errors in split.extra.items()
        for k in range(errors.shape[1])
    ]
