"""What dials may be, alone and together; a run begins only where all of it holds."""

import math
from collections.abc import Mapping
from typing import Any

from xtool import registry
from xtool.config import LARGEST
from xtool.dataset import Dataset
from xtool.errors import UsageError, unknown
from xtool.evaluation.score import metrics
from xtool.header import Header
from xtool.tasks import task_of
from xtool.training.hierarchy import Hierarchy
from xtool.training.optimizers import FOLDER as OPTIMIZERS
from xtool.training.parallel import Processes

MAX_REPLICAS = 1024
MOST = 1e15  # of counts, and of factors
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


def check_nest(
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
