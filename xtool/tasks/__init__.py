"""Tasks: make examples from a corpus, score predictions. One file each."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float64, Integer
from torch import Tensor

from xtool import registry
from xtool.corpora import Text, read_corpus, read_lines
from xtool.dataset import Dataset, Drawn, Split, read_dataset, write_dataset
from xtool.errors import UsageError, XtoolError, located
from xtool.header import Header
from xtool.lineage import step
from xtool.seeds import derive
from xtool.storage import Source
from xtool.tokenizers import Tokenizer, restore

TABLED = ("learned", "sinusoidal", "sinusoidal-unpaired")
DRAWN = "drawn"  # the corpus of a task that reads none


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


def task_of(header: Header, where: str) -> Task:
    """The task of a data or model file.

    Raises:
        XtoolError: the header names none.
    """
    if "name" not in header.task:
        raise XtoolError(f"{where}: the header names no task")
    task: Task = registry.load("tasks", str(header.task["name"]))
    return task.of(header) if isinstance(task, OfHeader) else task


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
class Drawing(Protocol):
    """A task whose training examples are drawn, see `xtool.dataset.Drawn`."""

    def draw(
        self, header: Header, rows: Tensor | None, count: int, generator: torch.Generator, step: int
    ) -> tuple[Tensor, Tensor]:
        """Inputs and targets of a step, (B, ...), on the generator's device."""


def drawn(task: Task, header: Header, split: Drawn, count: int, seed: int) -> Split:
    """So many examples of a split that is drawn, as if they were stored."""
    assert isinstance(task, Drawing)
    generator = torch.Generator().manual_seed(derive(seed, "drawn"))
    return Split(*task.draw(header, split.rows, count, generator, 0))


def defaults(data: Header) -> dict[str, Any]:
    """The dials that the task of a data file puts in place of the usual defaults."""
    found: dict[str, Any] = registry.literal("tasks", str(data.task["name"]), "DEFAULTS", {})
    return found


def open_data(path: Path) -> Dataset:
    """Read a data file whose examples are what its task says.

    Raises:
        XtoolError: unreadable, of another length than the task's, not whole numbers, or a symbol or
            class outside the task's range.
        CheckFailed: its digest does not match.
    """
    data = read_dataset(path)
    with located(path):
        shape = task_of(data.header, str(path)).shape(data.header)
    for name, split in data.splits.items():
        if shape.d_input:
            _require_numbers(split, shape, f"{path}: split `{name}`")
            continue
        if isinstance(split, Tensor) != (shape.context is None):
            kind = "running text" if shape.context is None else "examples"
            raise XtoolError(f"{path}: split `{name}` is not the {kind} that its task has")
        if isinstance(split, Tensor):
            parts = [("tokens", split, shape.vocab_size or 0)]
        else:
            parts = [
                ("inputs", split.inputs, shape.vocab_size or 0),
                ("targets", split.targets, shape.n_outputs),
            ]
        for part, tensor, classes in parts:
            _require_symbols(tensor, shape.context, classes, f"{path}: `{name}.{part}`")
    return data


def _require_symbols(tensor: Tensor, context: int | None, classes: int, where: str) -> None:
    length = () if context is None else (context,)
    if tuple(tensor.shape[1:]) != length or tensor.is_floating_point():
        raise XtoolError(f"{where} is not {' x '.join(['N', *map(str, length)])} whole numbers")
    low, high = int(tensor.min()), int(tensor.max())
    if low < 0 or high >= classes:
        raise XtoolError(f"{where} holds {low} to {high}, the task has 0 to {classes - 1}")


def _require_numbers(split: Split | Tensor, shape: Shape, where: str) -> None:
    """Raise XtoolError unless a split holds vectors, as the task has them."""
    if isinstance(split, Drawn):
        return
    wanted = (shape.context, shape.d_input)
    if isinstance(split, Tensor) or tuple(split.inputs.shape[1:]) != wanted:
        raise XtoolError(f"{where} is not N x {wanted[0]} x {wanted[1]} numbers")
    if not (split.inputs.is_floating_point() and split.targets.is_floating_point()):
        raise XtoolError(f"{where} holds whole numbers")


def require_fit(config: Mapping[str, Any], data: Header, where: str) -> None:
    """Raise XtoolError unless a model reads and writes what the data has."""
    shape = task_of(data, where).shape(data)
    if bool(shape.d_input) != bool(config.get("d_input")):
        reads, holds = ("numbers", "symbols")[:: 1 if config.get("d_input") else -1]
        raise XtoolError(
            f"{where}: the data hold {holds}, the model reads {reads}",
            "prepare the data like the model's own; see `xtool inspect`",
        )
    if shape.d_input:
        _require_prompts(config, shape, where)
        return
    for name, needed in vars(shape).items():
        if needed is not None and config.get(name) != needed:
            raise XtoolError(
                f"the data needs `{name}` {needed}, the model has {config.get(name)}",
                "prepare the data like the model's own; see `xtool inspect`",
            )


def _require_prompts(config: Mapping[str, Any], shape: Shape, where: str) -> None:
    """Raise XtoolError unless a model reads prompts: as many numbers, and no more positions.

    Positions that are told by no table go on.
    """
    if config["d_input"] != shape.d_input:
        raise XtoolError(
            f"{where}: its points have {shape.d_input} `dims`, the model reads {config['d_input']}",
            f"prepare prompts with `--dims {config['d_input']}`",
        )
    most = config["context"]
    if shape.context and shape.context > most and config.get("positions") in TABLED:
        raise XtoolError(
            f"{where}: a prompt has {shape.context} positions, two a point; the model reads {most}",
            f"`--points {most // 2}` at most, or a model trained with `--positions rotary`",
        )


def fitted(data: Dataset, model: Header, where: str) -> Dataset:
    """Data as a model reads it, a running text as windows of its context.

    Args:
        data: as it was opened.
        model: the model's header.
        where: the data's name, for errors.

    Raises:
        XtoolError: the model reads or writes something else, or a text is shorter than its context.
    """
    require_fit(model.config, data.header, where)
    if model.tokenizer and model.tokenizer != data.header.tokenizer:
        raise XtoolError(
            f"{where}: its symbols stand for other characters than the model's, though there are "
            "as many",
            "prepare the data like the model's own; see `xtool inspect`",
        )
    return data.cut(model.config["context"])


def make_data(
    out: Path,
    name: str,
    corpus: str,
    lines: Mapping[str, Path],
    dials: Mapping[str, Any],
    seed: int,
    tokenizer_from: Path | None = None,
) -> str:
    """Prepare a task's data file and return its digest.

    Args:
        out: where it goes.
        name: the task.
        corpus: a corpus by name or path, or `-`; not read when `lines` are given.
        lines: files that hold one example a line, by split.
        dials: the task's own.
        seed: of the split.
        tokenizer_from: a model or data file whose tokenizer to use.
    """
    task: Task = registry.load("tasks", name)
    if lines and tokenizer_from:
        raise UsageError("`--lines` are ready examples, `--tokenizer-from` is for a text")
    if lines:
        texts = {split: read_lines(path) for split, path in lines.items()}
        made = task.prepare_lines(texts, dials)
        inputs = {split: text.sha256 for split, text in texts.items()}
        source: dict[str, Any] = {"corpus": "lines", "sha256": inputs}
    else:
        text = Text(corpus, "", "") if corpus == DRAWN else read_corpus(corpus)
        tokenizer, digest = _tokenizer_of(tokenizer_from) if tokenizer_from else (None, "")
        made = task.prepare(text, dials, seed, tokenizer)
        inputs = {"corpus": text.sha256, "tokenizer": digest}
        inputs = {name: value for name, value in inputs.items() if value}
        source = {"corpus": text.name, "sha256": text.sha256, "note": text.note}
    options = {"task": name, "corpus": source["corpus"], **dials}
    header = Header(
        kind="data",
        config=source,
        task=made.task,
        tokenizer=made.tokenizer,
        lineage=[step("prepare", options, inputs, seed)],
    )
    return write_dataset(out, header, made.splits)


def _tokenizer_of(path: Path) -> tuple[Tokenizer, str]:
    """The tokenizer of a file, and the file's digest."""
    with Source(path) as source:
        header = source.require_header("model", "data", "resume")
        digest = source.verify()
        with located(path):
            return restore(header.tokenizer), digest
