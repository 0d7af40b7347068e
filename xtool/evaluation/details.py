"""Scores told apart: after each loop, in one pass, and by the number of examples in the prompt.

Of a looped model also: how far it moves in each loop, its scores when each prompt leaves the loops
as soon as it moves little, and its scores when state or input are masked, or the state is
disturbed, between loops.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor, nn

from xtool.archs import After, Between, Loops
from xtool.averages import BASELINES, exact
from xtool.dataset import Split
from xtool.errors import UsageError
from xtool.evaluation.score import batches, require_finite
from xtool.tasks import ByExamples, Task

Columns = dict[str, Any]
Metrics = dict[str, Float64[Tensor, " N"]]
Detail = tuple[Columns, Metrics]
MOVES = ("state", "output")


@dataclass(frozen=True)
class DetailRequest:
    """What to tell apart; a looped model runs its own number of loops unless `loops` names others.

    Attributes:
        loops: the numbers of loops after which to score.
        by_examples: whether to score by how many examples a prediction has read.
        residual: whether to say how far state and output moved in each loop.
        exits: thresholds; a prompt leaves the loops once it moves less than this.
        between: what is done to the model between its loops, each in a pass of its own.
    """

    loops: Sequence[int] = ()
    by_examples: bool = False
    residual: bool = False
    exits: Sequence[float] = ()
    between: Sequence[Between] = ()

    @property
    def looped(self) -> bool:
        """Whether only a looped model can answer."""
        return bool(self.loops or self.residual or self.exits or self.between)


@torch.inference_mode()
def details(model: nn.Module, task: Task, split: Split, asked: DetailRequest) -> list[Detail]:
    """The scores that are asked for.

    Returns:
        pairs of columns, such as `loops` and `examples`, and of each metric for each prompt of the
        split, (N,); the columns of exact methods have a `label` of their own.

    Raises:
        Diverged: a score is NaN or infinite.
        UsageError: the model does not loop, or the task's prompts have no examples.
    """
    if asked.looped and not isinstance(model, Loops):
        raise UsageError(
            "`--loops`, `--residual`, `--exits`, `--mask` and `--state-noise` are for a looped "
            "model",
            "`xtool train --arch looped`",
        )
    if asked.by_examples and not isinstance(task, ByExamples):
        raise UsageError(
            "`--by-examples` is for a task whose prompts hold examples",
            "`xtool prepare regression`",
        )
    model.eval()
    out: list[Detail] = []
    for between in asked.between or (None,):
        out += _pass(model, task, split, asked, between)
    return out + (_solved(split) if asked.by_examples else [])


def _pass(
    model: nn.Module, task: Task, split: Split, asked: DetailRequest, between: Between | None
) -> list[Detail]:
    """The scores of one pass over the split."""
    device = next(model.parameters()).device
    kept: dict[tuple[tuple[str, Any], ...], dict[str, list[Tensor]]] = {}
    told = _told(between, split.inputs.shape[1])
    for number, (inputs, targets) in enumerate(batches(split, device)):
        own = replace(between, seed=number) if between else None
        found = _looped(model, task, inputs, targets, asked, own) if asked.looped else None
        for columns, metrics in found or _cells(task, model(inputs), targets, asked.by_examples):
            cell = kept.setdefault(tuple((told | columns).items()), {})
            for name, values in metrics.items():
                cell.setdefault(name, []).append(values.cpu())
    return [_whole(dict(c), {n: torch.cat(v) for n, v in f.items()}) for c, f in kept.items()]


def _whole(columns: Columns, metrics: Metrics) -> Detail:
    """A cell of the whole split; where prompts leave, with the mean of their loops as a column."""
    if (loops := columns.get("loops", 0)) > columns.get("n_loops", 0):
        require_finite(metrics, f" after {loops} loops", "ask for fewer `--loops`")
    require_finite(metrics)
    if "threshold" in columns:
        columns = columns | {"loops_used": float(metrics["loops_used"].mean())}
    return columns, metrics


def _told(between: Between | None, positions: int) -> Columns:
    """The columns that say what was done between loops.

    Raises:
        UsageError: more positions are kept than there are.
    """
    if between is None:
        return {}
    noise = {"state_noise": between.noise} if between.noise else {}
    if between.mask is None:
        return noise
    if between.kept > positions:
        raise UsageError(
            f"`--keep {between.keep}:{between.kept}`: an input has {positions} positions",
            f"at most {between.keep}:{positions}, which masks nothing",
        )
    return noise | {"mask": between.mask, "keep": between.keep, "kept": between.kept}


def _looped(
    model: nn.Module,
    task: Task,
    inputs: Tensor,
    targets: Tensor,
    asked: DetailRequest,
    between: Between | None,
) -> Iterator[Detail]:
    """The scores of a batch after each loop that is asked for, and of its prompts as they left."""
    assert isinstance(model, Loops)
    wanted = set(asked.loops or ([model.loops] if asked.by_examples or asked.between else []))
    most = max(wanted, default=model.loops)
    if asked.residual and not asked.loops:
        wanted |= set(range(1, most + 1))
    exits = [_Exit(move, threshold) for threshold in asked.exits for move in MOVES]
    before = model.begin(inputs, between) if asked.residual or exits else None
    for done, after in enumerate(model.every_loop(inputs, most, between), 1):
        moved = _moved(before, after) if asked.residual or exits else {}
        of_loop: Columns = {"loops": done, "n_loops": model.loops}
        if exits:
            of_loop |= {"exit": "none", "loops_used": float(done)}
        if done in wanted:
            for columns, metrics in _cells(task, after.logits, targets, asked.by_examples):
                yield of_loop | columns, metrics
            if asked.residual:
                yield of_loop, {f"{name}_move": far for name, far in moved.items()}
        if exits:
            metrics = task.score(after.logits, targets)
            for one in exits:
                one.see(done, moved[one.move], metrics, last=done == most)
        before = after
    for one in exits:
        yield {"exit": one.move, "threshold": one.threshold}, one.found


@dataclass
class _Exit:
    """A rule by which prompts leave the loops, and their scores when they left."""

    move: str
    threshold: float
    inside: Bool[Tensor, " B"] | None = None
    found: Metrics = field(default_factory=dict)

    def see(self, done: int, moved: Tensor, metrics: Metrics, last: bool) -> None:
        """Let the prompts leave that moved little in this loop, or in the last one all."""
        inside = torch.ones_like(moved, dtype=torch.bool) if self.inside is None else self.inside
        going = inside if last else inside & (moved < self.threshold)
        used = {"loops_used": torch.full_like(moved, done)} | {
            name: values.to(moved.device) for name, values in metrics.items()
        }
        for name, values in used.items():
            self.found[name] = torch.where(going, values, self.found.get(name, values))
        self.inside = inside & ~going


def _moved(before: After | None, after: After) -> dict[str, Float64[Tensor, " B"]]:
    """How far each prompt's state and output moved in a loop, over their lengths.

    In the first one from 0, or from the input where the state begins there.
    """
    found = {}
    for name, was, now in (
        ("state", before and before.state, after.state),
        ("output", before and before.logits, after.logits),
    ):
        step = now if was is None else now - was
        lengths = [one.double().flatten(1).norm(dim=1) for one in (step, now)]  # (B,) each
        found[name] = lengths[0] / lengths[1].clamp(min=torch.finfo(now.dtype).tiny)
    return found


def _cells(
    task: Task, logits: Float[Tensor, "B T C"], targets: Tensor, by_examples: bool
) -> Iterator[Detail]:
    """The scores of a batch, of whole prompts or by the number of examples in the prompt."""
    if not by_examples or not isinstance(task, ByExamples):
        yield {}, task.score(logits, targets)
        return
    found = task.by_examples(logits, targets)  # (B, n) each
    for examples in range(next(iter(found.values())).shape[1]):
        yield {"examples": examples}, {name: each[:, examples] for name, each in found.items()}


def _solved(split: Split) -> list[Detail]:
    """The errors of exact methods on the same prompts."""
    return [
        ({"examples": k, "label": name.replace("_", " ")}, {BASELINES[name]: errors[:, k].double()})
        for name, errors in exact(split.extra).items()
        for k in range(errors.shape[1])
    ]
