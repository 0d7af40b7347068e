"""Setting a run up: data, architecture and dials become a `Run`, its model with first values."""

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from shutil import which
from typing import Any

import torch
from torch import nn

from xtool import registry
from xtool.archs import (
    build,
    canonical,
    checked,
    configured,
    fill,
    start,
    start_gains,
    start_sizes,
    training_flops,
)
from xtool.axes import REPLICAS, RESIDUAL, SIZES, Layout, layout, one_model
from xtool.checkpoint import model_reader
from xtool.config import LARGEST, options
from xtool.dataset import Dataset
from xtool.errors import UsageError, XtoolError, unknown
from xtool.evaluation.importance import calibrating, sort_units
from xtool.evaluation.score import metrics
from xtool.header import Header
from xtool.inputs import read_bytes
from xtool.lineage import Step, step
from xtool.storage import Source
from xtool.tasks import Shape, fitted, task_of
from xtool.training.dials import REPORT
from xtool.training.hierarchy import Hierarchy
from xtool.training.optimizers import FOLDER as OPTIMIZERS
from xtool.training.optimizers import Slot
from xtool.training.parallel import Processes, check_parallel
from xtool.training.replicas import stacked
from xtool.training.routes import choose
from xtool.training.run import Run
from xtool.training.state import restore

ATTENTION = "layers/attention"
DEVICES = ("auto", "cpu", "cuda", "mps")
COMPILERS = ("g++", "clang++", "c++")
ALONE = Processes()
MAX_THREADS = 1024
MAX_REPLICAS = 1024
# Of the weights; with bf16 it is products that are rounded.
DTYPES = {"fp32": torch.float32, "fp64": torch.float64, "bf16": torch.float32}
OF_SIZES = ("nest", "nest_gain", "nest_weights")
WIDTHS = [name for name in SIZES if name.startswith("d_") and name != RESIDUAL]


def preset(arch: str, name: str | None, d_model: int | None) -> dict[str, Any]:
    """A preset's dials; another d_model scales its other widths in their ratios.

    Raises:
        UsageError: the architecture has no such preset, or a width would not be whole.
    """
    if name is None:
        return {}
    presets = registry.literal("archs", arch, "PRESETS", {})
    if name not in presets:
        raise unknown("preset", name, presets)
    dials = dict(presets[name])
    if d_model is not None and "d_model" in dials:
        for width in WIDTHS:
            if dials.get(width):
                scaled, rest = divmod(dials[width] * d_model, dials["d_model"])
                if rest or not scaled:
                    raise UsageError(
                        f"preset `{name}`: `{width}` ({dials[width]} at `d_model` "
                        f"{dials['d_model']}) is not whole at {d_model}"
                    )
                dials[width] = scaled
    return dials


def device_of(name: str) -> torch.device:
    """The device for `auto`, `cpu`, `cuda` or `mps`.

    Raises:
        XtoolError: this machine or this build of torch has none.
    """
    if name not in DEVICES:
        raise unknown("device", name, DEVICES)
    usable = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next((kind for kind, there in usable.items() if there), "cpu")
    if not usable.get(name, True):
        raise XtoolError(f"no `{name}` device can be used here", "use `--device auto`")
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return torch.device(name)


def threads_of(wanted: int | None) -> int:
    """Set the number of CPU threads, and return it."""
    if wanted is not None:
        if not 1 <= wanted <= MAX_THREADS:
            raise UsageError(f"`--threads` is {wanted}, it must be 1 to {MAX_THREADS}")
        torch.set_num_threads(wanted)
    return torch.get_num_threads()


def fresh_config(
    arch: str, dials: Mapping[str, Any], data: Header, context: int | None = None
) -> dict[str, Any]:
    """The configuration of a new model for this data.

    Args:
        arch: the architecture.
        dials: the architecture's.
        data: the header of the data.
        context: positions of an example, where the data leave them free.

    Raises:
        UsageError: dials that contradict each other, or another context than that of the data.
    """
    shape: Shape = task_of(data, "data").shape(data)
    if context is not None and context != (shape.context or context):
        raise UsageError(
            f"`--context` is {context}, the examples of the data have {shape.context} positions",
            "leave it out; it is for a running text",
        )
    context = shape.context or context
    if context is None or context < 1:
        raise UsageError(f"`--context` is {context}, it must be at least 1")
    shape = replace(shape, context=context)
    config: dict[str, Any] = {"arch": arch, **dials}
    _require_window(config, context)
    if sources := registry.source_digests([arch, str(dials.get("attention"))]):
        config["sources"] = sources
    return _with_nest(configured(config, shape))


def _require_nest(config: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Raise UsageError for other nested sizes than those that have gains of their own already."""
    if not config.get("nest") or config["nest_gain"] != "own":
        return
    given = {name: config[name] if asked.get(name) is None else asked[name] for name in OF_SIZES}
    if canonical({**config, **given}) != config["nest"] or given["nest_gain"] != "own":
        raise UsageError(
            f"`nest` is {config['nest']} in the model given with `--from`, whose sizes have their "
            "own gains",
            f"`xtool slice --to {config['d_model']}` takes it out whole, with no size inside",
        )


def _with_nest(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration with its nested sizes as they stand in headers."""
    return config | {"nest": canonical(config)} if config.get("nest") else config


def trained_config(config: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a trained model, with what may be tuned on it changed.

    Raises:
        UsageError: a dial that the model's tensors depend on was asked to differ.
    """
    tunable = [*registry.literal("archs", config["arch"], "TUNABLE", [])]
    _require_nest(config, asked)
    before, variant = config.get("attention"), asked.get("attention") or config.get("attention")
    if variant != before:
        config = _with_attention(config, str(variant))
        tunable += ["attention", *(dial.name for dial in options(ATTENTION, str(variant)))]
    elif before:
        tunable += registry.literal(ATTENTION, before, "TUNABLE", [])
    for name, value in asked.items():
        if value is not None and value != config.get(name) and name not in tunable:
            raise UsageError(
                f"`{name}` is {config.get(name)} in the model given with `--from`, not {value}",
                "`xtool grow` and `xtool slice` change a trained model",
            )
    if asked.get("window") is not None:
        _require_window(asked, config["context"])
    tuned = _with_nest(dict(config) | {k: v for k, v in asked.items() if v is not None})
    return tuned if variant == before else checked(tuned)


def _with_attention(config: Mapping[str, Any], variant: str) -> dict[str, Any]:
    """The configuration with another variant: dials that both have stay, the rest is default."""
    before = {dial.name for dial in options(ATTENTION, str(config["attention"]))}
    kept = {name: value for name, value in config.items() if name not in before}
    own = {d.name: config.get(d.name, d.default) for d in options(ATTENTION, variant)}
    kept = {name: value for name, value in kept.items() if name != "sources"}
    if sources := registry.source_digests([str(config["arch"]), variant]):
        kept["sources"] = sources
    return kept | own | {"attention": variant}


def _require_window(dials: Mapping[str, Any], context: int) -> None:
    """Raise UsageError for a window that is asked to be longer than the inputs.

    A cut context may leave a model's own window longer, which changes nothing.
    """
    window = dials.get("window")
    if window is not None and not 1 <= window <= context:
        raise UsageError(
            f"`window` is {window}, it must be 1 to `context` ({context})",
            "leave it out for the default, or lengthen `--context`",
        )


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
    _check_nest(config, dials, processes, data.header)
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
        flops=training_flops(config),
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
    report = {dial.name for dial in REPORT} | {"seed", "threads", "categories"}
    used = {name: value for name, value in dials.items() if name not in report}
    new = {k: v for k, v in config.items() if k != "sources" and (k not in was or was[k] != v)}
    return step("train", {**new, **used}, inputs, dials["seed"])


MOST = 1e15  # of what is counted one by one
RANGES = {
    "epochs": (0, MOST),
    "steps": (0, MOST),
    "max_flops": (0, LARGEST["float"]),
    "max_time": (0, LARGEST["float"]),
    "patience": (1, MOST),
    "accumulate": (1, MOST),
    "decay_part": (0, 1),
    "batch_size": (1, MOST),
    "warmup": (0, MOST),
    "weight_decay": (0, MOST),
    "clip": (0, MOST),
    "eval_every": (1, MOST),
    "save_every": (1, MOST),
}


def check_dials(dials: Mapping[str, Any], data: Dataset) -> None:
    """Raise UsageError for a training dial outside its range."""
    for name, (low, high) in RANGES.items():
        if dials[name] is not None and not low <= dials[name] <= high:
            raise UsageError(f"`{name}` is {dials[name]}, it must be {low} to {high:g}")
    for name in ("lr", "adam_eps"):
        if dials[name] <= 0:
            raise UsageError(f"`{name}` is {dials[name]}, it must be above 0")
    for name in ("beta1", "beta2", "ema"):
        if not 0 <= dials[name] < 1:
            raise UsageError(f"`{name}` is {dials[name]}, it must be at least 0 and below 1")
    _check_replicas(dials)
    if dials["reach"]:
        metric, _, value = dials["reach"].partition("=")
        try:
            finite = math.isfinite(float(value))
        except ValueError:
            finite = False
        if not finite:
            raise UsageError(f"`--reach {dials['reach']}` is not METRIC=VALUE")
        known = metrics(task_of(data.header, "data"), data.split("dev"))
        if metric not in known:
            raise unknown("metric", metric, known)


def _check_nest(
    config: Mapping[str, Any], dials: Mapping[str, Any], processes: Processes, data: Header
) -> None:
    """Raise UsageError for what several sizes of one model cannot be trained with."""
    hierarchy = dials["categories"] or dials["emergent"] != "none"
    if hierarchy:
        Hierarchy(config, dials, data, {})
        if dials["replicas"] > 1:
            raise UsageError("a hierarchy of tokens is of one model", "leave out `--replicas`")
    if dials["every"] < 1:
        raise UsageError(f"`every` is {dials['every']}, it must be at least 1")
    if not config.get("nest"):
        return
    if dials["compile"]:
        raise UsageError("`--compile` compiles one model, `--nest` runs several", "leave it out")
    if processes.count > 1:
        raise UsageError("`--nest` is for one process", "start it without torchrun")


def _check_replicas(dials: Mapping[str, Any]) -> None:
    if not 1 <= dials["replicas"] <= MAX_REPLICAS:
        raise UsageError(f"`replicas` is {dials['replicas']}, it must be 1 to {MAX_REPLICAS}")
    if dials["replicas"] > 1 and registry.literal(
        OPTIMIZERS, dials["optimizer"], "MATRICES", False
    ):
        raise UsageError(
            f"`{dials['optimizer']}` takes plain matrices, those of replicas have an axis more",
            "train the replicas one by one, or use another `--optimizer`",
        )
    for name in ("reach", "keep_best", "patience", "compile"):
        if dials["replicas"] > 1 and dials[name]:
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(
                f"`{flag}` follows one model, `--replicas` is {dials['replicas']}",
                f"leave `{flag}` out, or train the replicas one by one",
            )
