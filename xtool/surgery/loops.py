"""Between looped and deep models: unroll the loops of one, fold the other into loops.

Unrolling gives each loop a copy of the blocks, and is exact to the bit. Folding averages the blocks
that stand at the same place of each loop, and may keep a low-rank part of what each differs by, as
Bae et al. (2024, arXiv:2410.20672) begin their recursive models; it is not exact.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from xtool import registry
from xtool.archs import checked, empty, open_model, stored_names
from xtool.axes import FIRST, SECOND, Layout, difference_name, layout, loop_of, matrix_of
from xtool.checkpoint import NAMES, Reader, save_streamed
from xtool.config import OTHER, SHAPE, model_options
from xtool.dataset import Dataset
from xtool.errors import UsageError
from xtool.layers.loops import differing
from xtool.lineage import step
from xtool.storage import Source
from xtool.surgery.proof import Proof, compare, require_exact
from xtool.writing import Spec

Sources = Mapping[int, Sequence[int]]


def unroll(path: Path, out: Path) -> tuple[str, Proof]:
    """Give each loop of a looped model blocks of its own, equal to those that it had.

    Without injection, loop norm and registers the result is a `gpt`; not where attention passes
    something from layer to layer, which a loop begins anew.

    Returns:
        what changed, and the proof on the written file.

    Raises:
        UsageError: the model does not loop, or its loops have their own blocks already.
        CheckFailed: the outputs are not equal to the bit.
    """
    with Source(path) as source:
        reader = _one_model(source)
        config = dict(reader.layout.config)
        if config["arch"] != "looped" or config.get("untied"):
            raise UsageError(f"{path}: its loops do not share blocks", "unroll a looped model")
        own, count = config["n_layers"], config["n_layers"] * config["n_loops"]
        # All loops have blocks that are to learn, so the loss is of all.
        new = config | {"n_layers": count, "untied": True, "loop_rank": 0, "loss_loops": None}
        if isinstance(config.get("d_ff"), list):
            new["d_ff"] = config["d_ff"] * config["n_loops"]
        passed = registry.literal("layers/attention", config["attention"], "PASSED", [])
        plain = config["injection"] == "none" and not config["loop_norm"] and not passed
        if plain and not config.get("registers"):
            new = _dials_of("gpt", new)
        said = (
            f"n_layers {own} -> {count}, {new['arch']}, each loop with its own{_left_out(config)}"
        )
        sources = {layer: [layer % own] for layer in range(count)}
        options = {"n_loops": config["n_loops"]}
        return said, _write(reader, out, "unroll", options, new, sources, exact=True)


def fold(
    path: Path, out: Path, loops: int, data: Dataset | None = None, rank: int = 0
) -> tuple[str, Proof]:
    """Make a deep model loop: blocks that are the mean of those at their place of each loop.

    Args:
        path: a `gpt`, which then has no injection, or a looped model with untied loops.
        out: where the looped model goes.
        loops: how many.
        data: to give the loss before and after on.
        rank: of what each loop keeps of its matrices' difference from the mean, the nearest of so
            low a rank; 0 for nothing.

    Returns:
        what changed, and how far the outputs moved.

    Raises:
        UsageError: an architecture that cannot loop, or a depth that the loops do not divide.
    """
    with Source(path) as source:
        reader = _one_model(source)
        config = dict(reader.layout.config)
        untied = config["arch"] == "looped" and config.get("untied")
        if config["arch"] != "gpt" and not untied:
            raise UsageError(
                f"{path}: cannot fold `{config['arch']}`",
                "fold a `gpt`, or a looped model with untied loops",
            )
        if untied and loops != config["n_loops"]:
            raise UsageError(f"{path} has {config['n_loops']} loops, not {loops}")
        if loops < 1 or config["n_layers"] % loops:
            raise UsageError(
                f"`n_layers` ({config['n_layers']}) must be divisible by {loops} loops"
            )
        if not 0 <= rank <= config["d_model"]:
            raise UsageError(f"`--rank` is {rank}, it must be 0 to {config['d_model']}")
        own = config["n_layers"] // loops
        new = config | {"n_layers": own, "untied": False, "loop_rank": rank}
        if isinstance(each := config.get("d_ff"), list):
            if each != each[:own] * loops:
                raise UsageError(
                    f"{path}: layers that would be one have different `d_ff`: {each}",
                    "`xtool slice --d-ff` makes them alike",
                )
            new["d_ff"] = each[:own]
        if not untied:
            new |= {"n_loops": loops, "injection": "none", "loop_norm": False}
            new = _dials_of("looped", new)
        said = f"n_layers {config['n_layers']} -> {own}, {loops} loops of the mean"
        said += f", each with a difference of rank {rank}" if rank else ""
        said += _left_out(config)
        sources = {layer: range(layer, config["n_layers"], own) for layer in range(own)}
        options = {"n_loops": loops} | ({"rank": rank} if rank else {})
        return said, _write(reader, out, "fold", options, new, sources, exact=False, data=data)


def _left_out(config: Mapping[str, Any]) -> str:
    """What to say where a model has nested sizes, which the result has not."""
    return f"; without its nested sizes `{config['nest']}`" if config.get("nest") else ""


def _one_model(source: Source) -> Reader:
    """Raise UsageError for a file of several."""
    count = source.require_header("model").replicas
    if count > 1:
        raise UsageError(f"{source.path} holds {count} models", "`xtool slice --replica` takes one")
    return open_model(source)


def _dials_of(arch: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of another architecture: its dials as given, the others by default."""
    dials = {dial.name: dial.default for dial in model_options(arch, values["attention"])}
    kept = {name: values[name] for name in (*dials, *SHAPE, *OTHER) if name in values}
    return dials | kept | {"arch": arch}


def _write(
    reader: Reader,
    out: Path,
    command: str,
    options: Mapping[str, Any],
    config: dict[str, Any],
    sources: Sources,
    exact: bool,
    data: Dataset | None = None,
) -> Proof:
    """Write the model whose layers are the means of old ones, and compare."""
    header = reader.source.require_header()
    if config.get("nest"):
        config = {**config, "nest": None, "nest_weights": None}
    new = layout(checked(config))
    values = Values(reader, new, sources)
    names = stored_names(empty(new.config), new)
    specs = [
        Spec(name, NAMES[reader.dtype(values.source(name))], new.shape(name)) for name in names
    ]
    done = step(command, options, {"model": header.digest}, 0)
    made = {"config": dict(new.config), "lineage": [*header.lineage, done]}
    found: list[Proof] = []

    def prove(temporary: Path) -> None:
        with Source(temporary) as written:
            tolerance = 0.0 if exact else None
            found.append(compare(reader, open_model(written), 0, tolerance, data))
            if exact:
                require_exact(found[0], command)

    update = made | {"training": header.inherited()}
    save_streamed(out, header.model_copy(update=update), specs, values.rows, prove=prove)
    return found[0]


class Values:
    """The tensors of a model that loops otherwise than the one they come from.

    Args:
        reader: the old model.
        new: layout of the new one.
        sources: by new layer the old ones that it is the mean of.
    """

    def __init__(self, reader: Reader, new: Layout, sources: Sources) -> None:
        self.reader, self.old, self.new, self.sources = reader, reader.layout, new, sources
        self.each = self.old.config["n_layers"]  # layers of an old loop whose blocks are shared
        self._kept: tuple[str, Any] = ("", None)

    def source(self, name: str) -> str:
        """The first old tensor that a new one comes from."""
        layer = self.new.layer(name)
        return name if layer is None else _named(matrix_of(name), layer, self.sources[layer][0])

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Rows [start, stop) of a new tensor."""
        layer = self.new.layer(name)
        if layer is None:
            return self.reader.rows(name, start, stop)
        if name.endswith((FIRST, SECOND)):
            key = name.rpartition(".")[0]
            found: Tensor = self._once(key, self._difference)[name.endswith(SECOND)]
            return found[start:stop]
        olds = [_named(name, layer, old) for old in self.sources[layer]]
        if self._added(olds[0], layer, FIRST) in self.reader.names:
            whole: Tensor = self._once(name, self._own)
            return whole[start:stop]
        return mean([self.reader.rows(old, start, stop) for old in olds])

    def _once(self, key: str, make: Callable[[str], Any]) -> Any:
        """What is made of a name, kept until another is asked for."""
        if self._kept[0] != key:
            self._kept = key, make(key)
        return self._kept[1]

    def _added(self, old: str, layer: int, part: str) -> str:
        """Where the old model's loop, which becomes a layer, keeps a part of its difference."""
        return difference_name(old, part, layer // self.each) if old.endswith(".weight") else ""

    def _own(self, name: str) -> Tensor:
        """The matrix of one loop of a model whose loops have differences."""
        layer = self.new.layer(name)
        assert layer is not None
        old = _named(name, layer, self.sources[layer][0])
        first, second = (self.reader.tensor(self._added(old, layer, p)) for p in (FIRST, SECOND))
        return differing(self.reader.tensor(old), second, first)

    def _difference(self, key: str) -> tuple[Tensor, Tensor]:
        """What one loop's matrix differs by from the mean, as two factors (Eckart and Young)."""
        weight, layer = matrix_of(f"{key}.{FIRST}"), self.new.layer(f"{key}.{FIRST}")
        assert layer is not None
        each = [self.reader.tensor(_named(weight, layer, old)) for old in self.sources[layer]]
        apart = each[loop_of(key)].double() - mean(each).double()
        u, s, v = torch.linalg.svd(apart, full_matrices=False)
        rank = self.new.config["loop_rank"]
        root, short = s[:rank].sqrt(), max(0, rank - len(s))
        first = pad(root[:, None] * v[:rank], (0, 0, 0, short))
        second = pad(u[:, :rank] * root, (0, short))
        return first.to(each[0].dtype), second.to(each[0].dtype)


def mean(each: Sequence[Tensor]) -> Tensor:
    """The mean of tensors of one shape, of a single one itself."""
    return each[0] if len(each) == 1 else torch.stack([*each]).double().mean(0).to(each[0].dtype)


def _named(name: str, layer: int, new: int) -> str:
    return name.replace(f".{layer}.", f".{new}.", 1)
