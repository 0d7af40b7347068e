"""Slice a smaller, standalone model out of a larger one."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from xtool.commands._budget import Budget, Examples, Latency
from xtool.commands._dials import completion
from xtool.commands._resize import OPTIONS, PANEL, Vocab, Width, changes, places, target
from xtool.commands._ui import (
    MODEL,
    SAID,
    Device,
    Force,
    Notes,
    Out,
    Own,
    Quiet,
    Threads,
    Verbose,
    files,
    write_stdout,
)
from xtool.config import Option, resolve
from xtool.errors import UsageError

LAYERS = "blocks: how many of the first ones, or which, as 0-3,5"
CHOICES = [
    replace(option, type="text", help=LAYERS) if option.name == "n_layers" else option
    for option in PANEL
]


def panels() -> dict[str, list[Option]]:
    """The sizes."""
    return {"Sizes": CHOICES}


def slice_(
    model: Annotated[list[Path], typer.Argument(help="Models, or - for their paths.")],
    d_model: Width = None,
    vocab_size: Vocab = None,
    replica: Annotated[
        int | None,
        typer.Option(
            help="Take out this one of a file of several models, from 0.", rich_help_panel=MODEL
        ),
    ] = None,
    fold: Annotated[
        int | None,
        typer.Option(
            help="Make a deep model loop so many times over the mean of its blocks.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option(
            help="With --fold: the rank of what each loop keeps of its difference from the mean.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="To sort by, to choose a size on, or to give the loss before and after on; that "
            "of the lineage unless given, but for --fold.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option(
            help="importance: keep the units that matter most on some training examples, in place "
            "of the first ones.",
            rich_help_panel=MODEL,
            autocompletion=completion(["importance"]),
        ),
    ] = None,
    params: Budget = None,
    latency: Latency = None,
    examples: Examples = None,
    device: Device = "auto",
    threads: Threads = None,
    untrained_ok: Annotated[
        bool,
        typer.Option(
            "--untrained-ok", help="Also sizes that were never trained.", rich_help_panel=MODEL
        ),
    ] = False,
    own: Own = None,
    out: Out = None,
    force: Force = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    **dials: Any,
) -> None:
    """Cut smaller models out of larger ones.

    Their paths go to standard output.
    """
    notes = Notes(quiet, verbose)
    layers = _layers(dials.pop("n_layers", None))
    given = dials | {"d_model": d_model, "vocab_size": vocab_size}
    budgets = {"params": params, "latency": latency}
    budgeted = any(budgets.values())
    enough = replica is not None or fold is not None or sort is not None or budgeted
    sizes = resolve(OPTIONS, [(SAID, given)])
    wanted = changes(sizes | {"n_layers": layers}, enough)
    found = files(model)
    from xtool.training.devices import threads_of

    threads_of(threads)
    if rank is not None and fold is None:
        raise UsageError("`--rank` is for `--fold`", "`--fold 4 --rank 8`")
    if budgeted:
        from xtool.commands._budget import Where, slice_each

        beside = [*wanted, *(["fold"] if fold is not None else []), *(["sort"] if sort else [])]
        where = Where(data, examples, device, replica)
        slice_each(found, budgets, beside, where, out, force, notes)
        return
    if fold is not None:
        from xtool.commands._loops import fold_each

        others = {**wanted, "replica": replica, "sort": sort}
        fold_each(found, fold, rank or 0, others, data, out, force, notes)
        return
    if sort not in (None, "importance"):
        raise UsageError(f"`--sort {sort}`: it is importance, or left out")
    if data is not None and not sort:
        raise UsageError("`--data` is for `--sort`, `--fold` and budgets: else no loss is measured")
    from xtool.surgery.slice import slice_model

    names = wanted if replica is None else {**wanted, "replica": replica}
    from xtool.dataset import data_of

    read = [data_of(path, data) for path in found] if sort else []
    outputs = places(found, out, lambda path: target(path, None, names, "sorted"), read, force)
    for path, place in zip(found, outputs, strict=True):
        if sort:
            from xtool.commands._slice import slice_sorted

            said, digest = slice_sorted(path, place, wanted, data, replica)
        else:
            changed, digest = slice_model(path, place, wanted, replica, untrained_ok)
            part = "part of the parent's" if isinstance(layers, list) else "a prefix"
            said = f"{', '.join(changed)}; every tensor is {part}, to the bit"
        notes.say(f"{path} -> {place}: {said}")
        notes.detail(f"digest {digest}")
        write_stdout(f"{place}\n")


def _layers(text: str | None) -> int | list[int] | None:
    """How many blocks, or which: `4`, `0-3,5`.

    Raises:
        UsageError: neither.
    """
    if text is None:
        return None
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", part.strip())
        if not match:
            raise UsageError(f"`--n-layers {text}` is neither a number nor layers such as 0-3,5")
        first, last = int(match[1]), int(match[2] or match[1])
        if first > last:
            raise UsageError(f"`--n-layers {text}`: {part} falls", "layers rise: 0-3,5")
        found += range(first, last + 1)
    return found[0] if text.strip().isdigit() else found
