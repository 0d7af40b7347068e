"""Evaluating model files: rows of one model, and the paired difference of two."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xtool.archs import (
    Loops,
    Size,
    axes_of,
    count_size,
    empty,
    model_header,
    parse_size,
    read_model,
    require_size,
    size_of,
    sized,
    sizes_of,
)
from xtool.archs import count as parameters
from xtool.axes import SIZES
from xtool.dataset import Dataset, Drawn, data_of
from xtool.errors import UsageError, XtoolError
from xtool.evaluation.details import Detail, DetailRequest, details
from xtool.evaluation.differences import Counterparts
from xtool.evaluation.score import columns_of_model, score_rows, scores
from xtool.evaluation.sizes import (
    SizeRequest,
    beside,
    groups_of,
    middle,
    over_groups,
    tokens_per_second,
)
from xtool.evaluation.trace import trace, trace_rows
from xtool.header import Header
from xtool.inputs import decode, read_bytes
from xtool.layers._trace import Trace
from xtool.rows import Row, read, row
from xtool.tasks import fitted, open_data, task_of


class Scored(NamedTuple):
    """What is known of a model, all but the first two by split."""

    header: Header
    params: int
    metrics: dict[str, dict[str, Tensor]]
    traces: dict[str, list[Trace]]
    details: dict[str, list[Detail]]
    speeds: dict[str, list[float]]


class Evaluator:
    """Evaluates models on a device; a data file is read once for all of them.

    Args:
        data: the data file; None looks for that of each model's lineage.
        splits: which splits; `all` stands for every one.
        device: where to compute.
        trace: `heads` also looks into the attention of each head, `maps` at its weights too.
        asked: which scores to tell apart beside.
        sizes: which of a model's sizes; none scores it whole.
    """

    def __init__(
        self,
        data: Path | None,
        splits: Sequence[str],
        device: torch.device,
        trace: str | None = None,
        asked: DetailRequest | None = None,
        sizes: SizeRequest | None = None,
    ) -> None:
        self.asked, self.sizes = asked, sizes or SizeRequest()
        self.data, self.splits, self.device, self.trace = data, splits, device, trace
        self._read: dict[Path, Dataset] = {}
        self._kept: dict[tuple[Path, int, Path, str, bool], Scored] = {}
        self._axes: list[str] = []

    def rows(self, path: Path, label: str | None, against: Sequence[Path] = ()) -> list[Row]:
        """Every metric of a model, its baselines, and differences from another model.

        Of several models to compare with, each size is compared with the one of its own sizes, if
        there is one. Parameters of a size are what it runs on; those of a model that is scored
        without a word of sizes are all in its file, gains of the sizes inside among them.

        Raises:
            UsageError: a size that the model has not, or none of the models to compare with is as
            large as one of the sizes.
            XtoolError: an unreadable file, data that is not found or does not fit.
        """
        header, out = model_header(path), []
        twins = [(size, _twin(header.config, size, against)) for size in self._sizes(header, path)]
        if against and not any(twin for _, twin in twins):
            labels = ", ".join(f"`{size.label if size else 'all'}`" for size, _ in twins)
            raise UsageError(
                f"none of the models of `--against` is as large as {labels} of {path}",
                "one model alone is compared with every size",
            )
        for size, other in twins:
            count, others = header.replicas, model_header(other).replicas if other else 1
            if others not in (1, count):
                raise XtoolError(f"{path} holds {count} models, {other} {others}: no pairs")
            for replica in range(count):
                pair = (other, replica % others) if other else None
                out += self._rows_of_one(path, replica if count > 1 else None, label, pair, size)
        return out

    def _sizes(self, header: Header, path: Path) -> list[Size | None]:
        """The sizes to score; None is the whole model, without a word of sizes."""
        if not self.sizes.labels:
            return [None]
        config = {"nest": None, **header.config}
        if axes := axes_of(config):
            self._axes = [*axes]
        found = []
        for label in self.sizes.labels:
            if label != "all":
                found.append(parse_size(label, config))
            elif axes:
                found += sizes_of(config)
            else:  # the twin of a nested one, called as that calls its sizes
                names = [name for name in self._axes if name in config] or ["d_model"]
                found.append(size_of(config, {name: config[name] for name in names}))
        for size in found:
            require_size(config, size, str(path), self.sizes.untrained)
        return [*found]

    def _rows_of_one(
        self,
        path: Path,
        replica: int | None,
        label: str | None,
        pair: tuple[Path, int] | None,
        size: Size | None,
    ) -> list[Row]:
        data = self._data_path(path)
        scored = self._scores(path, replica or 0, data, size)
        header, params, found, traces, detailed, speeds = scored
        against = pair[0] if pair else None
        other = self._scores(*pair, data, paired=True) if pair else None
        if other and other.header.config["context"] != header.config["context"]:
            raise XtoolError(
                f"{path} has `context` {header.config['context']}, {against} "
                f"{other.header.config['context']}: their examples differ, so there are no pairs"
            )
        base = columns_of_model(header, params) | {
            "label": label or _label(header, path),
            "digest": header.digest,
            "data": self._read[data].header.digest[:12],
            "device": self.device.type,
            **_seconds(header, path),
        }
        if replica is not None:
            base |= {"replica": replica, "seed": base["seed"] + replica}
        if size:
            base["size"] = size.label
        out = []
        for split, metrics in found.items():
            out += score_rows(metrics, split=split, **base)
            if times := speeds.get(split):
                value, low, high = middle(times)
                numbers = {"value": value, "low": low, "high": high, "n": len(times)}
                out.append(row(metric="tokens_per_second", split=split, **numbers, **base))
            for columns, cell in detailed.get(split, []):
                own = base
                if "label" in columns:  # an exact method's, the same beside every model
                    own = {name: base[name] for name in ("task", "data")}
                out += score_rows(cell, split=split, **columns, **own)
            out += trace_rows(traces.get(split, []), self.trace == "maps", split=split, **base)
            if other and against:
                twin = Counterparts(other.details.get(split, []), other.metrics[split])
                told = {"split": split, "against": _label(other.header, against), **base}
                out += twin.rows(metrics, detailed.get(split, []), **told)
        return out

    def loss(self, path: Path, size: Size) -> float:
        """The mean loss of a size on the first of the splits."""
        found = self._scores(path, 0, self._data_path(path), size)
        return float(found.metrics[self.splits[0]]["loss"].mean())

    def rows_of_size(self, path: Path, label: str | None, size: Size) -> list[Row]:
        """The rows of one size of a file of one model."""
        return self._rows_of_one(path, None, label, None, size)

    def _data_path(self, path: Path) -> Path:
        """The data that were given, or those of a model's lineage."""
        if not self.data:
            model_header(path)  # what is no model has no data either
        return data_of(path, self.data)

    def _scores(
        self, path: Path, replica: int, data: Path, size: Size | None = None, paired: bool = False
    ) -> Scored:
        """The header, parameters and scores by split of a model; each is computed once.

        One that others stand beside need not loop where they do.
        """
        looped = bool(self.asked and self.asked.looped)
        paired = paired and looped and not isinstance(empty(model_header(path).config), Loops)
        key = (path, replica, data, size.label if size else "", paired)
        if key not in self._kept:
            self._kept[key] = self._score(path, replica, data, size, paired)
        return self._kept[key]

    def _score(
        self, path: Path, replica: int, data_path: Path, size: Size | None, paired: bool
    ) -> Scored:
        changes = size.changes if size else {}
        header, _, model = read_model(path, replica, size=changes)
        large = read_model(path, replica, verify=False)[2].to(self.device) if changes else None
        if data_path not in self._read:
            self._read[data_path] = open_data(data_path)
        data = fitted(self._read[data_path], header, str(data_path))
        task = task_of(data.header, str(data_path))
        model = model.to(self.device)
        found, traces, detailed, speeds = {}, {}, {}, {}
        for split in data.splits if "all" in self.splits else self.splits:
            if self.splits == ["all"] and isinstance(data.splits[split], Drawn):
                continue
            chosen = data.stored(split)
            found[split] = scores(model, task, chosen)
            found[split] |= task.baselines(data.split("train"), chosen)
            if large is not None:
                found[split] |= beside(large, model, chosen)
            if groups := groups_of(header.training.get("categories"), changes):
                found[split]["group_excess"] = over_groups(model, chosen, groups)
            if self.sizes.speed:
                speeds[split] = tokens_per_second(model, chosen)
            if asked := self.asked:
                if paired:
                    asked = DetailRequest(by_examples=asked.by_examples)
                detailed[split] = details(model, task, chosen, asked)
            if self.trace:
                traces[split] = trace(model, chosen)
        # Gains of the sizes inside are no part of what a size runs on.
        params = count_size(header.config, changes) if size else parameters(model)
        return Scored(header, params, found, traces, detailed, speeds)


def _label(header: Header, path: Path) -> str:
    return str(header.training.get("label") or path.name.removesuffix(".st"))


def _twin(config: Mapping[str, Any], size: Size | None, others: Sequence[Path]) -> Path | None:
    """The one model, or of several that of a size's own sizes, if there is one."""
    if len(others) < 2:
        return others[0] if others else None
    wanted = sized({"nest": None, **config}, size.changes if size else {})
    for path in others:
        theirs = model_header(path).config
        if all(theirs.get(name) == wanted.get(name) for name in SIZES):
            return path
    return None


def _seconds(header: Header, path: Path) -> dict[str, float | None]:
    """Training seconds of the model's own run and of its lineage, from the journals beside it.

    A header holds no clock, so the seconds stand in the rows files. A run is found by its digest:
    first in the journals beside the model, then in those of the working folder, both in the order
    of their names. None where a run of the lineage has no journal there.
    """
    known: dict[str, float] = {}
    for folder in dict.fromkeys((path.resolve().parent, Path.cwd())):
        for journal in sorted(folder.glob("*.rows.jsonl")):
            known = _journal_seconds(journal) | known
    digests = [header.digest]
    for one in reversed(header.lineage):
        digests += [one.inputs[role] for role in ("from", "model") if role in one.inputs]
    runs = [digest for digest in digests if digest in known]
    trains = sum(one.command == "train" for one in header.lineage)
    whole = sum(known[digest] for digest in runs) if len(runs) == trains else None
    return {"seconds": known.get(header.digest), "lineage_seconds": whole}


def _journal_seconds(journal: Path) -> dict[str, float]:
    """By its digest, the seconds of the run that a journal ends with; nothing of a broken one."""
    try:
        lines = decode(read_bytes(journal, ""), journal.name).splitlines()[-1:]
        rows = read(lines[0], journal.name) if lines else []
    except XtoolError:
        return {}
    return {r["digest"]: float(r["value"]) for r in rows if r["metric"] == "train_seconds"}
