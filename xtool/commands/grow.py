"""Grow a model to a larger one, and prove on the written file what it promises."""

from pathlib import Path
from typing import Annotated, Any

import typer

from xtool import registry
from xtool.commands._dials import completion, entry, known, peek, run_file, words
from xtool.commands._race import RACE, Asked, run_race
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
from xtool.rows import FORMATS

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
    own = options("surgery/operators", names[0]) + SEED
    taken = {dial.name for dial in own}
    race = [dial for dial in RACE if dial.name not in taken]
    return {"Sizes": SIZES, f"Operator `{names[0]}`": own, "Race": race}


def grow(
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
    race: Annotated[
        bool,
        typer.Option(
            "--race",
            help="Train every operator's model a little, rank them by dev loss beside controls, "
            "and with -o write the best operator's grown model, untrained.",
            rich_help_panel="Race",
        ),
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option(
            help="The data of the race; by default the lineage's.", rich_help_panel="Race"
        ),
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="The race's rows: table, csv, jsonl or markdown; a table on a terminal, else csv.",
            rich_help_panel="Race",
            autocompletion=completion(FORMATS),
        ),
    ] = None,
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

    notes = Notes(quiet, verbose)
    for path in own or ():
        registry.admit(str(path))
    if method != "auto":
        method = entry("surgery/operators", method)
    operator = options("surgery/operators", "clone" if method == "auto" else method)
    sizes = [Option("d_model", "int", None, ""), *SIZES]
    from_file = run_file(config_file, "grow", sizes + operator + SEED + RACE)
    layers = [(SAID, dials | {"d_model": d_model}), (str(config_file), from_file)]
    wanted = changes(resolve(sizes, layers))
    seed = resolve(SEED, layers)["seed"]
    values = resolve(operator, layers)
    found = paths(model)
    if race:
        if method != "auto" or len(found) > 1:
            raise UsageError("`--race` takes one model, and every operator instead of `--method`")
        asked = Asked(found[0], wanted, layers, seed, data, form, out, force, dry_run)
        run_race(asked, notes)
        return
    if data or form or any(word.startswith("--race-") for word in words()):
        raise UsageError("`--data`, `--format` and `--race-...` are for `--race`")
    if out and len(found) > 1:
        raise UsageError(f"`-o` names one file, {len(found)} models were given")

    def make_plan(reader: Reader) -> Plan:
        return plan(reader, wanted, method, values, seed)

    for path in found:
        if dry_run:
            with Source(path) as source:
                chosen = make_plan(model_reader(source))
            place = target(path, out, wanted)
            notes.say(f"{path} -> {place}: {', '.join(chosen.changes)}; {chosen.method}")
            continue
        place = target(path, out, wanted)
        require_writable(place, force)
        chosen, proof, digest = grow_file(path, place, make_plan)
        kind = "exact" if chosen.exact else "approximate: the function has changed"
        notes.say(f"{path} -> {place}: {', '.join(chosen.changes)}")
        notes.say(f"{chosen.method} ({kind}): {proof}")
        notes.detail(f"digest {digest}")
        write_stdout(f"{place}\n")
