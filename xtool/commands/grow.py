"""Grow a model or a training state, and prove on the written file what is promised."""

from pathlib import Path
from typing import Annotated, Any

import typer

from xtool import registry
from xtool.commands._dials import completion, entry, known, peek, run_file
from xtool.commands._ui import (
    INPUT,
    MODEL,
    OUTPUT,
    SAID,
    Force,
    Notes,
    Out,
    Own,
    Quiet,
    Verbose,
    paths,
    write_stdout,
)
from xtool.config import Option, options, resolve

SIZES = [
    Option("n_layers", "int", None, "blocks"),
    Option("n_heads", "int", None, "attention heads"),
    Option("d_head", "int", None, "width of a head's queries and keys"),
    Option("d_value", "int", None, "width of a head's values"),
    Option("d_ff", "int", None, "width of the feed-forward part"),
    Option("d_hidden", "int", None, "width of a two-layer head"),
]
SEED = [Option("seed", "int", 0, "of what is drawn")]


def panels() -> dict[str, list[Option]]:
    """Sizes, and the dials of the operator that the command line names."""
    method = known("surgery/operators", peek("--method"))
    names = [method] if method else ["clone"]
    return {"Sizes": SIZES, f"Operator `{names[0]}`": options("surgery/operators", names[0]) + SEED}


def grow(
    model: Annotated[
        list[Path], typer.Argument(help="Models or training states, or - for their paths.")
    ],
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
    method: Annotated[
        str,
        typer.Option(
            help="The operator: auto (pad where it is exact, else clone), "
            + ", ".join(registry.names("surgery/operators"))
            + ".",
            rich_help_panel=MODEL,
            autocompletion=completion(["auto", *registry.names("surgery/operators")]),
            envvar="XTOOL_METHOD",
            show_envvar=False,
        ),
    ] = "auto",
    config_file: Annotated[
        Path | None,
        typer.Option("--config", help="A TOML file with a table `[grow]`.", rich_help_panel=INPUT),
    ] = None,
    own: Own = None,
    out: Out = None,
    force: Force = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done.", rich_help_panel=OUTPUT)
    ] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    **dials: Any,
) -> None:
    """Grow models; their paths go to standard output, the proof to standard error."""
    from xtool.atomic import require_writable
    from xtool.checkpoint import Reader, model_reader
    from xtool.commands._resize import changes, target
    from xtool.errors import UsageError
    from xtool.storage import Source
    from xtool.surgery.grow import Plan, plan
    from xtool.surgery.grow import grow as grow_file
    from xtool.surgery.state import grow_state, notes_on, state_reader

    notes = Notes(quiet, verbose)
    for path in own or ():
        registry.admit(str(path))
    if method != "auto":
        method = entry("surgery/operators", method)
    operator = options("surgery/operators", "clone" if method == "auto" else method)
    sizes = [Option("d_model", "int", None, ""), *SIZES]
    from_file = run_file(config_file, "grow", sizes + operator + SEED)
    layers = [(SAID, dials | {"d_model": d_model}), (str(config_file), from_file)]
    wanted = changes(resolve(sizes, layers))
    seed = resolve(SEED, layers)["seed"]
    values = resolve(operator, layers)
    found = paths(model)
    if out and len(found) > 1:
        raise UsageError(f"`-o` names one file, {len(found)} models were given")

    def make_plan(reader: Reader) -> Plan:
        return plan(reader, wanted, method, values, seed)

    for path in found:
        if dry_run:
            with Source(path) as source:
                whole = source.require_header("model", "resume").kind == "resume"
                chosen = make_plan((state_reader if whole else model_reader)(source))
            place = target(path, out, wanted)
            notes.say(f"{path} -> {place}: {', '.join(chosen.changes)}; {chosen.method}")
            continue
        place = target(path, out, wanted)
        require_writable(place, force)
        with Source(path) as source:
            header = source.require_header("model", "resume")
        whole = header.kind == "resume"
        chosen, proof, digest = (grow_state if whole else grow_file)(path, place, make_plan)
        kind = "exact" if chosen.exact else "approximate: the function has changed"
        notes.say(f"{path} -> {place}: {', '.join(chosen.changes)}")
        notes.say(f"{chosen.method} ({kind}): {proof}")
        for note in notes_on(chosen, header) if whole else ():
            notes.say(note)
        notes.detail(f"digest {digest}")
        write_stdout(f"{place}\n")
