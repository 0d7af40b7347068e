"""The bytes of `.st` files: a strict reader and an atomic, durable, reproducible writer.

A `.st` file is a safetensors file with one metadata key, `xtool`. This floor knows bytes, names and
shapes but no tensors, so reading a header needs no torch. A file is never mapped into memory (a
file that is cut short while mapped kills the process), and never trusted: every rule of the format
that the safetensors library leaves to the caller is checked here.

Files are written through `atomic`: whatever is killed in between leaves the old file whole.
"""

import json
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, TypeVar

from blake3 import blake3

from xtool.atomic import replacing, require_space
from xtool.errors import CheckFailed, XtoolError
from xtool.header import NO_DIGEST, Header, read_header
from xtool.inputs import open_regular, strict_json

BYTES = {
    "F64": 8,
    "I64": 8,
    "F32": 4,
    "I32": 4,
    "F16": 2,
    "BF16": 2,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
BLOCK = 2 << 20  # larger ones would be given back to the system, and asked for again, each time
AHEAD = 2
FLUSH = 128 << 20
MAX_HEADER = 16 << 20
MAX_TENSORS = 100_000
MAX_AXES = 8
KEY = "xtool"
T = TypeVar("T")
LOOKS = (
    (b"PK\x03\x04", "a zip archive, perhaps a PyTorch checkpoint"),
    (b"\x80\x02", "a pickle, which can run code when it is read"),
    (b"GGUF", "a GGUF file"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself"),
    (b"<!DOCTYPE", "a web page"),
    (b"<html", "a web page"),
    (b"{", "JSON"),
)


@dataclass(frozen=True)
class Entry:
    """A tensor's place in a file: `start` and `stop` count bytes from the file's beginning."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def read_entries(table: dict[str, object], base: int, where: str) -> dict[str, Entry]:
    """Check the tensors of a safetensors header; they must fill the file without holes.

    Args:
        table: the header without its metadata.
        base: where the data begins, in bytes.
        where: names the file in errors.

    Raises:
        XtoolError: too many tensors, an unprintable name, an unknown type, a shape or an offset
            that is not a list of plain numbers or that contradicts another.
    """
    if len(table) > MAX_TENSORS:
        raise XtoolError(f"{where}: {len(table)} tensors, at most {MAX_TENSORS} are read")
    found = [_read_entry(name, value, base, where) for name, value in table.items()]
    at = base
    for entry in sorted(found, key=lambda one: (one.start, one.stop)):
        if entry.start != at:
            raise XtoolError(
                f"{where}: tensor `{entry.name}` does not start where the last one ends"
            )
        at = entry.stop
    return {entry.name: entry for entry in found}


def _read_entry(name: str, value: object, base: int, where: str) -> Entry:
    if not name or not name.isprintable() or len(name) > 512:
        raise XtoolError(f"{where}: a tensor's name is not printable: {name[:40]!r}")
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise XtoolError(f"{where}: tensor `{name}` needs exactly dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BYTES:
        raise XtoolError(
            f"{where}: tensor `{name}` has type {dtype!r}", f"known: {', '.join(BYTES)}"
        )
    if not _whole(shape) or len(shape) > MAX_AXES or any(size > 1 << 40 for size in shape):
        raise XtoolError(f"{where}: tensor `{name}` has an impossible shape")
    if not _whole(offsets) or len(offsets) != 2:
        raise XtoolError(f"{where}: tensor `{name}` has impossible offsets")
    start, stop = offsets
    if stop - start != prod(shape) * BYTES[dtype]:
        raise XtoolError(
            f"{where}: tensor `{name}` of shape {list(shape)} needs {prod(shape) * BYTES[dtype]} "
            f"bytes, the file gives it {stop - start}"
        )
    return Entry(name, dtype, tuple(shape), base + start, base + stop)


def _whole(value: object) -> bool:
    return isinstance(value, list) and all(type(one) is int and one >= 0 for one in value)


class Source:
    """An open `.st` file: its header and tensor table; bytes are read by ranges.

    Raises:
        XtoolError: missing, not a regular file, truncated, or not a safetensors file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = open_regular(path, "give the path of a `.st` file")
        try:
            status = os.fstat(self._fd)
            self.size = status.st_size
            self._stamp = (status.st_mtime_ns, status.st_size)
            self.raw = self._read_raw_header()
            self.header, self.entries = self._parse()
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        os.close(self._fd)

    def _read_raw_header(self) -> bytes:
        head = os.pread(self._fd, 32, 0)
        length = int.from_bytes(head[:8], "little")
        if len(head) < 8 or not 2 <= length <= MAX_HEADER:
            looks = [text for magic, text in LOOKS if head.lstrip().startswith(magic)]
            what = f"it looks like {looks[0]}" if looks else "it was not written by xtool"
            raise XtoolError(f"{self.path}: not a safetensors file", what)
        if 8 + length > self.size:
            raise self._truncated(8 + length)
        raw = os.pread(self._fd, length, 8)
        if len(raw) != length:
            raise self._truncated(8 + length)
        if raw[:1] != b"{":
            raise XtoolError(f"{self.path}: the header does not begin with a brace")
        return raw

    def _truncated(self, needed: int) -> XtoolError:
        return XtoolError(
            f"{self.path}: truncated: needs {needed} bytes, has {self.size}", "copy the file again"
        )

    def _parse(self) -> tuple[Header | None, dict[str, Entry]]:
        where = str(self.path)
        try:
            table = strict_json(self.raw.decode("utf-8").rstrip(" "))
        except ValueError as error:
            raise XtoolError(f"{where}: the safetensors header is not JSON: {error}") from error
        if not isinstance(table, dict):
            raise XtoolError(f"{where}: the safetensors header is not an object")
        metadata = table.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
            raise XtoolError(f"{where}: the metadata must map text to text")
        entries = read_entries(table, 8 + len(self.raw), where)
        end = max((entry.stop for entry in entries.values()), default=8 + len(self.raw))
        if end > self.size:
            raise self._truncated(end)
        if end < self.size:
            raise XtoolError(f"{where}: {self.size - end} bytes after the last tensor")
        if KEY not in metadata:
            return None, entries
        if set(metadata) != {KEY}:
            raise XtoolError(f"{where}: has other metadata beside `{KEY}`")
        return read_header(metadata[KEY], where), entries

    def require_header(self, *kinds: str) -> Header:
        """The header, when the file is of one of the kinds; with none given, of any.

        Raises:
            XtoolError: not a file of ours, or of another kind.
        """
        if self.header is None:
            raise XtoolError(
                f"{self.path}: a safetensors file without an xtool header",
                "`xtool inspect` shows its tensors",
            )
        if kinds and self.header.kind not in kinds:
            raise XtoolError(
                f"{self.path}: a {self.header.kind} file, "
                f"where a {' or '.join(kinds)} file is needed",
                "`xtool inspect` shows what a file is",
            )
        return self.header

    def read(self, start: int, length: int) -> bytearray:
        """Bytes of the file.

        Raises:
            XtoolError: the file became shorter or was rewritten since it was opened.
        """
        out = bytearray(length)
        view, done = memoryview(out), 0
        while done < length:
            got = os.preadv(self._fd, [view[done:]], start + done)
            if got == 0:
                break
            done += got
        status = os.fstat(self._fd)
        if done != length or (status.st_mtime_ns, status.st_size) != self._stamp:
            raise XtoolError(f"{self.path}: changed while it was read", "run the command again")
        return out

    def verify(self) -> str:
        """Check the digest of the whole file and return it.

        Raises:
            CheckFailed: some bit is not as it was written.
        """
        header = self.require_header()
        at = 8 + digest_place(self.raw, header.digest, str(self.path))
        hasher = blake3(max_threads=blake3.AUTO)
        for start in range(0, self.size, BLOCK):
            block = self.read(start, min(BLOCK, self.size - start))
            if start < at + 64 and at < start + len(block):
                low, high = max(at - start, 0), min(at + 64 - start, len(block))
                block[low:high] = b"0" * (high - low)
            hasher.update(block)
        if hasher.hexdigest() != header.digest:
            raise CheckFailed(
                f"{self.path}: the digest does not match: the file was damaged or edited",
                "restore it from a copy, or make it again; its lineage: `xtool inspect`",
            )
        return header.digest


def digest_place(raw: bytes, digest: str, where: str) -> int:
    """Where the digest's 64 digits stand in a raw safetensors header.

    Raises:
        XtoolError: the header holds it more than once, or not as it is written by us.
    """
    needle = b'\\"digest\\":\\"' + digest.encode() + b'\\"'
    if raw.count(needle) != 1:
        raise XtoolError(f"{where}: the header does not hold its digest exactly once")
    return raw.index(needle) + len(b'\\"digest\\":\\"')


@dataclass(frozen=True)
class Spec:
    """A tensor to be written: its name, type by its safetensors name, and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Its bytes in the file."""
        return prod(self.shape) * BYTES[self.dtype]


def in_order(specs: Iterable[Spec]) -> list[Spec]:
    """The order of tensors in a file: wide types first, so that all stay aligned, then by name."""
    return sorted(specs, key=lambda one: (-BYTES[one.dtype], one.name))


def write(
    path: Path,
    header: Header,
    specs: Sequence[Spec],
    blocks: Callable[[Spec], Iterable[bytes | memoryview]],
    prove: Callable[[Path], None] | None = None,
) -> str:
    """Write a `.st` file and return its digest.

    Args:
        path: the output; replaced in one step.
        header: what the file says about itself; its digest is filled in.
        specs: the tensors.
        blocks: the bytes of one tensor, in order, in pieces of any size.
        prove: called with the finished temporary file; when it raises, nothing is written.

    Raises:
        XtoolError: no space, or the folder cannot be written to.
    """
    ordered = in_order(specs)
    raw = _safetensors_header(header.model_copy(update={"digest": NO_DIGEST}), ordered)
    needed = 8 + len(raw) + sum(spec.size for spec in ordered)
    require_space(path, needed)

    def pieces() -> Iterator[bytes | memoryview]:
        yield len(raw).to_bytes(8, "little") + raw
        for spec in ordered:
            written = 0
            for block in blocks(spec):
                yield block
                written += len(block)
            assert written == spec.size, f"{spec.name}: {written} bytes of {spec.size}"

    with replacing(path) as (file, temporary):
        digest = _stream(file, pieces())
        file.seek(8 + digest_place(raw, NO_DIGEST, str(path)))
        file.write(digest.encode())
        file.flush()
        if prove is not None:
            prove(temporary)
    return digest


def _stream(file: BinaryIO, pieces: Iterator[bytes | memoryview]) -> str:
    """Write pieces and return their digest; what was written is sent to the disk meanwhile."""
    hasher = blake3()  # on one thread: another makes the next pieces meanwhile
    with closing(_ahead(pieces)) as ready, ThreadPoolExecutor(1) as flusher:
        flushed, unsaved = flusher.submit(lambda: None), 0
        for piece in ready:
            file.write(piece)
            hasher.update(piece)
            unsaved += len(piece)
            if unsaved >= FLUSH and flushed.done():
                flushed.result()
                flushed, unsaved = flusher.submit(os.fsync, file.fileno()), 0
        flushed.result()
    return hasher.hexdigest()


def _ahead(items: Iterator[T]) -> Generator[T, None, None]:
    """The same items, made in another thread while the caller works; its errors come through."""
    with ThreadPoolExecutor(1) as maker:
        coming = deque(maker.submit(next, items, None) for _ in range(AHEAD))
        while (item := coming.popleft().result()) is not None:
            coming.append(maker.submit(next, items, None))
            yield item


def _safetensors_header(header: Header, specs: Sequence[Spec]) -> bytes:
    table: dict[str, object] = {"__metadata__": {KEY: header.canonical()}}
    at = 0
    for spec in specs:
        table[spec.name] = {
            "dtype": spec.dtype,
            "shape": list(spec.shape),
            "data_offsets": [at, at + spec.size],
        }
        at += spec.size
    raw = json.dumps(table, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    if len(raw) > MAX_HEADER:
        raise XtoolError(f"the header would be {len(raw)} bytes, at most {MAX_HEADER} are read")
    return raw
