"""Tokenizers: text to symbols and back. One file each; the header holds what rebuilds one."""

from typing import Any, Protocol

import torch
from torch import Tensor

from xtool import registry
from xtool.errors import XtoolError


class Tokenizer(Protocol):
    """A tokenizer that is ready for use."""

    @property
    def size(self) -> int:
        """How many symbols it knows."""

    def header(self) -> dict[str, Any]:
        """What `restore` needs, as JSON values."""

    def encode(self, text: str) -> Tensor:
        """The symbols of a text, (T,), in `symbol_type`.

        Raises:
            XtoolError: a character that it does not know; the position is named.
        """

    def decode(self, symbols: Tensor) -> str:
        """The text of symbols (T,)."""


class TokenizerKind(Protocol):
    """What a file in this folder ends with, as `ENTRY`."""

    def fit(self, text: str) -> Tokenizer:
        """A tokenizer that knows all of a text."""

    def restore(self, header: dict[str, Any]) -> Tokenizer:
        """The tokenizer that wrote this header."""


def symbol_type(size: int) -> torch.dtype:
    """The smallest type that holds `size` symbols: uint8 up to 256 of them, else int32."""
    return torch.uint8 if size <= 256 else torch.int32


def fit(name: str, text: str) -> Tokenizer:
    """A tokenizer of that name that knows all of a text.

    Raises:
        UsageError: no such tokenizer.
    """
    kind: TokenizerKind = registry.load("tokenizers", name)
    return kind.fit(text)


def restore(header: dict[str, Any]) -> Tokenizer:
    """The tokenizer of a file's header.

    Raises:
        XtoolError: the header names none.
    """
    if "name" not in header:
        raise XtoolError("the header names no tokenizer", "was the data made by `xtool prepare`?")
    kind: TokenizerKind = registry.load("tokenizers", str(header["name"]))
    return kind.restore(header)
