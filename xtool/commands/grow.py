"""Grow a model or a training state, and prove on the written file what is promised."""

from pathlib import Path
from typing import Annotated, Any

import typer

from xtool import registry
from xtool.commands._dials import completion, entry, known, peek_dial, run_file, words
from xtool.commands._race import RACE, Race, run_race
from xtool.commands._resize import OPTIONS, PANEL, Vocab, Width, changes
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
    files,
)
from xtool.config import Option, options, resolve
from xtool.rows import FORMATS

SEED = [Option("seed", "int", 0, "of what is drawn")]


def panels() -> dict[str, list[Option]]:
    """Sizes, and the dials of the operator that the command line names."""
    method = known("surgery/operators", peek_dial("--method"))
    name = method or "clone"
    own = [dial for dial in options("surgery/operators", name) if dial.name != "data"] + SEED
    taken = {dial.name for dial in own}
    race = [dial for dial in RACE if dial.name not in taken]
    return {"Sizes": PANEL, f"Operator `{name}`": own, "Race": race}


def grow(
    model: Annotated[
        list[Path], typer.Argument(help="Models or training states, or - for their paths.")
    ],
    d_model: Width = None,
    vocab_size: Vocab = None,
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
    unroll: Annotated[
        bool,
        typer.Option(
            "--unroll",
            help="Give each loop of a looped model blocks of its own, with equal outputs.",
            rich_help_panel=MODEL,
        ),
    ] = False,
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
            help="Data to fit to, to race on, and to prove on, with the loss before and after.",
            rich_help_panel=INPUT,
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
    tol: Annotated[
        float | None,
        typer.Option(
            help="What may differ, relative to the largest logit. [default: 1e-5, float64 1e-10]",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    proof: Annotated[
        bool,
        typer.Option(
            "--proof/--no-proof",
            help="Compare the written file with the small model.",
            rich_help_panel=OUTPUT,
        ),
    ] = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done.", rich_help_panel=OUTPUT)
    ] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    **dials: Any,
) -> None:
    """Make models larger, keeping what they know.

    Their paths go to standard output, the proof to standard error.
    """
    notes = Notes(quiet, verbose)
    if method != "auto":
        method = entry("surgery/operators", method)
    operator = options("surgery/operators", "clone" if method == "auto" else method)
    from_file = run_file(config_file, "grow", OPTIONS + operator + SEED + RACE)
    said = dials | {"d_model": d_model, "vocab_size": vocab_size}
    said |= {"data": str(data) if data else None}
    layers = [(SAID, said), (str(config_file), from_file)]
    seed = resolve(SEED, layers)["seed"]
    values = resolve(operator, layers)
    sizes = resolve(OPTIONS, layers)
    wanted = changes(sizes, enough=unroll or values != resolve(operator, []))
    models = files(model)
    if unroll:
        from xtool.commands._loops import unroll_each

        beside: dict[str, object] = {
            "--dry-run": dry_run,
            "--race": race,
            "--tol": tol,
            "--no-proof": not proof,
        }
        beside |= {"--method": method != "auto", "--data": data, "--format": form}
        more = [*wanted, *(name for name, on in beside.items() if on)]
        unroll_each(models, more, config_file, out, force, notes)
        return
    from xtool.commands._grow import Asked, grow_each
    from xtool.errors import UsageError

    if race:
        if method != "auto" or len(models) > 1:
            raise UsageError("`--race` takes one model, and every operator instead of `--method`")
        run_race(
            Race(models[0], wanted, layers, seed, data, form, out, force, dry_run, config_file),
            notes,
        )
        return
    if form or any(word.startswith("--race-") for word in words()):
        raise UsageError("`--format` and `--race-...` are for `--race`")
    set_by = {dial.name for dial in operator for _, v in layers if v.get(dial.name) is not None}
    grow_each(
        models,
        Asked(
            changes=wanted,
            method=method,
            dials=values,
            said=set_by,
            seed=seed,
            proof=proof,
            tol=tol,
            data=data,
            out=out,
            force=force,
            dry_run=dry_run,
            config_file=config_file,
        ),
        notes,
    )
