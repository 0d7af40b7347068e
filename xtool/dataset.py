"""Data files: the examples of a task, split into train, dev and test."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from xtool.checkpoint import load, save
from xtool.errors import XtoolError
from xtool.header import Header
from xtool.storage import Source


@dataclass(frozen=True)
class Split:
    """Inputs and targets of one split, both (N, T)."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True)
class Dataset:
    """A data file in memory: its header and its splits by name."""

    header: Header
    splits: dict[str, Split]

    def split(self, name: str) -> Split:
        """One split.

        Raises:
            XtoolError: the file has none of that name.
        """
        if name not in self.splits:
            raise XtoolError(f"the data has no split `{name}`", f"it has: {', '.join(self.splits)}")
        return self.splits[name]


def read_dataset(path: Path) -> Dataset:
    """Read a data file.

    Raises:
        XtoolError: not a data file, or its tensors are not pairs of inputs and targets.
        CheckFailed: its digest does not match.
    """
    header, tensors = load(path, "data")
    splits = {}
    for name in ("train", "dev", "test"):
        inputs, targets = tensors.get(f"{name}.inputs"), tensors.get(f"{name}.targets")
        if inputs is None or targets is None:
            continue
        if len(inputs) != len(targets) or not len(inputs):
            raise XtoolError(
                f"{path}: split `{name}` has {len(inputs)} inputs and {len(targets)} targets"
            )
        splits[name] = Split(inputs, targets)
    if "train" not in splits:
        raise XtoolError(f"{path}: has no split `train`")
    return Dataset(header, splits)


def write_dataset(path: Path, header: Header, splits: dict[str, Split]) -> str:
    """Write a data file and return its digest."""
    tensors = {}
    for name, split in splits.items():
        tensors[f"{name}.inputs"] = split.inputs
        tensors[f"{name}.targets"] = split.targets
    return save(path, header, tensors)


def find_data(header: Header, folders: Sequence[Path]) -> Path:
    """The data file that a model was trained on, looked for by its digest.

    Args:
        header: of the model.
        folders: where to look, in order.

    Raises:
        XtoolError: the lineage names no data, or no file in the folders has its digest.
    """
    last = [one.inputs["data"] for one in header.lineage if "data" in one.inputs][-1:]
    if not last:
        raise XtoolError("the model's lineage names no data", "give it with `--data`")
    for folder in dict.fromkeys(path.resolve() for path in folders):
        for path in sorted(folder.glob("*.st")):
            with suppress(XtoolError), Source(path) as source:
                if source.header and source.header.kind == "data" and source.header.digest in last:
                    return path
    raise XtoolError(
        f"the model's data ({last[0][:12]}) is not beside it nor in the working folder",
        "give it with `--data`",
    )
