"""One symbol a character, from a fixed alphabet."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xtool.errors import XtoolError
from xtool.tokenizers import Tokenizer, TokenizerKind, require_no_size, symbol_type

CHUNK = 1 << 20  # characters


@dataclass(frozen=True)
class CharTokenizer:
    """Characters by their place in `alphabet`."""

    alphabet: str

    def __post_init__(self) -> None:
        if not isinstance(self.alphabet, str) or len(set(self.alphabet)) != len(self.alphabet):
            raise XtoolError("the header's alphabet is not text of different characters")
        if not self.alphabet:
            raise XtoolError("the header's alphabet is empty")

    @property
    def size(self) -> int:
        """How many characters it knows."""
        return len(self.alphabet)

    def header(self) -> dict[str, Any]:
        """The alphabet."""
        return {"name": "char", "alphabet": self.alphabet}

    def encode(self, text: str) -> Tensor:
        """The symbols of a text, (T,) uint8, or int32 where there are more than 256.

        Raises:
            XtoolError: a character outside the alphabet.
        """
        if unknown := set(text) - set(self.alphabet):
            at, alphabet = min(map(text.index, unknown)), self.alphabet
            known = repr(alphabet) if len(alphabet) < 100 else f"of {len(alphabet)} characters"
            line, column = text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)
            place = f"line {line}, column {column}" if line > 1 else f"column {column}"
            raise XtoolError(f"character {text[at]!r} ({place}) is not in the alphabet {known}")
        places = torch.zeros(1 + max(map(ord, self.alphabet)), dtype=symbol_type(self.size))
        places[_codes(self.alphabet).long()] = torch.arange(self.size).to(places.dtype)
        parts = [text[at : at + CHUNK] for at in range(0, len(text), CHUNK)]
        return torch.cat([places[_codes(part)] for part in parts] or [places[:0]])

    def decode(self, symbols: Tensor) -> str:
        """The text of symbols (T,)."""
        return "".join(self.alphabet[symbol] for symbol in symbols.tolist())


def _codes(text: str) -> Tensor:
    """The code points of a text that is not empty, (T,)."""
    return torch.frombuffer(bytearray(text.encode("utf-32-le", "surrogatepass")), dtype=torch.int32)


class _Kind:
    def fit(self, parts: Mapping[str, str], size: int | None) -> Tokenizer:
        require_no_size("char", size)
        return CharTokenizer("".join(sorted(set().union(*parts.values()))))

    def restore(self, header: dict[str, Any]) -> Tokenizer:
        return CharTokenizer(header.get("alphabet", ""))


ENTRY: TokenizerKind = _Kind()
