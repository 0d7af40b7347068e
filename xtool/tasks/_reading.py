"""From a data file to examples that a model reads."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xtool import registry
from xtool.averages import exact
from xtool.dataset import Dataset, Drawn, Split, read_dataset
from xtool.errors import XtoolError, located
from xtool.header import Header
from xtool.seeds import derive
from xtool.tasks._contracts import Drawing, OfHeader, Shape, Task

TABLED = ("learned", "sinusoidal", "sinusoidal-unpaired")


def task_of(header: Header, where: str) -> Task:
    """The task of a data or model file.

    Raises:
        XtoolError: the header names none.
    """
    if "name" not in header.task:
        raise XtoolError(f"{where}: the header names no task")
    task: Task = registry.load("tasks", str(header.task["name"]))
    return task.of(header) if isinstance(task, OfHeader) else task


def drawn(task: Task, header: Header, split: Drawn, count: int, seed: int, step: int = 0) -> Split:
    """So many examples of a split that is drawn, as those of a step, as if they were stored."""
    assert isinstance(task, Drawing)
    generator = torch.Generator().manual_seed(derive(seed, "drawn"))
    return Split(*task.draw(header, split.rows, count, generator, step))


def defaults(data: Header) -> dict[str, Any]:
    """The dials that the task of a data file puts in place of the usual defaults."""
    found: dict[str, Any] = registry.literal("tasks", str(data.task["name"]), "DEFAULTS", {})
    return found


def open_data(path: Path) -> Dataset:
    """Read a data file whose examples are what its task says.

    Raises:
        XtoolError: unreadable, of another length than the task's, not whole numbers, or a symbol or
            class outside the task's range.
        CheckFailed: its digest does not match.
    """
    data = read_dataset(path)
    with located(path):
        shape = task_of(data.header, str(path)).shape(data.header)
    for name, split in data.splits.items():
        if shape.d_input:
            _require_numbers(split, shape, f"{path}: split `{name}`")
            continue
        if isinstance(split, Tensor) != (shape.context is None):
            kind = "running text" if shape.context is None else "examples"
            raise XtoolError(f"{path}: split `{name}` is not the {kind} that its task has")
        if isinstance(split, Tensor):
            parts = [("tokens", split, shape.vocab_size or 0)]
        else:
            parts = [
                ("inputs", split.inputs, shape.vocab_size or 0),
                ("targets", split.targets, shape.n_outputs),
            ]
        for part, tensor, classes in parts:
            _require_symbols(tensor, shape.context, classes, f"{path}: `{name}.{part}`")
    return data


def _require_symbols(tensor: Tensor, context: int | None, classes: int, where: str) -> None:
    length = () if context is None else (context,)
    if tuple(tensor.shape[1:]) != length or tensor.is_floating_point():
        raise XtoolError(f"{where} is not {' x '.join(['N', *map(str, length)])} whole numbers")
    low, high = int(tensor.min()), int(tensor.max())
    if low < 0 or high >= classes:
        raise XtoolError(f"{where} holds {low} to {high}, the task has 0 to {classes - 1}")


def _require_numbers(split: Split | Tensor, shape: Shape, where: str) -> None:
    """Raise XtoolError unless a split holds vectors, as the task has them."""
    if isinstance(split, Drawn):
        columns = None if split.rows is None else tuple(split.rows.shape[1:])
        if columns is not None and columns != ((shape.d_input or 0) + 1,):
            raise XtoolError(
                f"{where} is drawn from rows of {columns}, not of its dims and a value"
            )
        return
    wanted = (shape.context, shape.d_input)
    if isinstance(split, Tensor) or tuple(split.inputs.shape[1:]) != wanted:
        raise XtoolError(f"{where} is not N x {wanted[0]} x {wanted[1]} numbers")
    if not (split.inputs.is_floating_point() and split.targets.is_floating_point()):
        raise XtoolError(f"{where} holds whole numbers")
    for name, errors in exact(split.extra).items():
        if errors.shape != split.targets.shape:
            raise XtoolError(f"{where} has `extra.{name}`, which are no errors of its targets")


def require_fit(config: Mapping[str, Any], data: Header, where: str) -> None:
    """Raise XtoolError unless a model reads and writes what the data has."""
    shape = task_of(data, where).shape(data)
    if bool(shape.d_input) != bool(config.get("d_input")):
        reads, holds = ("numbers", "symbols")[:: 1 if config.get("d_input") else -1]
        raise XtoolError(
            f"{where}: the data hold {holds}, the model reads {reads}",
            "prepare the data like the model's own; see `xtool inspect`",
        )
    if shape.d_input:
        _require_prompts(config, shape, where)
        return
    for name, needed in vars(shape).items():
        if needed is not None and config.get(name) != needed:
            raise XtoolError(
                f"the data needs `{name}` {needed}, the model has {config.get(name)}",
                "prepare the data like the model's own; see `xtool inspect`",
            )


def _require_prompts(config: Mapping[str, Any], shape: Shape, where: str) -> None:
    """Raise XtoolError unless a model reads prompts: as many numbers, and no more positions.

    Positions that are told by no table go on.
    """
    if config["d_input"] != shape.d_input:
        raise XtoolError(
            f"{where}: its points have {shape.d_input} `dims`, the model reads {config['d_input']}",
            f"prepare prompts with `--dims {config['d_input']}`",
        )
    most = config["context"]
    attention = str(config.get("attention", "plain"))
    tables = registry.literal("layers/attention", attention, "AXES", {}).values()
    tabled = config.get("positions") in TABLED or any("context" in axes for axes in tables)
    if shape.context and shape.context > most and tabled:
        raise XtoolError(
            f"{where}: a prompt has {shape.context} positions, two a point; the model reads {most}",
            f"`--points {most // 2}` at most, or a model without values for each position, such as "
            "`--positions rotary`",
        )


def fitted(data: Dataset, model: Header, where: str) -> Dataset:
    """Data as a model reads it, a running text as windows of its context.

    Args:
        data: as it was opened.
        model: the model's header.
        where: the data's name, for errors.

    Raises:
        XtoolError: the model reads or writes something else, or a text is shorter than its context.
    """
    require_fit(model.config, data.header, where)
    if model.tokenizer and model.tokenizer != data.header.tokenizer:
        raise XtoolError(
            f"{where}: its symbols stand for other characters than the model's, though there are "
            "as many",
            "prepare the data like the model's own; see `xtool inspect`",
        )
    return data.cut(model.config["context"])
