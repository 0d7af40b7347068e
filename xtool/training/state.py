"""The state of a run in one file, `NAME.resume.st`: weights, optimizer and position.

Tensors are named `model/NAME` and `optimizer/NAME/exp_avg`, by the parameter's name and never by a
number. There is no random state to keep: every draw is seeded by its purpose and step.
"""

from pathlib import Path

import torch
from torch import Tensor

from xtool.archs import stored_names
from xtool.checkpoint import load, save
from xtool.errors import XtoolError
from xtool.training.run import Position, Run

MOMENTS = ("exp_avg", "exp_avg_sq")


def model_tensors(run: Run) -> dict[str, Tensor]:
    """What a model file of the run holds."""
    state = run.model.state_dict()
    return {name: state[name] for name in stored_names(run.model, run.layout)}


def save_model(run: Run, path: Path, step: int) -> str:
    """Write the model as it is after `step` steps; returns its digest."""
    return save(path, run.header("model", step), model_tensors(run))


def save_state(run: Run, path: Path, optimizer: torch.optim.Optimizer) -> None:
    """Write what `load_state` needs to go on."""
    tensors = {f"model/{name}": tensor for name, tensor in model_tensors(run).items()}
    for name, parameter in run.model.named_parameters():
        for moment in MOMENTS:
            if moment in optimizer.state[parameter]:
                tensors[f"optimizer/{name}/{moment}"] = optimizer.state[parameter][moment]
    save(path, run.header("resume", run.position.step), tensors)


def load_state(run: Run, path: Path, optimizer: torch.optim.Optimizer) -> None:
    """Put weights, optimizer and position back to where the file says.

    Raises:
        XtoolError: the file is of another run; the first difference is named.
    """
    header, tensors = load(path, "resume")
    require_same_run(run, path)
    state = run.model.state_dict()
    wanted = {f"model/{name}": state[name] for name in stored_names(run.model, run.layout)}
    for name, tensor in sorted(wanted.items()):
        if name not in tensors or tensors[name].shape != tensor.shape:
            raise XtoolError(f"{path}: lacks `{name}` of shape {list(tensor.shape)}")
    position = Position(**header.training["position"])
    steps = header.training.get("progress", {}).get("steps")
    if position.step > run.total_steps or position.step != steps:
        raise XtoolError(
            f"{path}: its position is step {position.step}, its progress {steps} of "
            f"{run.total_steps}",
            "`--force` starts over",
        )
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(tensors[name])
        for name, parameter in run.model.named_parameters():
            if not position.step:
                break
            moments = {m: tensors.get(f"optimizer/{name}/{m}") for m in MOMENTS}
            if any(
                moment is None or moment.shape != parameter.shape for moment in moments.values()
            ):
                raise XtoolError(f"{path}: lacks the optimizer's state of `{name}`")
            at = torch.tensor(float(position.step), device=parameter.device)
            kept = {m: v.to(parameter.device) for m, v in moments.items() if v is not None}
            optimizer.state[parameter] = {"step": at, **kept}
    vars(run.position).update(vars(position))


def require_same_run(run: Run, path: Path) -> None:
    """Raise XtoolError unless the file's lineage is this run's."""
    from xtool.storage import Source

    with Source(path) as source:
        header = source.require_header("resume")
    if not header.lineage or "position" not in header.training:
        raise XtoolError(f"{path}: its header names no run or no position", "`--force` starts over")
    theirs, ours = header.lineage[-1], run.lineage[-1]
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
