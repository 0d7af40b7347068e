"""Byte-pair encoding (Sennrich et al., 2016, arXiv:1508.07909), over bytes as in GPT-2.

The most frequent pair of neighbouring symbols becomes a new symbol, again and again, within words
as GPT-2 cuts them (Radford et al., 2019). The first 256 symbols are the bytes, so no text is
unknown. Learnt from the training text alone; what follows it has not been seen.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from xtool.errors import UsageError, XtoolError
from xtool.tokenizers import Tokenizer, TokenizerKind, symbol_type

if TYPE_CHECKING:
    import tokenizers

BYTES, DEFAULT, MOST = 256, 512, 1 << 16
CHUNK = 1 << 20  # characters
# Before a blank behind a letter a word always ends, so what follows can be encoded by itself.
CUT = re.compile(r"(?<=[A-Za-z])[ \n]")
# No word of a language is so long: it is cut, since merging takes the square of its length.
LONG = re.compile(r"\S{1024}(?=\S)|\s{1024}(?=\s)")


@dataclass(frozen=True)
class BpeTokenizer:
    """The merges in the order they were learnt, each two symbols with a blank between them."""

    merges: tuple[str, ...]

    def __post_init__(self) -> None:
        _split(self.merges)  # damaged ones are found here, not at the first use

    @cached_property
    def _pairs(self) -> list[tuple[str, str]]:
        return _split(self.merges)

    @cached_property
    def _symbols(self) -> dict[str, int]:
        """Every symbol's number: the bytes, then the merges; one may be merged in several ways."""
        found = dict.fromkeys([*_byte_symbols(), *map("".join, self._pairs)])
        return {symbol: number for number, symbol in enumerate(found)}

    @cached_property
    def _engine(self) -> "tokenizers.Tokenizer":
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers

        engine = Tokenizer(models.BPE(vocab=self._symbols, merges=self._pairs))
        engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        engine.decoder = decoders.ByteLevel()
        return engine

    @property
    def size(self) -> int:
        """How many symbols it knows."""
        return len(self._symbols)

    def header(self) -> dict[str, Any]:
        """The merges."""
        return {"name": "bpe", "merges": list(self.merges)}

    def encode(self, text: str) -> Tensor:
        """The symbols of a text, (T,) int32, or uint8 where there are no merges."""
        dtype = symbol_type(self.size)
        parts = [torch.tensor(self._engine.encode(one).ids, dtype=dtype) for one in _chunks(text)]
        return torch.cat(parts) if parts else torch.empty(0, dtype=dtype)

    def decode(self, symbols: Tensor) -> str:
        """The text of symbols (T,); bytes that are not UTF-8 become U+FFFD."""
        return str(self._engine.decode(symbols.tolist()))


def _split(merges: Sequence[str]) -> list[tuple[str, str]]:
    """Each merge as its two symbols, which bytes or earlier merges must have made.

    Raises:
        XtoolError: one that is no such pair.
    """
    pairs, known = [], set(_byte_symbols())
    for merge in merges:
        first, _, second = merge.partition(" ") if isinstance(merge, str) else ("", "", "")
        if not {first, second} <= known:
            raise XtoolError("the header's merges are not pairs of symbols that stand before")
        pairs.append((first, second))
        known.add(first + second)
    return pairs


def _byte_symbols() -> list[str]:
    """GPT-2's printable character for each byte, in the bytes' order."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in plain else next(others)) for byte in range(BYTES)]


def _chunks(text: str) -> Iterator[str]:
    """A text in parts that can be encoded by themselves."""
    start = 0
    for end in [*(found.end() for found in LONG.finditer(text)), len(text)]:
        while start < end:
            found = CUT.search(text, start + CHUNK, end)
            stop = found.start() if found else end
            yield text[start:stop]
            start = stop


class _Kind:
    def fit(self, parts: Mapping[str, str], size: int | None) -> Tokenizer:
        from tokenizers import Tokenizer, models, pre_tokenizers, trainers

        size = DEFAULT if size is None else size
        if not BYTES <= size <= MOST:
            raise UsageError(f"`--vocab-size` is {size}, bpe takes {BYTES} to {MOST}")
        learner = Tokenizer(models.BPE())
        learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=size,
            min_frequency=2,
            show_progress=False,
            initial_alphabet=_byte_symbols(),
        )
        learner.train_from_iterator(_chunks(parts["train"]), trainer)
        merges = json.loads(learner.to_str())["model"]["merges"]
        return BpeTokenizer(tuple(" ".join(pair) for pair in merges))

    def restore(self, header: dict[str, Any]) -> Tokenizer:
        merges = header.get("merges")
        if not isinstance(merges, list):
            raise XtoolError("the header's merges are not a list")
        return BpeTokenizer(tuple(merges))


ENTRY: TokenizerKind = _Kind()
