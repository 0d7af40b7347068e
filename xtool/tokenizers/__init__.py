"""Tokenizers: text to symbols and back. One file each; the header holds what rebuilds one."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from xtool import registry
from xtool.errors import UsageError, XtoolError


@runtime_checkable
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

    def fit(self, parts: Mapping[str, str], size: int | None) -> Tokenizer:
        """A tokenizer that knows all parts of a text.

        Args:
            parts: by split; what is learnt is learnt from `train`.
            size: how many symbols are asked for, where that is a choice.

        Raises:
            UsageError: a size that it cannot have.
        """

    def restore(self, header: dict[str, Any]) -> Tokenizer:
        """The tokenizer that wrote this header."""


def symbol_type(size: int) -> torch.dtype:
    """The smallest type that holds `size` symbols: uint8 up to 256 of them, else int32."""
    return torch.uint8 if size <= 256 else torch.int32


def fit(name: str, parts: Mapping[str, str], size: int | None = None) -> Tokenizer:
    """A tokenizer of that name that knows all parts of a text, by split.

    Raises:
        UsageError: no such tokenizer, or a size that it cannot have.
    """
    kind: TokenizerKind = registry.load("tokenizers", name)
    return kind.fit(parts, size)


def require_no_size(name: str, size: int | None) -> None:
    """Raise UsageError when a size is asked for of a tokenizer that has no choice."""
    if size is not None:
        raise UsageError(
            f"`--vocab-size` is for bpe, the symbols of {name} are what they are",
            "add `--tokenizer bpe`, or leave it out",
        )


def restore(header: dict[str, Any]) -> Tokenizer:
    """The tokenizer of a file's header.

    Raises:
        XtoolError: the header names none.
    """
    if "name" not in header:
        raise XtoolError("the header names no tokenizer", "was the data made by `xtool prepare`?")
    kind: TokenizerKind = registry.load("tokenizers", str(header["name"]))
    return kind.restore(header)


def texts_of(header: dict[str, Any]) -> list[str]:
    """The text of each symbol of the tokenizer that wrote a header."""
    tokenizer = restore(header)
    return [tokenizer.decode(torch.tensor([symbol])) for symbol in range(tokenizer.size)]
