"""Data files: the examples of a task, or a running text, split into train, dev and test.

A running text is stored once, as symbols in order. What a model reads of it are windows as long as
its context, which are views and take no memory, so one file serves models of every context.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from xtool.checkpoint import load, save
from xtool.errors import UsageError, XtoolError
from xtool.header import Header
from xtool.lineage import trained_on
from xtool.storage import Source, header_of

LARGEST_EPOCH = 1 << 40  # examples
# What the header of a running text counts of each split beside its tokens.
UNITS = {"char": "characters", "byte": "bytes"}


@dataclass(frozen=True)
class Split:
    """Inputs and targets of one split, both (N, T): what is evaluated, whole and in order.

    Of a running text they are the windows that follow one another from its first token, each
    target the token after its input; the last tokens, fewer than a window, are left out.

    Attributes:
        tokens: the running text that they are windows of; None for examples made one by one.
        units: characters and bytes a token, on average over the split, where they are known.
        extra: what a task keeps beside each example, (N, ...), by name.
    """

    inputs: Tensor
    targets: Tensor
    tokens: Tensor | None = None
    units: Mapping[str, float] = field(default_factory=dict)
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.inputs)

    def pool(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The inputs and targets that training draws from, on a device; `order` gives their rows.

        Of a running text a window begins at every token: all are views of one copy of it.
        """
        if self.tokens is None:
            return self.inputs.to(device), self.targets.to(device)
        tokens, length = self.tokens.to(device), self.inputs.shape[1]
        return tokens[:-1].unfold(0, length, 1), tokens[1:].unfold(0, length, 1)

    def order(self, generator: torch.Generator) -> Tensor:
        """The rows of `pool` that make an epoch, shuffled, (N,).

        Of a running text they are windows side by side from a place drawn within the first one; the
        last may have to move back to end with the text. Fewer tokens than a window are left out.
        """
        order = torch.randperm(len(self), generator=generator)  # (N,)
        if self.tokens is None:
            return order
        length = self.inputs.shape[1]
        first = torch.randint(length, (1,), generator=generator)
        return (first + order * length).clamp(max=len(self.tokens) - length - 1)  # (N,)


@dataclass(frozen=True)
class Drawn(Split):
    """Examples to train on that are made when they are asked for, and never stored.

    Attributes:
        size: how many count as an epoch.
        rows: a table that they are drawn from, (N, c), if there is one.
    """

    size: int = 1
    rows: Tensor | None = None

    @classmethod
    def of(cls, size: int, rows: Tensor | None = None) -> "Drawn":
        """A split without examples."""
        none = torch.empty(0, 1)
        return cls(none, none, size=size, rows=rows)

    def __len__(self) -> int:
        return self.size


def windows(tokens: Tensor, context: int, units: Mapping[str, float]) -> Split:
    """A running text (N,) of more than `context` tokens as a split."""
    inputs = tokens[:-1].unfold(0, context, context)  # (windows, T)
    return Split(inputs, tokens[1:].unfold(0, context, context), tokens, units)


@dataclass(frozen=True)
class Dataset:
    """A data file in memory: its header, and by name its splits, a running text as symbols (N,)."""

    header: Header
    splits: Mapping[str, Split | Tensor]

    def split(self, name: str) -> Split:
        """One split; a running text is to be `cut` before.

        Raises:
            XtoolError: the file has none of that name.
        """
        if name not in self.splits:
            raise XtoolError(f"the data has no split `{name}`", f"it has: {', '.join(self.splits)}")
        found = self.splits[name]
        assert isinstance(found, Split)
        return found

    def stored(self, name: str) -> Split:
        """One split whose examples stand in the file.

        Raises:
            UsageError: they are drawn when they are trained on.
        """
        found = self.split(name)
        if isinstance(found, Drawn):
            raise UsageError(
                f"the `{name}` examples are drawn as they are trained on", "take `dev` or `test`"
            )
        return found

    @property
    def longest(self) -> int:
        """The longest context of which every running text has an example."""
        texts = [split for split in self.splits.values() if isinstance(split, Tensor)]
        return min((len(tokens) - 1 for tokens in texts), default=1)

    def cut(self, context: int) -> "Dataset":
        """The same data with each running text as windows of `context` tokens.

        Raises:
            XtoolError: a split is too short for one window.
        """
        splits: dict[str, Split | Tensor] = dict(self.splits)
        for name, tokens in self.splits.items():
            if isinstance(tokens, Split):
                continue
            if len(tokens) <= context:
                raise XtoolError(
                    f"split `{name}` has {len(tokens)} tokens, one example of `context` {context} "
                    f"needs {context + 1}",
                    "lower `--context`, or prepare a longer text or a larger share of it",
                )
            counted = {unit: self.header.task.get(many) for unit, many in UNITS.items()}
            units = {u: n[name] / len(tokens) for u, n in counted.items() if n and name in n}
            splits[name] = windows(tokens, context, units)
        return replace(self, splits=splits)


def read_dataset(path: Path) -> Dataset:
    """Read a data file.

    Raises:
        XtoolError: not a data file, or its tensors are neither pairs of inputs and targets nor
            running texts.
        CheckFailed: its digest does not match.
    """
    header, tensors = load(path, "data")
    splits: dict[str, Split | Tensor] = {}
    for name in ("train", "dev", "test"):
        if (tokens := tensors.get(f"{name}.tokens")) is not None:
            if tokens.ndim != 1 or len(tokens) < 2:
                raise XtoolError(
                    f"{path}: split `{name}` is not a running text of 2 tokens or more"
                )
            splits[name] = tokens
        inputs, targets = tensors.get(f"{name}.inputs"), tensors.get(f"{name}.targets")
        if inputs is None or targets is None:
            continue
        if len(inputs) != len(targets) or not len(inputs):
            raise XtoolError(
                f"{path}: split `{name}` has {len(inputs)} inputs and {len(targets)} targets"
            )
        prefix = f"{name}.extra."
        extra = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        if any(len(one) != len(inputs) for one in extra.values()):
            raise XtoolError(f"{path}: split `{name}` has an extra tensor of another length")
        splits[name] = Split(inputs, targets, extra=extra)
    sizes = header.task.get("sizes", {})
    if isinstance(sizes, dict) and (size := sizes.get("epoch")):
        if type(size) is not int or not 1 <= size <= LARGEST_EPOCH:
            raise XtoolError(
                f"{path}: the header's epoch has {str(size)[:40]!r} examples, it must be 1 to "
                f"{LARGEST_EPOCH}"
            )
        splits["train"] = Drawn.of(size, tensors.get("train.rows"))
    if "train" not in splits:
        raise XtoolError(f"{path}: has no split `train`")
    return Dataset(header, splits)


def write_dataset(path: Path, header: Header, splits: Mapping[str, Split | Tensor]) -> str:
    """Write a data file, of examples or of running texts, and return its digest."""
    tensors = {}
    for name, split in splits.items():
        if isinstance(split, Tensor):
            tensors[f"{name}.tokens"] = split
        elif isinstance(split, Drawn):
            tensors |= {} if split.rows is None else {f"{name}.rows": split.rows}
        else:
            tensors[f"{name}.inputs"] = split.inputs
            tensors[f"{name}.targets"] = split.targets
            tensors |= {f"{name}.extra.{own}": tensor for own, tensor in split.extra.items()}
    return save(path, header, tensors)


def data_of(model: Path, given: Path | None = None) -> Path:
    """The data file that was given, or the one that a model was trained on.

    That is looked for by its digest, beside the model and then in the working folder.

    Raises:
        XtoolError: the lineage names no data, or no file in the folders has its digest.
    """
    if given:
        return given
    wanted = trained_on(header_of(model, "model", "resume").lineage)
    if wanted is None:
        raise XtoolError("the model's lineage names no data", "give it with `--data`")
    for folder in dict.fromkeys((model.parent.resolve(), Path.cwd().resolve())):
        for path in sorted(folder.glob("*.st")):
            with suppress(XtoolError), Source(path) as source:
                header = source.header
                if header and header.kind == "data" and header.digest == wanted:
                    return path
    raise XtoolError(
        f"the model's data ({wanted[:12]}) is not beside it nor in the working folder",
        "give it with `--data`",
    )
