"""Between looped and deep models: unroll the loops of one, fold the other into loops.

Unrolling gives each loop a copy of the blocks, and is exact to the bit. Folding averages the blocks
that stand at the same place of each loop, as Bae et al. (2024, arXiv:2410.20672) begin their
recursive models; it is not exact.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xtool.archs import SIZE, checked, open_model
from xtool.axes import Layout, layout
from xtool.checkpoint import NAMES, Reader, save_streamed
from xtool.config import OTHER, SHAPE, model_options
from xtool.dataset import Dataset
from xtool.errors import UsageError
from xtool.lineage import step
from xtool.storage import Source
from xtool.surgery.proof import Proof, compare, require_exact
from xtool.writing import Spec

Sources = Mapping[int, Sequence[int]]


def unroll(path: Path, out: Path) -> tuple[str, Proof]:
    """Give each loop of a looped model blocks of its own, equal to those that it had.

    Without injection and loop norm the result is a `gpt`.

    Returns:
        what changed, and the proof on the written file.

    Raises:
        UsageError: the model does not loop, or its loops have their own blocks already.
        CheckFailed: the outputs are not equal to the bit.
    """
    with Source(path) as source:
        reader = _one_model(source)
        assert reader.layout is not None
        config = dict(reader.layout.config)
        if config["arch"] != "looped" or config.get("untied"):
            raise UsageError(f"{path}: its loops do not share blocks", "unroll a looped model")
        own, count = config["n_layers"], config["n_layers"] * config["n_loops"]
        new = config | {"n_layers": count, "untied": True}
        if config["injection"] == "none" and not config["loop_norm"]:
            new = _dials_of("gpt", new)
        said = f"n_layers {own} -> {count}, {new['arch']}, each loop with its own"
        sources = {layer: [layer % own] for layer in range(count)}
        return said, _write(reader, out, "unroll", config["n_loops"], new, sources, exact=True)


def fold(path: Path, out: Path, loops: int, data: Dataset | None = None) -> tuple[str, Proof]:
    """Make a deep model loop: blocks that are the mean of those at their place of each loop.

    Args:
        path: a `gpt`, which then has no injection, or a looped model with untied loops.
        out: where the looped model goes.
        loops: how many.
        data: to give the loss before and after on.

    Returns:
        what changed, and how far the outputs moved.

    Raises:
        UsageError: an architecture that cannot loop, or a depth that the loops do not divide.
    """
    with Source(path) as source:
        reader = _one_model(source)
        assert reader.layout is not None
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
        own = config["n_layers"] // loops
        new = config | {"n_layers": own, "untied": False}
        if not untied:
            new |= {"n_loops": loops, "injection": "none", "loop_norm": False}
            new = _dials_of("looped", new)
        said = f"n_layers {config['n_layers']} -> {own}, {loops} loops of the mean"
        sources = {layer: range(layer, config["n_layers"], own) for layer in range(own)}
        return said, _write(reader, out, "fold", loops, new, sources, exact=False, data=data)


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
    loops: int,
    config: dict[str, Any],
    sources: Sources,
    exact: bool,
    data: Dataset | None = None,
) -> Proof:
    """Write the model whose layers are the means of old ones, and compare."""
    header = reader.source.require_header()
    assert reader.layout is not None
    if config.get("nest"):
        config = {**config, "nest": None, "nest_weights": None}
    new = layout(checked(config))
    rows = partial(_rows, reader, new, sources)
    specs = []
    for name in (name for name in reader.names if not name.startswith(f"{SIZE}.")):
        layer = reader.layout.layer(name)
        at = [None] if layer is None else [n for n, old in sources.items() if old[0] == layer]
        specs += [
            Spec(_named(name, layer, place), NAMES[reader.dtype(name)], reader.shape(name))
            for place in at
        ]
    done = step(command, {"n_loops": loops}, {"model": header.digest}, 0)
    made = {"config": dict(new.config), "lineage": [*header.lineage, done]}
    found: list[Proof] = []

    def prove(temporary: Path) -> None:
        with Source(temporary) as written:
            tolerance = 0.0 if exact else None
            found.append(compare(reader, open_model(written), 0, tolerance, data))
            if exact:
                require_exact(found[0], command)

    update = made | {"training": header.inherited()}
    save_streamed(out, header.model_copy(update=update), specs, rows, prove=prove)
    return found[0]


def _named(name: str, layer: int | None, new: int | None) -> str:
    return name if layer is None else name.replace(f".{layer}.", f".{new}.", 1)


def _rows(
    reader: Reader, new: Layout, sources: Sources, name: str, start: int, stop: int
) -> Tensor:
    """Rows of a tensor: those of its only source, or the mean of several."""
    layer = new.layer(name)
    if layer is None:
        return reader.rows(name, start, stop)
    found = [reader.rows(_named(name, layer, old), start, stop) for old in sources[layer]]
    if len(found) == 1:
        return found[0]
    return torch.stack(found).double().mean(0).to(found[0].dtype)
