"""Letter counting: for each character, how often it occurred before in the string, at most twice.

The homework task behind the growth experiment brianakl/bootstrapped_model_up_scaling (GitHub,
2023): strings of 20 characters over 27 symbols, three classes. A model solves it by attending to
equal letters on the left, so it shows within seconds whether surgery kept what a model knows.
"""

import random
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float64, Integer, UInt8
from torch import Tensor

from xtool.corpora import Text
from xtool.corpora._normalise import ALPHABET, normalise, pieces
from xtool.dataset import Split
from xtool.errors import UsageError, XtoolError
from xtool.header import Header
from xtool.seeds import derive
from xtool.tasks import Prepared, Shape, Task
from xtool.tasks._symbols import SymbolScores
from xtool.tokenizers import Tokenizer, restore
from xtool.tokenizers.char import CharTokenizer

OPTIONS = [
    ("length", "int", 20, "characters a string"),
    ("cap", "int", 2, "counts above this are this"),
    ("train_size", "int", 10000, "strings to train on"),
    ("dev_size", "int", 1000, "strings to choose by"),
    ("test_size", "int", 1000, "strings to report on"),
]
CORPUS = "builtin"
AT_ONCE = 1 << 26  # pairs of positions that are compared
DEFAULTS = {
    "d_model": 48,
    "n_layers": 1,
    "n_heads": 1,
    "batch_size": 16,
    "schedule": "constant",
}


class Counting(SymbolScores):
    """The task; see the module."""

    def prepare(
        self, text: Text, dials: Mapping[str, Any], seed: int, tokenizer: Tokenizer | None = None
    ) -> Prepared:
        """Strings from the normalised text; each paragraph, or piece of a long one, has one split.

        Raises:
            UsageError: a size below 1, a length above 10,000, a cap above 254, or a tokenizer.
            XtoolError: the corpus gives fewer different strings than are asked for.
        """
        if tokenizer is not None:
            raise UsageError("`counting` has its own alphabet, `--tokenizer-from` is for text")
        _check(dials)
        wanted = {name: dials[f"{name}_size"] for name in ("train", "dev", "test")}
        found = _cut(text, dials["length"], wanted, seed)
        total = sum(len(strings) for strings in found.values())
        if total < sum(wanted.values()):
            raise XtoolError(
                f"{text.name}: gives {total} different strings of {dials['length']} characters, "
                f"{sum(wanted.values())} are asked for",
                "lower `--train-size`, `--dev-size` and `--test-size`, or use a larger corpus",
            )
        return _prepared(found, dials)

    def prepare_lines(self, files: Mapping[str, Text], dials: Mapping[str, Any]) -> Prepared:
        """Strings that stand ready, one a line.

        Raises:
            XtoolError: a line of another length or alphabet; the line is named.
        """
        _check(dials)
        found = {split: _require_lines(text, dials["length"]) for split, text in files.items()}
        return _prepared(found, dials)

    def shape(self, header: Header) -> Shape:
        """27 symbols, `length` positions, `cap` + 1 classes."""
        length, cap = header.task.get("length"), header.task.get("cap")
        if type(length) is not int or type(cap) is not int:
            raise XtoolError("the header's counting task lacks its length or cap")
        return Shape(restore(header.tokenizer).size, length, cap + 1)

    def baselines(self, train: Split, split: Split) -> dict[str, Float64[Tensor, " N"]]:
        """The accuracy of always saying the commonest class of the training split."""
        commonest = train.targets.long().flatten().bincount().argmax()
        return {"majority": (split.targets == commonest).double().mean(1)}

    def show(
        self, header: Header, inputs: Tensor, targets: Tensor, predictions: Tensor | None
    ) -> list[str]:
        """Each string over its targets and, if given, its predictions, the wrong ones marked."""
        tokenizer = restore(header.tokenizer)
        lines: list[str] = []
        for i in range(len(inputs)):
            lines += [f"input   {tokenizer.decode(inputs[i])}", f"target  {_digits(targets[i])}"]
            if predictions is not None:
                wrong = "".join(" ^"[int(w)] for w in predictions[i] != targets[i])
                lines += [f"model   {_digits(predictions[i])}", f"        {wrong}".rstrip()]
        return lines


def _digits(counts: Tensor) -> str:
    return "".join("0123456789+"[min(int(count), 10)] for count in counts)


def _check(dials: Mapping[str, Any]) -> None:
    for name, low, high in (("length", 1, 10_000), ("cap", 1, 254)):
        if not low <= dials[name] <= high:
            raise UsageError(f"`--{name}` is {dials[name]}, it must be {low} to {high}")
    for name in ("train_size", "dev_size", "test_size"):
        if dials[name] < 1:
            raise UsageError(
                f"`--{name.replace('_', '-')}` is {dials[name]}, it must be at least 1"
            )


def _cut(text: Text, length: int, wanted: dict[str, int], seed: int) -> dict[str, list[str]]:
    """Paragraphs in random order, each cut into strings for the split that lacks most."""
    longest = max(1000, 4 * length)
    parts = [piece for raw in text.paragraphs for piece in pieces(normalise(raw), longest)]
    random.Random(derive(seed, "split")).shuffle(parts)
    found: dict[str, list[str]] = {name: [] for name in wanted}
    seen: set[str] = set()
    for part in parts:
        open_ = [name for name in wanted if len(found[name]) < wanted[name]]
        if not open_:
            break
        here = min(open_, key=lambda name: len(found[name]) / wanted[name])
        for start in range(0, len(part) - length + 1, length):
            string = part[start : start + length]
            if string not in seen and len(found[here]) < wanted[here]:
                seen.add(string)
                found[here].append(string)
    return found


def _require_lines(text: Text, length: int) -> list[str]:
    for number, line in enumerate(text.lines, 1):
        if len(line) != length:
            raise XtoolError(
                f"{text.name}: line {number} has {len(line)} characters, the task has {length}",
                "remove the line, or set `--length`",
            )
        if bad := set(line) - set(ALPHABET):
            raise XtoolError(f"{text.name}: line {number} holds {min(bad)!r}, not a to z or space")
    return text.lines


def counts(symbols: Integer[Tensor, "N T"], cap: int) -> UInt8[Tensor, "N T"]:
    """How often each symbol occurred earlier in its row, at most `cap`: (N, T) -> (N, T) uint8."""
    out = []
    for rows in torch.split(symbols, max(1, AT_ONCE // symbols.shape[1] ** 2)):
        same = rows[:, :, None] == rows[:, None, :]  # (n, T, T)
        out.append(same.tril(-1).sum(-1).clamp(max=cap).to(torch.uint8))  # (n, T)
    return torch.cat(out)


def _prepared(found: dict[str, list[str]], dials: Mapping[str, Any]) -> Prepared:
    tokenizer = CharTokenizer(ALPHABET)
    places = bytes.maketrans(ALPHABET.encode(), bytes(range(len(ALPHABET))))
    splits, sizes = {}, {}
    for name, strings in found.items():
        raw = bytearray("".join(strings).encode().translate(places))
        inputs = torch.frombuffer(raw, dtype=torch.uint8).view(len(strings), dials["length"])
        splits[name] = Split(inputs, counts(inputs, dials["cap"]))
        sizes[name] = len(strings)

    task = {"name": "counting", "length": dials["length"], "cap": dials["cap"], "sizes": sizes}

    return Prepared(task, tokenizer.header(), splits)


ENTRY: Task = Counting()
