"""Slicing: a smaller model is a prefix of the larger one along the same axes."""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from xtool.archs import checked, open_model
from xtool.axes import REPLICAS, SIZES, Layout, layout
from xtool.checkpoint import NAMES, Reader, save_streamed
from xtool.errors import CheckFailed, UsageError
from xtool.gather import gather, prefixes
from xtool.header import Header, Training
from xtool.lineage import step
from xtool.storage import BLOCK, Source
from xtool.widths import changed, resized
from xtool.writing import Spec


def slice_model(
    path: Path, out: Path, changes: Mapping[str, int], replica: int | None = None
) -> tuple[list[str], str]:
    """Cut a model file down to smaller sizes.

    Args:
        path: the large model.
        out: where the small one goes.
        changes: the sizes asked for, by dial.
        replica: take out this one of several models; None keeps them all.

    Returns:
        what changed, and the digest of the result.

    Raises:
        UsageError: a size larger than the model's, or one that its heads do not fit.
        XtoolError: an unreadable model, or no space.
    """
    with Source(path) as source:
        header = source.require_header("model")
        count = header.replicas
        taken = replica if count > 1 else None
        chosen = range(count) if replica is None else [replica]
        readers = [open_model(source, verify=i == chosen[0], replica=i) for i in chosen]
        old = readers[0].layout
        assert old is not None
        new = _smaller(old, changes, str(path))
        differ = changed(old.config, new.config)
        if not differ and taken is None:
            raise UsageError("nothing to slice: every size is already as asked")
        digest = save_streamed(
            out,
            _header(header, new, taken),
            _specs(readers[0], new),
            *(partial(_rows, reader, new) for reader in readers),
            prove=partial(_prove_all, readers),
        )
    out_of = [] if taken is None else [f"replica {taken} of {count}"]
    return out_of + differ, digest


def _smaller(old: Layout, changes: Mapping[str, int], where: str) -> Layout:
    """The layout at the smaller sizes.

    Raises:
        UsageError: see `slice_model`.
    """
    config = checked(resized(old.config, changes))
    for name in SIZES:
        if (config.get(name) or 0) > (old.config.get(name) or 0):
            raise UsageError(
                f"{where}: cannot slice `{name}` {old.config[name]} -> {config[name]}: "
                "slicing only makes a model smaller",
                "to make it larger use `xtool grow`",
            )
    new = layout(config)
    for unit in old.units:
        if new.size(unit) > old.size(unit):
            raise UsageError(
                f"{where}: `{unit}` would grow from {old.size(unit)} to {new.size(unit)}",
                "cut `--n-heads` too, so that each head of keys keeps its queries",
            )
    return new


def _specs(reader: Reader, new: Layout) -> list[Spec]:
    """The tensors of one sliced model: those of its layers, as the large one stores them."""
    layers = new.config.get("n_layers", 1)
    names = [name for name in reader.names if (new.layer(name) or 0) < layers]
    return [Spec(name, NAMES[reader.dtype(name)], new.shape(name)) for name in names]


def _rows(reader: Reader, new: Layout, name: str, start: int, stop: int) -> Tensor:
    """Rows [start, stop) of a sliced tensor."""
    assert reader.layout is not None
    found = prefixes(reader.layout, new, name)
    return gather(reader, name, found, start, stop, reader.dtype(name))


def _header(header: Header, new: Layout, taken: int | None) -> Header:
    """The header of the sliced file.

    Args:
        header: of the large one.
        new: the layout of one sliced model.
        taken: the replica that is taken out of several; None where all stay.
    """
    config = dict(new.config)
    sizes = {name: config[name] for name in SIZES if config.get(name)}
    if taken is not None:
        sizes["replica"] = taken
    elif header.replicas > 1:
        config[REPLICAS] = header.replicas
    done = step("slice", sizes, {"model": header.digest}, 0)
    return header.model_copy(
        update={
            "config": config,
            "lineage": [*header.lineage, done],
            "training": _training(header, taken),
        }
    )


def _training(header: Header, replica: int | None) -> Training:
    """What the sliced model keeps; a replica that is taken out has its own seed."""
    kept = header.inherited()
    if replica is not None and "dials" in kept:
        dials = kept["dials"]
        kept["dials"] = dials | {"seed": int(dials.get("seed") or 0) + replica, "replicas": 1}
    return kept


def _prove_all(readers: Sequence[Reader], temporary: Path) -> None:
    """Prove every model of the written file."""
    with Source(temporary) as written:
        for place, reader in enumerate(readers):
            _prove(reader, open_model(written, verify=not place, replica=place))


def _prove(reader: Reader, small: Reader) -> None:
    """Every tensor of the written file is the prefix that it claims to be, to the bit.

    It narrows the parent's factors, so that a mistake in the index maps would show.
    """
    old, new = reader.layout, small.layout
    assert old is not None
    assert new is not None
    for name in small.names:
        was = [old.axis_sizes(name, axis) for axis in new.axes(name)]
        now = [new.axis_sizes(name, axis) for axis in new.axes(name)]
        before, after = prod(was[0][1:]), prod(now[0][1:])
        row = before * prod(reader.shape(name)[1:]) * reader.dtype(name).itemsize
        step = max(1, BLOCK // row)
        for start in range(0, now[0][0], step):
            stop = min(start + step, now[0][0])
            parent = reader.rows(name, start * before, stop * before)
            parent = parent.view(stop - start, *was[0][1:], *chain(*was[1:]))
            for place, size in enumerate([stop - start, *now[0][1:], *chain(*now[1:])]):
                parent = parent.narrow(place, 0, size)
            child = small.rows(name, start * after, stop * after)
            if not torch.equal(parent.reshape(child.shape), child):
                raise CheckFailed(f"tensor `{name}` is not a prefix of the parent's")
