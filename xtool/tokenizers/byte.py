"""One symbol a byte of UTF-8: 256 of them, whatever the text."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xtool.tokenizers import Tokenizer, TokenizerKind, require_no_size


@dataclass(frozen=True)
class ByteTokenizer:
    """Bytes by their value."""

    size: int = 256

    def header(self) -> dict[str, Any]:
        """Nothing but the name."""
        return {"name": "byte"}

    def encode(self, text: str) -> Tensor:
        """The bytes of a text, (T,) uint8."""
        raw = bytearray(text.encode())
        return torch.frombuffer(raw, dtype=torch.uint8) if raw else torch.empty(0).byte()

    def decode(self, symbols: Tensor) -> str:
        """The text of bytes (T,); those that are not UTF-8 become U+FFFD."""
        return bytes(symbols.tolist()).decode(errors="replace")


class _Kind:
    def fit(self, parts: Mapping[str, str], size: int | None) -> Tokenizer:
        require_no_size("byte", size)
        return ByteTokenizer()

    def restore(self, header: dict[str, Any]) -> Tokenizer:
        return ByteTokenizer()


ENTRY: TokenizerKind = _Kind()
