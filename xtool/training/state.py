"""The state of a run in one file, `NAME.resume.st`: weights, optimizer and position.

Tensors are named `model/NAME` and `optimizer/NAME/exp_avg`, by the parameter's name and never by a
number; the running average of the weights, if there is one, is `average/NAME`. There is no random
state to keep: every draw is seeded by its purpose and step.

A state that was grown, and that of a run which began from one, holds for every parameter also
`factors`, three doubles that multiply the dials (learning rate, eps, weight decay), and for each
axis `age.0`, `age.1`: the steps that the optimizer's counters have behind them, see `Slot`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from xtool.archs import stored_names
from xtool.axes import Layout
from xtool.checkpoint import load, save
from xtool.errors import XtoolError
from xtool.header import Header
from xtool.training.optimizers import REST, Factors, Slot, moments
from xtool.training.parallel import whole
from xtool.training.run import Position, Run

MODEL, PART, AVERAGE = "model/", "optimizer/", "average/"

Shapes = Mapping[str, tuple[int, ...]]


def model_tensors(model: nn.Module, ours: Layout) -> dict[str, Tensor]:
    """What a model file holds."""
    state = model.state_dict()
    return {name: whole(state[name]) for name in stored_names(model, ours)}


def save_model(run: Run, path: Path, step: int) -> str:
    """Write the model as it is after `step` steps, averaged if it is; returns its digest."""
    tensors = model_tensors(run.shown, run.layout)
    return save(path, run.header("model", step), tensors) if run.processes.first else ""


def save_state(
    run: Run,
    path: Path,
    optimizers: Sequence[torch.optim.Optimizer],
    slots: Mapping[str, Slot],
) -> None:
    """Write what `load_state` needs to go on; all processes take part, the first one writes.

    Args:
        run: where it stands.
        path: `NAME.resume.st`.
        optimizers: whose moments are kept.
        slots: what it had at step 0 of the run; kept, with their ages now, unless all are plain.
    """
    tensors = {MODEL + name: one for name, one in model_tensors(run.model, run.layout).items()}
    if run.dials["ema"]:
        shown = model_tensors(run.shown, run.layout)
        tensors |= {AVERAGE + name: tensor for name, tensor in shown.items()}
    if not all(slot.plain for slot in slots.values()):
        for name, slot in slots.items():
            ages = tuple(age + run.position.step for age in slot.ages)
            tensors |= slot_tensors(name, slot.factors, ages)
    if run.position.step or any(one.state for one in optimizers):
        held = {p: state for one in optimizers for p, state in one.state.items()}
        for name, parameter in run.model.named_parameters():
            own = held.get(parameter, {})
            for moment in moments(run.dials["optimizer"], run.layout, name):
                value = own.get(moment)
                kept = torch.zeros_like(parameter) if value is None else value
                tensors[f"{PART}{name}/{moment}"] = whole(kept)
    if run.processes.first:
        save(path, run.header("resume", run.position.step), tensors)


def slot_tensors(name: str, factors: Factors, ages: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """How a state file holds a parameter's factors and ages."""
    three = torch.tensor([factors.lr, factors.eps, factors.decay], dtype=torch.float64)
    held = {f"{PART}{name}/age.{axis}": age for axis, age in enumerate(ages)}
    return {f"{PART}{name}/factors": three, **held}


def optimizer_of(header: Header) -> str:
    """The optimizer that a file was trained with."""
    return str(header.training.get("dials", {}).get("optimizer", REST))


@dataclass(frozen=True)
class Kept:
    """What a state file keeps of one parameter: its shape, and moments with their powers."""

    shape: tuple[int, ...]
    moments: Mapping[str, int]


def kept_parameters(header: Header, ours: Layout, stored: Shapes) -> dict[str, Kept]:
    """What a state file keeps of each parameter among a model's stored tensors."""
    name = optimizer_of(header)
    return {
        parameter: Kept(shape, moments(name, ours, parameter))
        for parameter, shape in stored.items()
        if not ours.is_frozen(parameter)
    }


def require_optimizer(found: Shapes, parameters: Mapping[str, Kept], where: str) -> bool:
    """Check that a file holds the optimizer's state of these parameters and of no other.

    Args:
        found: the shapes of the tensors below `optimizer/`, by their names without it.
        parameters: what is to be kept of each.
        where: names the file in errors.

    Returns:
        whether it holds factors and ages too.

    Raises:
        XtoolError: a tensor is missing, unknown, or of another shape.
    """
    wanted: dict[str, tuple[int, ...]] = {}
    grown = any(name.endswith("/factors") for name in found)
    for name, kept in parameters.items():
        wanted |= {f"{name}/{moment}": kept.shape for moment in kept.moments}
        if grown:
            wanted[f"{name}/factors"] = (3,)
            wanted |= {f"{name}/age.{axis}": (size,) for axis, size in enumerate(kept.shape)}
    for name, shape in wanted.items():
        if name not in found:
            owner = name.rpartition("/")[0]
            raise XtoolError(
                f"{where}: lacks the optimizer's state of `{owner}`: no `{PART}{name}`"
            )
        if found[name] != shape:
            raise XtoolError(
                f"{where}: tensor `{PART}{name}` has shape {list(found[name])}, its parameter "
                f"needs {list(shape)}"
            )
    if unknown := sorted(set(found) - set(wanted)):
        raise XtoolError(f"{where}: has an unknown tensor `{PART}{unknown[0]}`")
    return grown


def read_slot(tensors: Mapping[str, Tensor], name: str, where: str) -> tuple[Factors, list[Tensor]]:
    """A parameter's factors and ages from the tensors of `slot_tensors`.

    Raises:
        XtoolError: a factor that is not above zero, or an age below it.
    """
    factors = tensors[f"{PART}{name}/factors"]
    axes = range(sum(key.startswith(f"{PART}{name}/age.") for key in tensors))
    ages = [tensors[f"{PART}{name}/age.{axis}"] for axis in axes]
    if factors.dtype != torch.float64 or not bool((factors > 0).all()):
        raise XtoolError(f"{where}: `{PART}{name}/factors` must be three doubles above 0")
    if any(age.dtype != torch.int64 or bool((age < 0).any()) for age in ages):
        raise XtoolError(f"{where}: `{PART}{name}/age` must be whole numbers from 0")
    return Factors(*factors.tolist()), ages


def not_begun(header: Header) -> bool:
    """Whether a state may lack the optimizer's: that of a run stopped before its first step."""
    grown = bool(header.lineage) and header.lineage[-1].command == "grow"
    return not grown and not header.training["position"]["step"]


def read_slots(
    tensors: Mapping[str, Tensor], parameters: Mapping[str, Kept], header: Header, where: str
) -> dict[str, Slot]:
    """What an optimizer begins with where a state file ended, by parameter.

    Args:
        tensors: those of the file.
        parameters: what is to be kept of each.
        header: the file's; its position is the age of every entry unless the file has its own.
        where: names the file in errors.

    Raises:
        XtoolError: the file does not fit the parameters, or holds no such state.
    """
    found = {
        name.removeprefix(PART): tuple(tensor.shape)
        for name, tensor in tensors.items()
        if name.startswith(PART)
    }
    step = header.training["position"]["step"]
    if not found and not_begun(header):
        return {}
    grown = require_optimizer(found, parameters, where)
    out = {}
    for name, kept in parameters.items():
        factors, ages = Factors(), [torch.full((size,), step) for size in kept.shape]
        if grown:
            factors, ages = read_slot(tensors, name, where)
        held = {moment: tensors[f"{PART}{name}/{moment}"] for moment in kept.moments}
        for moment, power in kept.moments.items():
            if power == 2 and bool((held[moment] < 0).any()):
                raise XtoolError(f"{where}: `{PART}{name}/{moment}` is below 0, squares are not")
        out[name] = Slot(factors, tuple(ages), held)
    return out


def restore(model: nn.Module, ours: Layout, path: Path) -> tuple[Header, dict[str, Slot]]:
    """Give a model the weights of a state file; returns its header and the optimizer's slots.

    Raises:
        XtoolError: no state file, or tensors that are missing or do not fit.
    """
    header, tensors = load(path, "resume")
    if "position" not in header.training:
        raise XtoolError(f"{path}: its header names no position")
    shapes = {name: tuple(one.shape) for name, one in model_tensors(model, ours).items()}
    slots = read_slots(tensors, kept_parameters(header, ours, shapes), header, str(path))
    for name in sorted(tensors):
        if not name.startswith((MODEL, PART, AVERAGE)):
            raise XtoolError(f"{path}: has an unknown tensor `{name}`")
    _copy(model, ours, tensors, MODEL, path)
    return header, slots


def _copy(
    model: nn.Module, ours: Layout, tensors: Mapping[str, Tensor], part: str, path: Path
) -> None:
    wanted = model_tensors(model, ours)
    for name, tensor in sorted(wanted.items()):
        found = tensors.get(part + name)
        if found is None or found.shape != tensor.shape:
            raise XtoolError(f"{path}: lacks `{part}{name}` of shape {list(tensor.shape)}")
    for name in sorted(tensors):
        if name.startswith(part) and name.removeprefix(part) not in wanted:
            raise XtoolError(f"{path}: has an unknown tensor `{name}`")
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(tensors[part + name])


def load_state(run: Run, path: Path) -> dict[str, Slot]:
    """Put weights and position back to where the file says; returns what the optimizer had.

    Raises:
        XtoolError: the file is of another run; the first difference is named.
    """
    require_same_run(run, path)
    header, slots = restore(run.model, run.layout, path)
    if run.dials["ema"]:
        _copy(run.shown, run.layout, load(path, "resume")[1], AVERAGE, path)
    position = Position(**header.training["position"])
    steps = header.training.get("progress", {}).get("steps")
    if position.step > run.total_steps or position.step != steps:
        raise XtoolError(
            f"{path}: its position is step {position.step}, its progress {steps} of "
            f"{run.total_steps}",
            "`--force` starts over",
        )
    if any(int(age.min()) < position.step for slot in slots.values() for age in slot.ages):
        raise XtoolError(f"{path}: an optimizer's age is below its position, {position.step}")
    vars(run.position).update(vars(position))
    return slots


def require_same_run(run: Run, path: Path) -> None:
    """Raise XtoolError unless the file's lineage is this run's."""
    from xtool.storage import header_of

    header = header_of(path, "resume")
    if not header.lineage or "position" not in header.training:
        raise XtoolError(f"{path}: its header names no run or no position", "`--force` starts over")
    theirs, ours = header.lineage[-1], run.lineage[-1]
    if theirs.command != ours.command:
        raise XtoolError(
            f"{path}: was made by `{theirs.command}`, it is the start of a run and not one that "
            "was stopped",
            f"give it with `--from {path}`, and name another output with `-o`",
        )
    for role in sorted(set(theirs.inputs) | set(ours.inputs)):
        if theirs.inputs.get(role) != ours.inputs.get(role):
            raise XtoolError(
                f"{path}: is of another run: its `{role}` input is another file",
                "give the same inputs with `--resume`, or `--force` to start over",
            )
    for name, was, now in (
        ("seed", theirs.seed, ours.seed),
        ("version", theirs.version, ours.version),
        ("threads", header.training.get("threads"), run.threads),
        ("processes", header.training.get("processes", 1), run.processes.count),
        ("route", header.training.get("route"), run.route),
    ):
        if was != now:
            raise XtoolError(
                f"{path}: is of another run: `{name}` is {was} there, {now} here",
                "give the same flags with `--resume`, or `--force` to start over",
            )
    for name in sorted(set(theirs.options) | set(ours.options)):
        if theirs.options.get(name) != ours.options.get(name):
            raise XtoolError(
                f"{path}: is of another run: `{name}` is {theirs.options.get(name)} there, "
                f"{ours.options.get(name)} here",
                "give the same flags with `--resume`, or `--force` to start over",
            )
