"""What tasks promise, and what some of them can do besides."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float64, Integer
from torch import Tensor

from xtool.corpora import Text
from xtool.dataset import Split
from xtool.header import Header
from xtool.tokenizers import Tokenizer


@dataclass(frozen=True)
class Shape:
    """What a model must read and write: V symbols in, T positions, C classes or numbers out.

    A `context` of None is for the model to choose. With `d_input` a position holds so many numbers
    in place of a symbol, and `vocab_size` is None.
    """

    vocab_size: int | None
    context: int | None
    n_outputs: int
    d_input: int | None = None


@dataclass(frozen=True)
class Prepared:
    """A task's examples, or running texts as symbols (N,), with what the header says of them."""

    task: dict[str, Any]
    tokenizer: dict[str, Any]
    splits: Mapping[str, Split | Tensor]


@runtime_checkable
class Task(Protocol):
    """What a file in this folder ends with, as `ENTRY`.

    A file also declares the literals `OPTIONS` (dials of `prepare`), `CORPUS` (the default one) and
    `DEFAULTS` (dials of `train` that suit the task better than the general defaults).

    Attributes:
        metrics: the names that `score` gives.
    """

    metrics: tuple[str, ...]

    def prepare(
        self, text: Text, dials: Mapping[str, Any], seed: int, tokenizer: Tokenizer | None = None
    ) -> Prepared:
        """Examples from a text, split into train, dev and test.

        Args:
            text: the corpus.
            dials: the task's own.
            seed: of the split.
            tokenizer: the one to use, where a model brings it.

        Raises:
            UsageError: dials that do not go together, or a tokenizer that the task cannot use.
            XtoolError: a text that does not give what is asked for.
        """

    def prepare_lines(self, files: Mapping[str, Text], dials: Mapping[str, Any]) -> Prepared:
        """Examples that stand ready, one a line, by split.

        Raises:
            UsageError: the task has no such examples.
        """

    def shape(self, header: Header) -> Shape:
        """What a model for this data must read and write."""

    def loss(
        self, logits: Float[Tensor, "B T C"], targets: Integer[Tensor, "B T"]
    ) -> Float[Tensor, "B T"]:
        """Nats an output position: (B, T, C) and (B, T) -> (B, T)."""

    def score(
        self, logits: Float[Tensor, "B T C"], targets: Integer[Tensor, "B T"]
    ) -> dict[str, Float64[Tensor, " B"]]:
        """Each metric's mean over the positions of each example, (B,) in float64."""

    def baselines(self, train: Split, split: Split) -> dict[str, Float64[Tensor, " N"]]:
        """What needs no model, such as the majority class, (N,) in float64.

        Their names stand in `averages.BASELINES`.
        """

    def show(
        self, header: Header, inputs: Tensor, targets: Tensor, predictions: Tensor | None
    ) -> list[str]:
        """Examples as lines that a person reads, from (N, T) each."""


@runtime_checkable
class OfHeader(Protocol):
    """A task that is not the same for every file."""

    def of(self, header: Header) -> Task:
        """The task of a file."""


@runtime_checkable
class ByExamples(Protocol):
    """A task whose errors fall with the number of examples in the prompt."""

    def by_examples(self, logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Each metric after 0, 1, ... examples, (B, n) in float64.

        Baselines of the same are in the `extra` of a split.
        """


@runtime_checkable
class Lengths(Protocol):
    """A task whose examples need not be as long as a model's context."""

    def lengths(self, header: Header) -> list[tuple[int, int]]:
        """From which step of a lineage on examples to train on have how many positions."""


@runtime_checkable
class Drawing(Protocol):
    """A task whose training examples are drawn, see `xtool.dataset.Drawn`."""

    def draw(
        self, header: Header, rows: Tensor | None, count: int, generator: torch.Generator, step: int
    ) -> tuple[Tensor, Tensor]:
        """Inputs and targets of a step, (B, ...), on the generator's device."""
