"""Input files of any kind: regular, of bounded size, never waited for, and strictly decoded."""

import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from xtool.errors import XtoolError, from_os

MAX_BYTES = 1 << 30


def open_regular(path: Path, hint: str) -> int:
    """A descriptor of a regular file.

    Raises:
        XtoolError: missing, closed to us, or a folder, pipe or device; then with the hint.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise from_os(path, error) from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise XtoolError(f"{path}: not a regular file", hint)
    return fd


def require_files(paths: Iterable[Path], hint: str) -> None:
    """Fail at once where `open_regular` would fail later, after slow imports.

    Raises:
        XtoolError: see `open_regular`.
    """
    for path in paths:
        os.close(open_regular(path, hint))


def read_bytes(path: Path, hint: str) -> bytes:
    """A whole regular file.

    Raises:
        XtoolError: not a regular file, or larger than `MAX_BYTES`.
    """
    with os.fdopen(open_regular(path, hint), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_BYTES:
            raise XtoolError(f"{path}: {size} bytes, at most {MAX_BYTES} are read")
        return file.read()


def decode(raw: bytes, where: object) -> str:
    """UTF-8 text without a byte order mark, and with plain line ends.

    Raises:
        XtoolError: not UTF-8 (the byte and its line are named), or binary.
    """
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise XtoolError(
            f"{where}: not UTF-8 text: byte {error.start} (line {line}) is {raw[error.start]:#04x}",
            "convert it with `iconv -t UTF-8`, or give a text file",
        ) from error
    if "\0" in text:
        raise XtoolError(f"{where}: binary: byte {raw.index(0)} is 0", "give a text file")
    return text.replace("\r\n", "\n")


def strict_json(text: str) -> Any:
    """Parse JSON, refusing duplicate keys and numbers that JSON does not have.

    Raises:
        ValueError: not JSON, nested too deeply, a key given twice, NaN or infinity.
    """

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        out = dict(items)
        if len(out) != len(items):
            raise ValueError("a key stands twice")
        return out

    def constant(name: str) -> Any:
        raise ValueError(f"{name} is not JSON")

    try:
        return json.loads(text, object_pairs_hook=pairs, parse_constant=constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
