"""What `grow --unroll` and `slice --fold` do with the models they were given."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xtool.commands._resize import places
from xtool.commands._ui import Notes, write_stdout
from xtool.errors import UsageError
from xtool.surgery.loops import fold, unroll
from xtool.surgery.proof import Proof
from xtool.tasks import open_data


def unroll_each(
    models: Sequence[Path],
    beside: Sequence[str],
    config_file: Path | None,
    out: Path | None,
    force: bool,
    notes: Notes,
) -> None:
    """Unroll models one after another.

    Raises:
        UsageError: a size or an option `beside` it; see `unroll`.
    """
    if beside:
        raise UsageError(
            f"`--unroll` changes no size and takes no other option: {', '.join(beside)}",
            "grow the result",
        )
    found = places(models, out, lambda path: _named(path, "unrolled"), [config_file], force)
    for path, place in zip(models, found, strict=True):
        _say(path, place, *unroll(path, place), "equal to the bit", notes)


def fold_each(
    models: Sequence[Path],
    loops: int,
    rank: int,
    others: Mapping[str, Any],
    data: Path | None,
    out: Path | None,
    force: bool,
    notes: Notes,
) -> None:
    """Fold models one after another.

    Raises:
        UsageError: a size beside it; see `fold`.
    """
    if any(value is not None for value in others.values()):
        raise UsageError("`--fold` goes with no size and no `--replica`", "slice first, then fold")
    found = places(models, out, lambda path: _named(path, f"{loops}-loops"), [data], force)
    loss_on = open_data(data) if data else None
    for path, place in zip(models, found, strict=True):
        said, proof = fold(path, place, loops, loss_on, rank)
        moved = "approximate: the function has changed"
        _say(path, place, said, proof, moved if proof.difference else "nothing is lost", notes)


def _named(path: Path, end: str) -> Path:
    return path.with_name(f"{path.name.removesuffix('.st')}-{end}.st")


def _say(path: Path, place: Path, changed: str, found: Proof, promise: str, notes: Notes) -> None:
    notes.say(f"{path} -> {place}: {changed}")
    notes.say(f"{promise}: {found}")
    write_stdout(f"{place}\n")
