"""The bytes of `.st` files, written: atomic, durable, and the same for the same content.

While one piece is hashed and written the next is made in another thread, and a third sends to the
disk what was written. Whatever is killed in between leaves the old file whole; see `atomic`.
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
from typing import BinaryIO, TypeVar

from blake3 import blake3

from xtool.atomic import replacing, require_space
from xtool.errors import XtoolError
from xtool.header import NO_DIGEST, Header
from xtool.storage import BYTES, KEY, MAX_HEADER, digest_place

AHEAD = 2
FLUSH = 128 << 20
T = TypeVar("T")


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
