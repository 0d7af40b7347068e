"""One symbol a character, from a fixed alphabet."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xtool.errors import XtoolError
from xtool.tokenizers import Tokenizer, TokenizerKind


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
        """The symbols of a text, (T,) int64.

        Raises:
            XtoolError: a character outside the alphabet.
        """
        places = {character: place for place, character in enumerate(self.alphabet)}
        try:
            return torch.tensor([places[character] for character in text], dtype=torch.int64)
        except KeyError as error:
            at = text.index(error.args[0])
            raise XtoolError(
                f"character {error.args[0]!r} (column {at + 1}) is not in the alphabet "
                f"{self.alphabet!r}"
            ) from error

    def decode(self, symbols: Tensor) -> str:
        """The text of symbols (T,)."""
        return "".join(self.alphabet[int(symbol)] for symbol in symbols)


class _Kind:
    def restore(self, header: dict[str, Any]) -> Tokenizer:
        return CharTokenizer(header.get("alphabet", ""))


ENTRY: TokenizerKind = _Kind()
