"""What `grow` and `slice` share: the sizes that were asked for, and the name of the output."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xtool.errors import UsageError


def changes(sizes: Mapping[str, Any]) -> dict[str, int]:
    """The sizes that were given.

    Raises:
        UsageError: none was.
    """
    given = {name: int(size) for name, size in sizes.items() if size is not None}
    if not given:
        raise UsageError("no size given", "`--to N` sets d_model; see `--help` for the others")
    return given


def target(path: Path, out: Path | None, wanted: Mapping[str, int]) -> Path:
    """`-o`, or beside the input: `small-96.st`, `small-n_layers4.st`, `small-96.resume.st`."""
    if out is not None:
        return out
    parts = [str(v) if k == "d_model" else f"{k}{v}" for k, v in wanted.items()]
    stem = path.name.removesuffix(".st")
    end = ".resume.st" if stem.endswith(".resume") else ".st"
    return path.with_name("-".join([stem.removesuffix(".resume"), *parts]) + end)
