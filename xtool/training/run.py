"""A run: what is trained on what, and where it stands; values only, the loop does the work."""

import math
import sys
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from torch import nn

from xtool.axes import Layout
from xtool.dataset import Dataset
from xtool.header import Header, Training
from xtool.lineage import Step
from xtool.rows import Row
from xtool.tasks import Lengths, Task
from xtool.training.costs import Costs, costs_of
from xtool.training.dials import REPORT
from xtool.training.optimizers import Slot
from xtool.training.parallel import Processes
from xtool.training.schedule import lr_factor


@dataclass
class Position:
    """Where a run stands: everything that the next step depends on beside weights and optimizer."""

    step: int = 0
    best: float | None = None
    reached: bool = False
    loss_sums: list[float] = field(default_factory=list)
    loss_count: int = 0
    rows: int = 0
    clipped: list[int] = field(default_factory=list)
    worse: int = 0
    stopped: bool = False
    groups: dict[str, list[int]] = field(default_factory=dict)


class Listener(Protocol):
    """Whoever watches a run; the loop itself prints nothing."""

    def stepped(self, step: int, loss: float | None) -> None:
        """A step was done; its loss is given now and then, in nats."""

    def evaluated(self, rows: list[Row]) -> None:
        """An evaluation was written."""

    def note(self, text: str) -> None:
        """Something that a person should know."""


@dataclass(frozen=True)
class Run:
    """All that a training run is made of.

    Attributes:
        model: with its first values, on its device and in its precision.
        layout: the axes of its tensors.
        config: the architecture with its dials.
        task: what scores it.
        data: the examples.
        dials: every training dial.
        before: `progress` of the lineage so far.
        lineage: the steps so far and this one.
        out: the model's path.
        threads: CPU threads in use.
        route: the matrix library and the attention kernel, see `routes`.
        processes: those that share it.
        slots: what the optimizer begins with, by parameter; none begins from nothing.
        averaged: the model that holds the running average of the weights, or with `fsdp` all of
            them, if there is one.
    """

    model: nn.Module
    layout: Layout
    config: Mapping[str, Any]
    task: Task
    data: Dataset
    dials: Mapping[str, Any]
    before: Mapping[str, Any]
    lineage: list[Step]
    out: Path
    threads: int
    route: str
    processes: Processes = field(default_factory=Processes)
    slots: Mapping[str, Slot] = field(default_factory=dict)
    averaged: nn.Module | None = None
    position: Position = field(default_factory=Position)

    @property
    def shown(self) -> nn.Module:
        """The model that is evaluated and kept."""
        return self.averaged or self.model

    @property
    def seeds(self) -> list[int]:
        """One for each replica."""
        return [int(self.dials["seed"]) + i for i in range(int(self.dials["replicas"]))]

    @property
    def steps_per_epoch(self) -> int:
        """Batches that cover the training split once; the last may be smaller."""
        return math.ceil(len(self.data.split("train")) / int(self.dials["batch_size"]))

    @property
    def steps_before(self) -> int:
        """Steps of the lineage so far; a run that goes on draws anew, it does not repeat."""
        return int(self.before.get("lineage_steps", 0))

    @cached_property
    def total_steps(self) -> int:
        """Where the run ends: by steps, else epochs, and never beyond the budget of FLOPs."""
        limit = self.dials["max_flops"]
        if limit is None:
            return self._wanted
        left = float(limit) - int(self.before.get("lineage_flops", 0))
        cheapest = min(cost for _, cost in self._costs) * len(self.data.split("train"))
        affordable = (max(0, int(left)) // cheapest + 1) * self.steps_per_epoch
        most = min(self._wanted, affordable, sys.maxsize - 1)
        return max(0, bisect_right(range(most + 1), left, key=self.flops) - 1)

    @property
    def _wanted(self) -> int:
        """Steps that are asked for."""
        if self.dials["steps"] is not None:
            return int(self.dials["steps"])
        return round(float(self.dials["epochs"]) * self.steps_per_epoch)

    @cached_property
    def _costs(self) -> Costs:
        return costs_of(self.config, self._lengths)

    @cached_property
    def _lengths(self) -> Costs:
        if isinstance(self.task, Lengths):
            return self.task.lengths(self.data.header)
        return [(0, int(self.config["context"]))]

    def lr(self, step: int) -> float:
        """The learning rate after `step` steps, for the next one."""
        dials, total = self.dials, self.total_steps
        schedule, part = str(dials["schedule"]), float(dials["decay_part"])
        return float(dials["lr"]) * lr_factor(schedule, step, total, int(dials["warmup"]), part)

    def flops(self, steps: int) -> int:
        """Training FLOPs of the run's first steps."""
        return self._sum(self._costs, steps)

    def tokens(self, steps: int) -> int:
        """Positions that the run's first steps read."""
        return self._sum(self._lengths, steps)

    def _sum(self, costs: Costs, steps: int) -> int:
        """What the examples of the run's first steps take."""
        found, end = 0, steps
        for first, cost in reversed(costs):
            begin = min(end, max(0, first - self.steps_before))
            found += cost * (self.examples(end) - self.examples(begin))
            end = begin
        return found

    def examples(self, step: int) -> int:
        """Training examples seen after `step` steps."""
        size = len(self.data.split("train"))
        epochs, rest = divmod(step, self.steps_per_epoch)
        return epochs * size + min(rest * int(self.dials["batch_size"]), size)

    def progress(self, step: int) -> dict[str, Any]:
        """Steps, epochs and training FLOPs of this run and of its whole lineage."""
        own = {
            "steps": step,
            "epochs": round(self.examples(step) / len(self.data.split("train")), 6),
            "flops": self.flops(step),
        }
        whole = {f"lineage_{k}": v + self.before.get(f"lineage_{k}", 0) for k, v in own.items()}
        return own | whole

    def header(self, kind: Literal["model", "resume"], step: int) -> Header:
        """The header of a model or resume file written after `step` steps."""
        left_out = not_in_files(self.dials)
        training: Training = {
            "dials": {k: v for k, v in self.dials.items() if k not in left_out},
            "progress": cast(Any, self.progress(step)),
            "threads": self.threads,
            "route": self.route,
        }
        if self.processes.count > 1:
            training["processes"] = self.processes.count
        if self.dials.get("label"):
            training["label"] = self.dials["label"]
        if self.position.groups and kind == "model":
            training["categories"] = {k: v for k, v in self.position.groups.items() if k}
        if kind == "resume":
            training["position"] = cast(Any, vars(self.position))
        return Header(
            kind=kind,
            config=dict(self.config),
            task=self.data.header.task,
            tokenizer=self.data.header.tokenizer,
            training=training,
            lineage=self.lineage,
        )


def not_in_files(dials: Mapping[str, Any]) -> set[str]:
    """The dials that decide nothing of what is kept, or stand in a file otherwise.

    Evaluations do decide where they end a run, or choose its best model.
    """
    found = {dial.name for dial in REPORT} | {"categories", "threads"}
    return found - {"eval_every"} if dials["patience"] or dials["keep_best"] else found
