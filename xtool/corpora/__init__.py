"""Corpora: where text comes from. One file a named corpus; a path or `-` is one too."""

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from xtool import registry
from xtool.errors import XtoolError, unknown
from xtool.inputs import MAX_BYTES, decode, read_bytes


@dataclass(frozen=True)
class Text:
    """A corpus in memory.

    Attributes:
        name: such as `builtin`, or a file's name without its folder.
        text: all of it, to the character.
        sha256: of the source's bytes as they were read.
        note: what a reader of the header should know, such as the Python version.
    """

    name: str
    text: str
    sha256: str
    note: str = ""

    @property
    def paragraphs(self) -> list[str]:
        """The text cut at blank lines."""
        return [part for part in self.text.split("\n\n") if part.strip()]

    @property
    def lines(self) -> list[str]:
        """The text cut at line ends."""
        return self.text.removesuffix("\n").split("\n")


class Corpus(Protocol):
    """What a file in this folder ends with, as `ENTRY`.

    A file may also declare the literal `DEFAULTS`: dials of `prepare` that are customary for it.
    """

    def __call__(self) -> Text:
        """Read the corpus, from this machine or from a verified download."""


def text_of(name: str, raw: bytes, note: str = "") -> Text:
    """A corpus from the bytes of a UTF-8 text.

    Raises:
        XtoolError: empty, or not UTF-8 (the position is named).
    """
    text = decode(raw, name)
    if not text.strip():
        raise XtoolError(f"{name}: the corpus is empty")
    return Text(name, text, hashlib.sha256(raw).hexdigest(), note)


def read_lines(path: Path) -> Text:
    """A file that holds one example a line.

    Raises:
        XtoolError: unreadable, empty, or not text.
    """
    raw = read_bytes(path, "give a file with one example a line")
    text = decode(raw, path)
    if not text:
        raise XtoolError(f"{path}: has no lines")
    return Text(str(path), text, hashlib.sha256(raw).hexdigest())


def read_corpus(name: str) -> Text:
    """The corpus of that name, the text file at that path, or standard input for `-`.

    Raises:
        UsageError: neither a known name nor a file.
        XtoolError: unreadable, empty, or not text.
    """
    if name == "-":
        raw = sys.stdin.buffer.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise XtoolError(f"standard input: more than {MAX_BYTES} bytes")
        return text_of("standard input", raw)
    if name in registry.names("corpora"):
        corpus: Corpus = registry.load("corpora", name)
        return corpus()
    path = Path(name)
    if not path.exists() and path.name == name and "." not in name:
        raise unknown("corpus or file", name, registry.names("corpora"))
    return text_of(path.name, read_bytes(path, "pipe text in with `-` as the corpus"))
