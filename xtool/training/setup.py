"""Setting a run up: data, architecture and dials become a `Run`, its model with first values."""

import hashlib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from shutil import which
from typing import Any

import torch
from torch import nn

from xtool.archs import (
    build,
    fill,
    start,
    start_gains,
    start_sizes,
)
from xtool.axes import REPLICAS, Layout, layout, one_model
from xtool.checkpoint import model_reader
from xtool.dataset import Dataset
from xtool.errors import UsageError, XtoolError
from xtool.evaluation.importance import calibrating, sort_units
from xtool.header import Header
from xtool.inputs import read_bytes
from xtool.lineage import Step, step
from xtool.storage import Source
from xtool.tasks import fitted, task_of
from xtool.training.checks import check_dials, check_nest
from xtool.training.devices import device_of, threads_of
from xtool.training.optimizers import Slot
from xtool.training.parallel import Processes, check_parallel
from xtool.training.replicas import stacked
from xtool.training.routes import choose
from xtool.training.run import Run, not_in_files
from xtool.training.state import restore

COMPILERS = ("g++", "clang++", "c++")
ALONE = Processes()
# Of the weights; with bf16 it is products that are rounded.
DTYPES = {"fp32": torch.float32, "fp64": torch.float64, "bf16": torch.float32}


def set_up(
    data: Dataset,
    parent: Path | None,
    config: Mapping[str, Any],
    dials: Mapping[str, Any],
    out: Path,
    processes: Processes = ALONE,
) -> Run:
    """Everything that the loop needs.

    Args:
        data: the examples.
        parent: the trained model, or training state, to go on from; None starts fresh.
        config: the model's configuration.
        dials: every training dial.
        out: the model's path.
        processes: those that share the run.

    Raises:
        XtoolError: the parent is unreadable, or the data do not fit the model.
        UsageError: a dial outside its range.
    """
    data = data.cut(config["context"])
    check_dials(dials, data)
    check_parallel(processes, dials)
    config = one_model(config)
    check_nest(config, dials, processes, data.header)
    ours, count = layout(config), int(dials["replicas"])
    models = [build(config).to(DTYPES[dials["precision"]]) for _ in range(count)]
    inputs, steps = {"data": data.header.digest}, list(data.header.lineage)
    before: Mapping[str, Any] = {}
    slots: dict[str, Slot] = {}
    was: Mapping[str, Any] = {}
    if parent is None:
        for replica, model in enumerate(models):
            start(model, ours, dials["seed"] + replica)
            if config.get("nest"):
                start_sizes(model, config)
    else:
        header, slots = _fill_from(models, ours, parent, dials["seed"])
        if config.get("nest") and header.kind == "model" and not header.config.get("nest"):
            _sort(models, config, fitted(data, header, "the data"))
        fitted(data, header, "the data")
        inputs["from"], before = header.digest, header.training.get("progress", {})
        steps, was = list(header.lineage), header.config
    if dials["categories"]:
        raw = read_bytes(Path(dials["categories"]), "give a file of categories")
        inputs["categories"] = hashlib.sha256(raw).hexdigest()
    threads = threads_of(dials["threads"])
    device = device_of(dials["device"])
    if device.type == "mps" and dials["precision"] == "fp64":
        raise UsageError("`mps` has no double precision", "use `--device cpu`")
    if dials["compile"] and device.type == "cpu" and not any(map(which, COMPILERS)):
        raise XtoolError("`--compile` needs a C++ compiler, and none is found", "install g++")
    final = dict(dials) | {"device": device.type}
    if count > 1:
        config = config | {REPLICAS: count}
    sharded = processes.count > 1 and dials["parallel"] == "fsdp"
    model = (models[0] if count == 1 else stacked(models)).to(device)
    return Run(
        model=model,
        layout=layout(config),
        config=config,
        task=task_of(data.header, "data"),
        data=data,
        dials=final,
        before=before,
        lineage=[*steps, _step(config, was, final, inputs)],
        out=out,
        threads=threads,
        route=choose(dials["route"], device.type, config, dials),
        slots=slots,
        averaged=deepcopy(model).requires_grad_(False) if final["ema"] or sharded else None,
        processes=processes,
    )


def _fill_from(
    models: Sequence[nn.Module], ours: Layout, parent: Path, seed: int
) -> tuple[Header, dict[str, Slot]]:
    """Give each model the values of its replica, or all those of the one model of the file.

    What another attention variant has beyond those begins as in a fresh model.
    """
    with Source(parent) as source:
        header = source.require_header("model", "resume")
        held = header.replicas
        if held not in (1, len(models)) or (header.kind == "resume" and len(models) > 1):
            raise UsageError(
                f"{parent}: a {header.kind} file of {held} replicas cannot start {len(models)}",
                f"`--replicas {held}`, or take one out with `xtool slice --replica`",
            )
        theirs, own = (config.get("attention") for config in (header.config, ours.config))
        if header.kind == "resume":
            if theirs != own:
                raise UsageError(
                    f"{parent}: the training state is of attention `{theirs}`, not `{own}`",
                    "begin with the model in place of the state",
                )
            return restore(models[0], ours, parent)
        for replica, model in enumerate(models):
            if theirs != own:
                start(model, ours, seed + replica)
            reader = model_reader(source, verify=not replica, replica=replica % held)
            nested = bool(ours.config.get("nest"))
            fill(model, ours, reader, more=theirs != own or nested)
            if nested:
                start_gains(model, reader.names)
    return header, {}


def _sort(models: Sequence[nn.Module], config: Mapping[str, Any], data: Dataset) -> None:
    """Sort the units of trained models before anything smaller is nested in them."""
    if not config["nest_sort"]:
        return
    for model in models:
        sort_units(model, layout(config), calibrating(data))
        start_gains(model, ())


def _step(
    config: Mapping[str, Any],
    was: Mapping[str, Any],
    dials: Mapping[str, Any],
    inputs: dict[str, str],
) -> Step:
    """The step of the lineage: every training dial, and what differs from the model before."""
    report = not_in_files(dials) | {"seed"}
    used = {name: value for name, value in dials.items() if name not in report}
    new = {k: v for k, v in config.items() if k != "sources" and (k not in was or was[k] != v)}
    return step("train", {**new, **used}, inputs, dials["seed"])
