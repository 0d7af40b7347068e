"""Slice a smaller, standalone model out of a larger one."""

from pathlib import Path
from typing import Annotated, Any

import typer

from xtool import registry
from xtool.commands._ui import SAID, Force, Notes, Out, Own, Quiet, Verbose, paths, write_stdout
from xtool.commands.grow import SIZES
from xtool.config import Option, resolve


def panels() -> dict[str, list[Option]]:
    """The sizes."""
    return {"Sizes": SIZES}


def slice_(
    model: Annotated[list[Path], typer.Argument(help="Models, or - for their paths.")],
    d_model: Annotated[
        int | None,
        typer.Option(
            "--to",
            "--d-model",
            help="The new d_model.",
            rich_help_panel="Sizes",
            envvar="XTOOL_D_MODEL",
            show_envvar=False,
        ),
    ] = None,
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
    from xtool.atomic import require_writable
    from xtool.commands._resize import changes, target
    from xtool.errors import UsageError
    from xtool.surgery.slice import slice_model

    notes = Notes(quiet, verbose)
    for path in own or ():
        registry.admit(str(path))
    sizes = [Option("d_model", "int", None, ""), *SIZES]
    wanted = changes(resolve(sizes, [(SAID, dials | {"d_model": d_model})]))
    found = paths(model)
    if out and len(found) > 1:
        raise UsageError(f"`-o` names one file, {len(found)} models were given")
    for path in found:
        place = target(path, out, wanted)
        require_writable(place, force)
        changed, digest = slice_model(path, place, wanted)
        notes.say(f"{path} -> {place}: {', '.join(changed)}; every tensor is a prefix, to the bit")
        notes.detail(f"digest {digest}")
        write_stdout(f"{place}\n")
