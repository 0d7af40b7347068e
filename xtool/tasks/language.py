"""Language: at each place of a running text, the token that comes next.

The text is cut into train, dev and test by position, in this order, and each is one stream of
tokens, characters unless another tokenizer is named. The loss is given in nats a token, and so that
tokenizers can be compared, in bits a character and a byte of the split's text: of UTF-8 with plain
line ends, as it was read.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from xtool.corpora import Text
from xtool.dataset import UNITS, Split
from xtool.errors import UsageError, XtoolError
from xtool.header import Header
from xtool.tasks import Prepared, Shape, Task
from xtool.tasks._symbols import SymbolScores
from xtool.tokenizers import Tokenizer, fit, restore

OPTIONS = [
    ("tokenizer", "@tokenizers", None, "what a token is; char unless given"),
    ("vocab_size", "int", None, "symbols of bpe, 256 of them the bytes; 512 unless given"),
    ("dev_fraction", "float", 0.1, "part of the text to choose by, behind what is trained on"),
    ("test_fraction", "float", 0.0, "part of the text to report on, its end"),
]
CORPUS = "builtin"
DEFAULTS = {"context": 64}
ROWS = 4096
PAIRED = 1024  # symbols, of which pairs are counted


class Language(SymbolScores):
    """The task; see the module."""

    def prepare(
        self, text: Text, dials: Mapping[str, Any], seed: int, tokenizer: Tokenizer | None = None
    ) -> Prepared:
        """Train, dev and test as running texts; nothing is drawn, so the seed changes nothing.

        The characters of a tokenizer are those of the whole text, dev and test too.

        Raises:
            UsageError: fractions that leave nothing for dev or for train, or a tokenizer both given
                and named.
            XtoolError: a split of fewer than two tokens, or a text that a given tokenizer does not
                know.
        """
        parts = _cut(text.text, dials["dev_fraction"], dials["test_fraction"])
        if tokenizer is None:
            tokenizer = fit(dials["tokenizer"] or "char", parts, dials["vocab_size"])
        elif dials["tokenizer"] is not None or dials["vocab_size"] is not None:
            raise UsageError("`--tokenizer-from` brings the tokenizer; leave the other dials out")
        try:
            tokens = {name: tokenizer.encode(part) for name, part in parts.items()}
        except XtoolError as error:
            raise _unknown(text, tokenizer, error) from error
        for name, stream in tokens.items():
            if len(stream) < 2:
                raise XtoolError(
                    f"{text.name}: {len(text.text)} characters leave {len(stream)} tokens for the "
                    f"split `{name}`, it needs 2 or more",
                    "use a longer text, or change `--dev-fraction` and `--test-fraction`",
                )
        task = {
            "name": "language",
            "tokens": {name: len(stream) for name, stream in tokens.items()},
            "characters": {name: len(part) for name, part in parts.items()},
            "bytes": {name: len(part.encode()) for name, part in parts.items()},
        }
        return Prepared(task, tokenizer.header(), tokens)

    def prepare_lines(self, files: Mapping[str, Text], dials: Mapping[str, Any]) -> Prepared:
        """Lines are no running text.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            "`language` takes a running text, `--lines` gives examples that stand one a line",
            "name the text file as the corpus",
        )

    def shape(self, header: Header) -> Shape:
        """As many classes as symbols; the context is the model's to choose.

        Raises:
            XtoolError: the header does not say what its text is.
        """
        counted = [header.task.get(many) for many in ("tokens", *UNITS.values())]
        tables = [one for one in counted if isinstance(one, dict)]
        numbers = [n for one in tables for n in one.values()]
        if len(tables) < len(counted) or not all(type(n) is int and n > 0 for n in numbers):
            raise XtoolError("the header's language task lacks the sizes of its splits")
        size = restore(header.tokenizer).size
        return Shape(size, None, size)

    def baselines(self, train: Split, split: Split) -> dict[str, Float64[Tensor, " N"]]:
        """What the frequencies of tokens in the training split give.

        `majority` is the accuracy of always saying the commonest, `unigram` the loss of their
        frequencies, `bigram` that of the frequencies after each token, where there are not too many
        pairs to count; with one added to each count so that none is 0.
        """
        splits = (train.inputs, train.targets, split.inputs, split.targets)
        size = 1 + max(int(each.max()) for each in splits)
        counts = _pairs(train, size) if size <= PAIRED else None  # (V, V)
        ones = train.targets.flatten().bincount(minlength=size) if counts is None else counts.sum(0)
        loss = -torch.log((ones + 1).double() / (ones + 1).sum())  # (V,)
        targets = torch.split(split.targets, ROWS)
        found = {
            "majority": torch.cat([(part == ones.argmax()).double().mean(1) for part in targets]),
            "unigram": torch.cat([loss[part.long()].mean(1) for part in targets]),
        }
        if counts is not None:
            pairs = -torch.log((counts + 1).double() / (counts + 1).sum(1, keepdim=True))  # (V, V)
            inputs = torch.split(split.inputs, ROWS)
            found["bigram"] = torch.cat(
                [
                    pairs[before.long(), after.long()].mean(1)
                    for before, after in zip(inputs, targets, strict=True)
                ]
            )
        return found

    def show(
        self, header: Header, inputs: Tensor, targets: Tensor, predictions: Tensor | None
    ) -> list[str]:
        """Each window over its targets and, if given, its predictions, the wrong ones marked."""
        tokenizer = restore(header.tokenizer)

        def pieces(tokens: Tensor) -> list[str]:
            return [_visible(tokenizer.decode(token)) for token in torch.split(tokens, 1)]

        lines: list[str] = []
        for i in range(len(inputs)):
            lines += [f"input   {''.join(pieces(inputs[i]))}"]
            lines += [f"target  {''.join(pieces(targets[i]))}"]
            if predictions is not None:
                said, wrong = pieces(predictions[i]), predictions[i] != targets[i]
                marks = "".join(" ^"[int(w)] * len(p) for p, w in zip(said, wrong, strict=True))
                lines += [f"model   {''.join(said)}", f"        {marks}".rstrip()]
        return lines


def _unknown(text: Text, tokenizer: Tokenizer, error: XtoolError) -> XtoolError:
    """The error of a text that a tokenizer does not know, with the place in the whole text."""
    try:
        tokenizer.encode(text.text)
    except XtoolError as whole:
        error = whole
    return XtoolError(
        f"{text.name}: {error.message}",
        "remove what the model has not seen, or train one of bytes or byte pairs, which know all",
    )


def _cut(text: str, dev_fraction: float, test_fraction: float) -> dict[str, str]:
    """Train, dev and test, in this order in the text; no test where its fraction is 0."""
    if not (dev_fraction > 0 and test_fraction >= 0 and dev_fraction + test_fraction < 1):
        raise UsageError(
            f"`--dev-fraction` is {dev_fraction} and `--test-fraction` {test_fraction}: the first "
            "must be above 0, the second not below, and their sum below 1"
        )
    test = len(text) - round(len(text) * test_fraction)
    dev = test - round(len(text) * dev_fraction)
    parts = {"train": text[:dev], "dev": text[dev:test]}
    return parts | {"test": text[test:]} if test_fraction else parts


def _pairs(split: Split, size: int) -> Int64[Tensor, "{size} {size}"]:
    """How often each token follows each other in a split's windows."""
    counts = torch.zeros(size * size, dtype=torch.int64)
    parts = zip(torch.split(split.inputs, ROWS), torch.split(split.targets, ROWS), strict=True)
    for before, after in parts:
        counts += (before.long() * size + after).flatten().bincount(minlength=size * size)
    return counts.view(size, size)


def _visible(text: str) -> str:
    """Text with a picture in place of each control character, U+FFFD of others without a shape."""
    return "".join(
        c
        if c.isprintable()
        else chr(0x2400 + ord(c))
        if ord(c) < 32
        else "\N{REPLACEMENT CHARACTER}"
        for c in text
    )


ENTRY: Task = Language()
