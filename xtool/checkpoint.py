"""Checkpoints: tensors in and out of `.st` files, whole or by ranges of rows.

Values are checked as they pass: a NaN or an infinity is neither read nor written. Writing streams
blocks of rows, so surgery needs the memory of one block, whatever the size of the model.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from xtool.axes import Layout, layout, one_model
from xtool.config import check_model
from xtool.errors import Diverged, XtoolError
from xtool.header import Header
from xtool.storage import BLOCK, BYTES, Entry, Source
from xtool.writing import Spec, write

TORCH = {
    "F64": torch.float64,
    "I64": torch.int64,
    "F32": torch.float32,
    "I32": torch.int32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES = {value: key for key, value in TORCH.items()}

# Rows [start, stop) of a tensor by its name.
Rows = Callable[[str, int, int], Tensor]


class Reader:
    """Tensors of an open file, read when they are asked for.

    Args:
        source: an open file of ours.
        ours: its axes, against which every shape is checked; None for data.
        part: only tensors whose names begin so, `model/` in a resume file; it is left off them.
        replica: of a file with several models, the one to read as if it were alone.

    Raises:
        XtoolError: a shape contradicts the configuration.
    """

    def __init__(
        self,
        source: Source,
        ours: Layout | None = None,
        part: str = "",
        replica: int | None = None,
    ) -> None:
        self.source = source
        self._layout = ours
        self.part = part
        self.replica = replica
        self._entries = {
            name.removeprefix(part): entry
            for name, entry in source.entries.items()
            if name.startswith(part)
        }
        if ours is not None:
            for name, entry in self._entries.items():
                ours.check(name, entry.shape, str(source.path))
        if ours is not None and ours.replicas > 1 and replica is not None:
            self._layout = layout(one_model(ours.config))
            self._entries = {n: _part(entry, replica) for n, entry in self._entries.items()}

    @property
    def layout(self) -> Layout:
        """The axes of a model's tensors."""
        assert self._layout is not None
        return self._layout

    @property
    def names(self) -> list[str]:
        """The stored tensors."""
        return list(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a stored tensor."""
        return self._entry(name).shape

    def dtype(self, name: str) -> torch.dtype:
        """The type of a stored tensor."""
        return TORCH[self._entry(name).dtype]

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Rows [start, stop) along the first axis.

        Raises:
            XtoolError: a NaN or infinity, or the file changed while it was read.
        """
        entry = self._entry(name)
        row = prod(entry.shape[1:]) * BYTES[entry.dtype]
        data = self.source.read(entry.start + start * row, (stop - start) * row)
        return self._tensor(name, data, (stop - start, *entry.shape[1:]))

    def tensor(self, name: str) -> Tensor:
        """A whole tensor; an alias of a tied one gives the stored values.

        Raises:
            XtoolError: not in the file, or not finite.
        """
        ties = self._layout.ties if self._layout else ()
        stored = next((tie.stored for tie in ties if tie.alias == name), name)
        entry = self._entry(stored)
        data = self.source.read(entry.start, entry.stop - entry.start)
        return self._tensor(stored, data, entry.shape)

    def _entry(self, name: str) -> Entry:
        if name not in self._entries:
            raise XtoolError(f"{self.source.path}: has no tensor `{self.part}{name}`")
        return self._entries[name]

    def _tensor(self, name: str, data: bytearray, shape: Sequence[int]) -> Tensor:
        entry = self._entry(name)
        if not data:
            return torch.empty(tuple(shape), dtype=TORCH[entry.dtype])
        if entry.dtype == "BOOL" and max(data) > 1:
            raise XtoolError(
                f"{self.source.path}: tensor `{name}` holds bytes that are not booleans"
            )
        tensor = torch.frombuffer(data, dtype=TORCH[entry.dtype]).view(tuple(shape))
        require_finite(tensor, name, str(self.source.path))
        return tensor


def _part(entry: Entry, replica: int) -> Entry:
    """Where one model's values of a tensor stand."""
    size = (entry.stop - entry.start) // entry.shape[0]
    start = entry.start + replica * size
    return replace(entry, shape=entry.shape[1:], start=start, stop=start + size)


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread, for what memory bounds; also a decorator.

    A block is made while others hash and write; a kernel's second thread waits for a core then.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@one_thread()
def require_finite(tensor: Tensor, name: str, where: str) -> None:
    """Raise Diverged when a tensor holds a NaN or an infinity."""
    # A sum is quick and hides no NaN or infinity; since it may overflow, it alone condemns nothing.
    if not tensor.is_floating_point() or torch.isfinite(tensor.sum()):
        return
    if bad := int((~torch.isfinite(tensor)).sum()):
        raise Diverged(
            f"{where}: tensor `{name}` has {bad} values that are NaN or infinite",
            "the run that made it diverged: lower `--lr`, or go back to an earlier file",
        )


def model_reader(
    source: Source, verify: bool = True, kind: str = "model", replica: int | None = None
) -> Reader:
    """A reader of a model whose shapes, and unless told otherwise digest, are checked.

    Args:
        source: an open file.
        verify: whether to check its digest.
        kind: `model`, or `resume` for the model inside a training state.
        replica: which model, where the file holds several.

    Raises:
        XtoolError: not of this kind, of several models with none chosen, or its shapes contradict
            its configuration.
        CheckFailed: the digest does not match.
    """
    header = source.require_header(kind)
    if verify:
        source.verify()
    where = str(source.path)
    check_model(header.config, where)
    ours = layout(header.config)
    if ours.replicas > 1 and replica is None:
        raise XtoolError(
            f"{where}: holds {ours.replicas} replicas, this needs one model",
            f"take one out: `xtool slice {where} --replica 0`",
        )
    if not 0 <= (replica or 0) < ours.replicas:
        raise XtoolError(f"{where}: has no replica {replica}, it holds {ours.replicas}, from 0")
    reader = Reader(source, ours, "model/" if kind == "resume" else "", replica)
    if len({reader.dtype(name) for name in reader.names}) != 1:
        raise XtoolError(f"{where}: a model's tensors must all be of one type")
    if not reader.dtype(reader.names[0]).is_floating_point:
        raise XtoolError(f"{where}: a model's tensors must be floating-point numbers")
    layers = 1 + max((ours.layer(name) or 0 for name in reader.names), default=0)
    if (wanted := header.config.get("n_layers", layers)) != layers:
        raise XtoolError(f"{where}: has {layers} layers, its header says `n_layers` {wanted}")
    return reader


def load(path: Path, *kinds: str) -> tuple[Header, dict[str, Tensor]]:
    """The header and all tensors of a file, checked.

    Raises:
        XtoolError: unreadable, of another kind, or not finite.
        CheckFailed: the digest does not match.
    """
    with Source(path) as source:
        header = source.require_header(*kinds)
        source.verify()
        reader = Reader(source)
        return header, {name: reader.tensor(name) for name in reader.names}


def save(path: Path, header: Header, tensors: Mapping[str, Tensor]) -> str:
    """Write tensors that are in memory; returns the digest.

    Views of every kind (transposed, conjugate, negative) are written as the values they show.

    Raises:
        XtoolError: a type that the format lacks, a NaN or infinity, or no space.
    """
    specs = [Spec(name, _type_name(name, t), tuple(t.shape)) for name, t in tensors.items()]
    whole = {name: t.detach().resolve_conj().resolve_neg().cpu() for name, t in tensors.items()}

    def rows(name: str, start: int, stop: int) -> Tensor:
        return whole[name][start:stop] if whole[name].ndim else whole[name]

    return save_streamed(path, header, specs, rows)


def _type_name(name: str, tensor: Tensor) -> str:
    if tensor.dtype not in NAMES or tensor.layout != torch.strided or tensor.is_meta:
        raise XtoolError(f"tensor `{name}` of {tensor.dtype} cannot be stored")
    return NAMES[tensor.dtype]


def save_streamed(
    path: Path,
    header: Header,
    specs: Sequence[Spec],
    *models: Rows,
    prove: Callable[[Path], None] | None = None,
) -> str:
    """Write tensors a block of rows at a time; returns the digest.

    Args:
        path: the output.
        header: what it says about itself.
        specs: the tensors of one model.
        models: give rows [start, stop) of a tensor; several stand on a leading axis.
        prove: see `writing.write`.

    Raises:
        XtoolError: a NaN or infinity, or no space.
    """

    def blocks(spec: Spec) -> Iterator[memoryview]:
        for rows, (start, stop) in product(models, row_blocks(parts[spec.name])):
            block = rows(spec.name, start, stop).to(TORCH[spec.dtype]).contiguous()
            require_finite(block, spec.name, str(path))
            if block.numel():
                yield block.reshape(-1).view(torch.uint8).numpy().data

    parts = {spec.name: spec for spec in specs}
    if len(models) > 1:
        specs = [replace(spec, shape=(len(models), *spec.shape)) for spec in specs]
    return write(path, header, specs, blocks, prove)


def row_blocks(spec: Spec) -> Iterator[tuple[int, int]]:
    """The ranges of rows in which a tensor is written; they depend on its shape alone."""
    if not spec.shape:
        yield 0, 1
        return
    step = max(1, BLOCK // max(1, prod(spec.shape[1:]) * BYTES[spec.dtype]))
    for start in range(0, spec.shape[0], step):
        yield start, min(start + step, spec.shape[0])
