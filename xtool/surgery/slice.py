"""Slicing: a smaller model is a prefix of the larger one along the same axes."""

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import chain
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xtool.archs import (
    HEAD,
    SIZE,
    axes_of,
    checked,
    empty,
    inner,
    is_trained,
    open_model,
    place_of,
    same_size,
    sizes_of,
    source_of,
    stored_names,
)
from xtool.axes import REPLICAS, RESIDUAL, SIZES, Layout, layout
from xtool.checkpoint import NAMES, Reader, save_streamed
from xtool.errors import CheckFailed, UsageError
from xtool.gather import Orders, gather, prefixes
from xtool.header import Header, Training
from xtool.lineage import step
from xtool.storage import BLOCK, Source
from xtool.widths import changed, larger, resized
from xtool.writing import Spec

# What follows from the sizes, and is not told.
NAMED = ("nest", "nest_weights", "arch")


@dataclass(frozen=True)
class Cut:
    """What is cut out of a large model.

    Attributes:
        old: the axes of the large one.
        new: those of the small one.
        layers: the layers that stay.
        sizes: the small model's nested sizes, as places among the large one's.
        orders: in which order units are taken, where it is not their own.
    """

    old: Layout
    new: Layout
    layers: Sequence[int]
    sizes: Sequence[int] = ()
    orders: Orders = field(default_factory=dict)

    def source(self, name: str, names: Container[str]) -> str:
        """The large model's tensor that a small one's is cut from."""
        layer = self.new.layer(name)
        if layer is not None:
            name = name.replace(f".{layer}.", f".{self.layers[layer]}.", 1)
        start, _, rest = name.partition(".")
        if start == SIZE:
            place, _, rest = rest.partition(".")
            return source_of(rest, self.sizes[int(place)], names)
        return source_of(name, self.place, names)

    @cached_property
    def place(self) -> int | None:
        """Which of the large model's nested sizes it is; none where units are in another order."""
        first = [*self.layers] == [*range(len(self.layers))]
        nested = self.old.config.get("nest") and first and not self.orders
        return place_of(self.old.config, self.new.config) if nested else None

    def maps(self, name: str, source: str) -> list[Tensor]:
        """Which indices of the large tensor the small one has, along each axis."""
        return prefixes(self.old, self.new, name, source, self.orders)


def slice_model(
    path: Path,
    out: Path,
    changes: Mapping[str, Any],
    replica: int | None = None,
    untrained_ok: bool = True,
    orders: Orders | None = None,
    inside: bool = True,
) -> tuple[list[str], str]:
    """Cut a model file down to smaller sizes.

    Args:
        path: the large model.
        out: where the small one goes.
        changes: the sizes asked for, by dial; layers may be a list of those that stay, from 0.
        replica: take out this one of several models; None keeps them all.
        untrained_ok: whether the small model may be one that was never trained.
        orders: take units in this order, in place of the first ones.
        inside: whether sizes that are nested in the small model stay so.

    Returns:
        what changed, and the digest of the result.

    Raises:
        UsageError: a size larger than the model's, one that its heads do not fit, or one that was
            never trained.
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
        cut = _cut(old, changes, str(path), orders or {}, inside)
        differ = changed(old.config, cut.new.config, but=NAMED)
        if not differ and changes and old.config.get("nest") and not cut.new.config["nest"]:
            differ = [f"the whole of {old.config['nest']}, with no size inside"]
        if not differ and taken is None and not orders:
            raise UsageError("nothing to slice: every size is already as asked")
        if differ and not untrained_ok:
            require_trained(header, cut, str(path))
        digest = save_streamed(
            out,
            _header(header, cut, taken),
            _specs(readers[0], cut),
            *(partial(_rows, reader, cut) for reader in readers),
            prove=partial(_prove_all, readers, cut),
        )
    out_of = [] if taken is None else [f"replica {taken} of {count}"]
    return out_of + differ, digest


def _cut(old: Layout, changes: Mapping[str, Any], where: str, orders: Orders, inside: bool) -> Cut:
    """The small model, and where it lies in the large one.

    Raises:
        UsageError: see `slice_model`.
    """
    if HEAD in axes_of(old.config) and (changes or orders):
        raise UsageError(
            f"{where}: only its output is nested (`{old.config['nest']}`), its blocks are whole",
            "`xtool evaluate --size` and `xtool sample --size` read its sizes",
        )
    layers = _layers(old.config, changes.get("n_layers"), where)
    wanted, kept = dict(changes), dict(old.config)
    if "n_layers" in wanted:
        wanted["n_layers"] = len(layers)
        each = old.config.get("d_ff")
        if isinstance(each, list):
            kept["d_ff"] = [each[layer] for layer in layers]
            wanted.setdefault("d_ff", kept["d_ff"])
    whole = (
        {**old.config, "nest": None, "nest_weights": None}
        if "nest" in old.config
        else dict(old.config)
    )
    config = checked(resized(whole, wanted)) if wanted else checked(whole)
    for name in SIZES:
        if larger(config.get(name), kept.get(name)):
            raise UsageError(
                f"{where}: cannot slice `{name}` {old.config[name]} -> {config[name]}: "
                "slicing only makes a model smaller",
                "to make it larger use `xtool grow`",
            )
    nest: str | None = None
    sizes: list[int] = []
    # Asked for at its own sizes, a nested model is taken out whole, with none inside.
    whole_one = bool(wanted) and all(config.get(n) == old.config.get(n) for n in SIZES)
    first = [*layers] == [*range(len(layers))]
    if inside and not whole_one and not orders and first:
        nest, sizes = inner(old.config, config)
    if nest is not None:
        weights = old.config["nest_weights"] if nest == old.config["nest"] else None
        config = checked({**config, "nest": nest, "nest_weights": weights})
    elif config["arch"] == "matryoshka":
        config["arch"] = "gpt"
    new = layout(config)
    for unit in old.units:
        if _grows(old, new, unit):
            raise UsageError(
                f"{where}: `{unit}` would grow from {old.size(unit)} to {new.size(unit)}",
                "cut `--n-heads` too, so that each head of keys keeps its queries",
            )
    return Cut(old, new, layers, sizes, orders)


def _layers(config: Mapping[str, Any], wanted: int | list[int] | None, where: str) -> list[int]:
    """The layers that stay.

    Raises:
        UsageError: a layer that is not there, or not in rising order.
    """
    count = int(config.get("n_layers") or 1)
    if isinstance(wanted, int) and wanted > count:
        raise UsageError(
            f"{where}: cannot slice `n_layers` {count} -> {wanted}: slicing only makes a model "
            "smaller",
            "to make it larger use `xtool grow`",
        )
    if not isinstance(wanted, list):
        return [*range(count if wanted is None else wanted)]
    if wanted != sorted({*wanted}) or not wanted or wanted[0] < 0:
        raise UsageError(f"`--n-layers` {wanted}: layers rise, each once", "such as `0-3,5`")
    if wanted[-1] >= count:
        raise UsageError(f"{where}: has no layer {wanted[-1]}, it has {count}, from 0")
    return wanted


def _grows(old: Layout, new: Layout, unit: str) -> bool:
    """Whether a size, or a part of one, is larger in the small model."""
    if isinstance(old.config.get(unit), list) or isinstance(new.config.get(unit), list):
        return False
    return new.size(unit) > old.size(unit)


def require_trained(header: Header, cut: Cut, where: str) -> None:
    """Raise UsageError for a size that the model was never trained in.

    It was in the sizes that are nested in it, and in those that it had before it grew along
    feed-forward width, heads or depth in a way that appends, since that left the old units as they
    were. Fewer positions or symbols are no other size.
    """
    old, new = cut.old.config, cut.new.config
    if same_size(old, new):
        return
    first = [*cut.layers] == [*range(len(cut.layers))]
    plain = {**new, "nest": None}
    if first and old.get("nest") and is_trained(old, plain):
        return
    if first and any(same_size(new, was) for was in _before(header)):
        return
    known = [size.label for size in sizes_of(old)] if old.get("nest") else []
    raise UsageError(
        f"{where}: was never trained at {', '.join(changed(old, new, but=('nest', 'arch')))}",
        f"trained sizes: {', '.join(known)}; `--untrained-ok` cuts all the same"
        if known
        else "`--untrained-ok` cuts all the same, `--sort importance` by what matters most",
    )


APPENDING = {"pad": ("d_ff", "n_heads", "n_kv_heads", "n_layers"), "clone": ("n_layers",)}


def _before(header: Header) -> Iterator[dict[str, Any]]:
    """The sizes of the model before each of the growths that it ends with."""
    known: list[dict[str, Any]] = []
    for one in header.lineage:
        last = known[-1] if known else {}
        known.append(last | {k: v for k, v in one.options.items() if k in SIZES})
    for place in range(len(known) - 1, 0, -1):
        one, now, was = header.lineage[place], known[place], known[place - 1]
        differ = {name for name in SIZES if now.get(name) != was.get(name)}
        if one.command != "grow" or not differ <= set(APPENDING.get(one.options["method"], ())):
            return
        yield was


def _specs(reader: Reader, cut: Cut) -> list[Spec]:
    """The tensors of one sliced model, in the order and the type of the large one's."""
    names, found = set(reader.names), []
    for name in stored_names(empty(cut.new.config), cut.new):
        dtype = reader.dtype(cut.source(name, names))
        found.append(Spec(name, NAMES[dtype], cut.new.shape(name)))
    return found


def _rows(reader: Reader, cut: Cut, name: str, start: int, stop: int) -> Tensor:
    """Rows [start, stop) of a sliced tensor."""
    source = cut.source(name, reader.names)
    return gather(reader, source, cut.maps(name, source), start, stop, reader.dtype(source))


def _header(header: Header, cut: Cut, taken: int | None) -> Header:
    """The header of the sliced file.

    Args:
        header: of the large one.
        cut: what is cut out of it.
        taken: the replica that is taken out of several; None where all stay.
    """
    config = dict(cut.new.config)
    sizes = {name: config[name] for name in SIZES if config.get(name)}
    if [*cut.layers] != [*range(len(cut.layers))]:
        sizes["layers"] = [*cut.layers]
    if cut.orders:
        sizes["sort"] = "importance"
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


def _prove_all(readers: Sequence[Reader], cut: Cut, temporary: Path) -> None:
    """Prove every model of the written file."""
    with Source(temporary) as written:
        for place, reader in enumerate(readers):
            _prove(reader, open_model(written, verify=not place, replica=place), cut)


def _prove(reader: Reader, small: Reader, cut: Cut) -> None:
    """Every tensor of the written file is the part of the parent's that it claims to be.

    It narrows the parent's factors, or picks from them in the given order, so that a mistake in the
    index maps would show.
    """
    old, new = cut.old, cut.new
    for name in small.names:
        source = cut.source(name, reader.names)
        layer = old.layer(source)
        was = [old.axis_sizes(source, axis) for axis in new.axes(name)]
        now = [new.axis_sizes(name, axis) for axis in new.axes(name)]
        factors = [str(factor) for axis in new.axes(name) for factor in axis.factors]
        picked = [cut.orders.get((f, None if f == RESIDUAL else layer)) for f in factors]
        before, after = prod(was[0][1:]), prod(now[0][1:])
        row = before * prod(reader.shape(source)[1:]) * reader.dtype(source).itemsize
        step = 1 if picked[0] else max(1, BLOCK // row)
        for start in range(0, now[0][0], step):
            stop = min(start + step, now[0][0])
            first = int(picked[0].order[start]) if picked[0] else start
            parent = reader.rows(source, first * before, (first + stop - start) * before)
            parent = parent.view(stop - start, *was[0][1:], *chain(*was[1:]))
            for place, size in enumerate([stop - start, *now[0][1:], *chain(*now[1:])]):
                one = picked[place] if place else None
                if one:
                    parent = parent.index_select(place, one.order[:size])
                else:
                    parent = parent.narrow(place, 0, size)
            child = small.rows(name, start * after, stop * after)
            if not torch.equal(parent.reshape(child.shape), child):
                raise CheckFailed(f"tensor `{name}` is not a part of the parent's `{source}`")
