"""Linear maps that are fitted to data: one for each axis, shared by all tensors; not exact.

LiGO (Wang et al., 2023, arXiv:2303.00980), written against the axes table: every factor that grows
(d_model, d_ff, n_heads, ...) has a map E for what writes it and a map R for what reads it, each
(new, old), and one for gains and shifts; W becomes (map of its rows) W (map of its columns)^T, the
maps of a product axis multiplied as Kronecker products. Of two tensors that are multiplied, one
counts as a reader of the axis between them. Unlike LiGO, readers have maps of their own. A new
layer is a sum of the old ones with fitted coefficients, one for what writes the residual stream and
one for the rest.

The maps start where the growth is exact, R^T E = 1. With whole factors they are those of `clone`, E
whole copies and R the same over their number, with paired noise; else those of `pad`, the old
corner, and new indices random on one side and silent on the other (under layernorm the mean, on the
stream's writing side). New layers start as the identity. Then AdamW, its rate falling to a tenth by
a cosine, fits all maps and coefficients to the task's loss on the training split, in float32; only
the differences from the start are fitted, and decay pulls them to zero. The fit holds the small and
the large model in memory, and its training FLOPs count in the lineage of the grown file.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from xtool.archs import FORWARD_AND_BACKWARD, Stepped, empty, stored_names
from xtool.axes import RESIDUAL, layout
from xtool.dataset import Drawn, Split
from xtool.errors import UsageError, XtoolError
from xtool.evaluation.score import together
from xtool.seeds import derive
from xtool.surgery.operators import Fit, Growth, Operator
from xtool.surgery.operators._maps import DATA_AXES, Key, Maps, copies
from xtool.surgery.operators.clone import ENTRY as CLONE
from xtool.surgery.operators.pad import Pad
from xtool.tasks import Task, drawn, fitted, open_data, task_of
from xtool.training.costs import costs_of
from xtool.training.eager import eager
from xtool.training.schedule import lr_factor

PROMISE = "approximate"
CONDITION = "any width that `clone` or `pad` takes; needs `--data`"
OPTIONS = [
    ("data", "text", None, "the data file whose training split the maps are fitted to"),
    ("fit_steps", "int", 300, "optimizer steps of the fit; 0 keeps the exact start"),
    ("fit_lr", "float", 3e-4, "its learning rate at its highest"),
    ("fit_batch", "int", 64, "its examples a step"),
    ("noise", "bool", True, "paired noise on the copies, a tenth of their power"),
]
MEASURED = 1024
WEIGHT_DECAY = 0.01


class Learned:
    """The operator; see the module."""

    def refuse(self, growth: Growth) -> str:
        """No axis of the model's own that grows; else what `pad` refuses, but for whole factors.

        Raises:
            UsageError: no data, or a dial out of range.
        """
        if not growth.dials["data"]:
            raise UsageError(
                "`learned` fits its maps to data, and none was given",
                "`--data DATA` names the file that the model was trained on",
            )
        for name, low in (("fit_steps", 0), ("fit_batch", 1)):
            if growth.dials[name] < low:
                raise UsageError(f"`{name}` is {growth.dials[name]}, it must be at least {low}")
        if growth.dials["fit_lr"] <= 0:
            raise UsageError(f"`fit_lr` is {growth.dials['fit_lr']}, it must be above 0")
        names = [name for name in growth.reader.names if not _untouched(growth, name)]
        if not any(key[1] not in DATA_AXES for key in Maps(growth, names, {}).starts):
            return "nothing grows that a map could be fitted to"
        return "" if copies(growth.old, growth.new) else Pad().refuse(growth)

    def config(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
        """What the starting operator changes."""
        return {} if copies(layout(old), layout(new)) else Pad().config(old, new)

    def fit(self, growth: Growth) -> Fit:
        """Fit the maps; what that was and what it cost."""
        if "learned" not in growth.memory:
            growth.memory["learned"] = _fitted(growth)
        report: Fit = growth.memory["learned"][1]
        return report

    def rows(self, growth: Growth, name: str, start: int, stop: int) -> Tensor:
        """Rows of the mapped tensor, which is made whole once."""
        if _untouched(growth, name):
            return _start(growth).rows(growth, name, start, stop)
        self.fit(growth)
        maps: Maps = growth.memory["learned"][0]

        def mapped() -> Tensor:
            old = {source: growth.reader.tensor(source).double() for source in maps.sources(name)}
            return maps.tensor(name, old, maps.fitted)

        return growth.held("mapped", name, mapped)[start:stop]


def _fitted(growth: Growth) -> tuple[Maps, Fit]:
    """Maps after the fit, and its report."""
    path = Path(growth.dials["data"])
    header = growth.reader.source.require_header()
    grown = header.model_copy(update={"config": dict(growth.new.config)})
    data = fitted(open_data(path), grown, str(path))
    model = empty(growth.new.config)
    names = [name for name in stored_names(model, growth.new) if not _untouched(growth, name)]
    maps = Maps(growth, names, {})
    for key, start in maps.starts.items():
        maps.changes[key] = torch.zeros_like(start, dtype=torch.float32)
    task, split = task_of(data.header, str(path)), data.split("train")
    done = header.training.get("progress", {}).get("lineage_steps", 0)
    if isinstance(split, Drawn):
        number = min(len(split), growth.dials["fit_steps"] * growth.dials["fit_batch"] + MEASURED)
        split = drawn(task, data.header, split, number, growth.seed, done)
    fitting = _Fitting(maps, model, task, split, done)
    before = fitting.measure()
    costs = costs_of(growth.new.config, [(0, split.inputs.shape[1])])
    flops = FORWARD_AND_BACKWARD * maps.flops() * growth.dials["fit_steps"]
    for number in range(growth.dials["fit_steps"]):
        each = [cost for first, cost in costs if first <= done + number][-1]
        flops += each * fitting.step(number)
    after = fitting.measure() if growth.dials["fit_steps"] else before
    note = (
        f"fit: {growth.dials['fit_steps']} steps, training loss {before:.4f} -> {after:.4f}, "
        f"{flops:.3g} training FLOPs"
    )
    return maps, Fit(note=note, inputs={"data": data.header.digest}, flops=flops)


def _untouched(growth: Growth, name: str) -> bool:
    """Whether a tensor is a fixed table apart from the stream, which no map should change."""
    axes = growth.new.axes(name)
    return growth.new.is_frozen(name) and all(RESIDUAL not in axis.factors for axis in axes)


def _start(growth: Growth) -> Operator:
    """The operator whose growth the maps start from."""
    return CLONE if copies(growth.old, growth.new) else Pad()


class _Fitting:
    """The grown model as a function of its maps, and the steps that fit them."""

    def __init__(self, maps: Maps, model: nn.Module, task: Task, split: Split, done: int) -> None:
        self.maps, self.model, self.task, self.split = maps, model, task, split
        self.done = done  # steps of the lineage, in which loops and prompts have risen
        growth = maps.growth
        self.inputs, self.targets = split.pool(torch.device("cpu"))
        self.dials, self.seed = growth.dials, growth.seed
        names = {source for name in maps.names for source in maps.sources(name)}
        self.old = {name: maps.growth.reader.tensor(name).float() for name in sorted(names)}
        self.tables = {
            name: _start(growth).rows(growth, name, 0, growth.new.shape(name)[0]).float()
            for name in stored_names(model, growth.new)
            if _untouched(growth, name)
        }
        self.starts = {key: start.float() for key, start in maps.starts.items()}
        learnt = [key for key in maps.changes if key[1] not in DATA_AXES]
        parameters = [maps.changes[key].requires_grad_() for key in learnt]
        self.optimizer = eager(torch.optim.AdamW)(
            parameters, lr=self.dials["fit_lr"], weight_decay=WEIGHT_DECAY, fused=True
        )
        self.order = (-1, torch.empty(0))

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of some training examples, (B, T) each -> ()."""
        made: dict[Key, Tensor] = {
            key: start + self.maps.changes[key] for key, start in self.starts.items()
        }
        tensors = {n: self.maps.tensor(n, self.old, made.__getitem__) for n in self.maps.names}
        tensors |= self.tables
        logits: Tensor = functional_call(self.model, tensors, (inputs,))
        # (B, T, C), of a looped model one for each loop of the loss: (S, B, T, C).
        targets = targets.repeat(logits.shape[:-3].numel(), 1)
        return self.task.loss(logits.flatten(0, -3), targets).mean()

    @torch.no_grad()
    def measure(self) -> float:
        """The loss on the first training examples, without dropout."""
        self.model.eval()
        some = together(self.split, MEASURED)
        return float(self.loss(self.split.inputs[:some], self.split.targets[:some]))

    def step(self, number: int) -> int:
        """One step of the optimizer; the examples that it saw.

        Raises:
            XtoolError: the loss is NaN or infinite.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.dials["fit_lr"] * lr_factor(
                "cosine", number, self.dials["fit_steps"], 0
            )
        torch.manual_seed(derive(self.seed, "fit step", number))
        self.model.train()
        if isinstance(self.model, Stepped):
            self.model.at_step(self.done + number)
        batch = self._batch(number)
        loss = self.loss(self.inputs[batch], self.targets[batch])
        if not torch.isfinite(loss):
            raise XtoolError(
                f"the fit's loss is {loss.item()} at step {number}", "lower `--fit-lr`"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return len(batch)

    def _batch(self, number: int) -> Tensor:
        """The examples of a step, (B,): a slice of the epoch's order."""
        size = int(self.dials["fit_batch"])
        epoch, place = divmod(number, -(-len(self.split) // size))
        if self.order[0] != epoch:
            generator = torch.Generator().manual_seed(derive(self.seed, "fit order", epoch))
            self.order = (epoch, self.split.order(generator))
        return self.order[1][place * size : (place + 1) * size]


ENTRY: Operator = Learned()
