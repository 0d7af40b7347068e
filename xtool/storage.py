"""The bytes of `.st` files, read strictly; `writing` is the other half.

A `.st` file is a safetensors file with one metadata key, `xtool`. This floor knows bytes, names and
shapes but no tensors, so reading a header needs no torch. A file is never mapped into memory (a
file that is cut short while mapped kills the process), and never trusted: every rule of the format
that the safetensors library leaves to the caller is checked here.
"""

import os
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Self

from blake3 import blake3

from xtool.errors import CheckFailed, XtoolError
from xtool.header import Header, read_header
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
MAX_HEADER = 16 << 20
MAX_TENSORS = 100_000
MAX_AXES = 8
KEY = "xtool"
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

    def __exit__(self, *error: object) -> None:
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


def header_of(path: Path, *kinds: str) -> Header:
    """The header of a file of ours, of one of these kinds; see `Source.require_header`."""
    with Source(path) as source:
        return source.require_header(*kinds)
