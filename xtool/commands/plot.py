"""Plot rows: bars, curves, one picture for several models, bands over seeds."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from xtool import registry
from xtool.commands._dials import completion, entry
from xtool.commands._ui import INPUT, OUTPUT, Force, Notes, Quiet, Verbose, read_stdin, write_stdout


def plot(
    rows: Annotated[
        list[Path], typer.Argument(help="Rows: CSV or JSON lines, or - for those piped in.")
    ],
    kind: Annotated[
        str,
        typer.Option(
            help="The kind of figure: " + ", ".join(registry.names("plots")) + ".",
            autocompletion=completion(registry.names("plots")),
            rich_help_panel=INPUT,
        ),
    ] = "bars",
    x: Annotated[
        str | None,
        typer.Option(help="Column along the axis; label or lineage_epoch.", rich_help_panel=INPUT),
    ] = None,
    y: Annotated[
        str | None, typer.Option(help="The metric; accuracy, else loss.", rich_help_panel=INPUT)
    ] = None,
    by: Annotated[
        str | None, typer.Option(help="Column that tells series apart.", rich_help_panel=INPUT)
    ] = None,
    pairs: Annotated[
        str | None,
        typer.Option(help="Pairs of tokens, a~b,a~A, for --kind pairs.", rich_help_panel=INPUT),
    ] = None,
    where: Annotated[
        list[str] | None, typer.Option(help="Keep rows with COLUMN=VALUE.", rich_help_panel=INPUT)
    ] = None,
    title: Annotated[
        str | None, typer.Option(help="Above the figure.", rich_help_panel=OUTPUT)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="A png, svg, pdf or interactive html file.", rich_help_panel=OUTPUT
        ),
    ] = None,
    save_rows: Annotated[
        Path | None,
        typer.Option(
            help="The rows that are drawn, as .csv or .jsonl; html has them inside.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    force: Force = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Draw rows as a figure.

    The picture's path goes to standard output.
    """
    from xtool import rows as tables
    from xtool.atomic import replacing, require_apart, require_writable
    from xtool.errors import UsageError
    from xtool.inputs import decode, read_bytes

    notes = Notes(quiet, verbose)
    name = entry("plots", kind)
    if pairs is not None and name != "pairs":
        raise UsageError("`--pairs` is for `--kind pairs`")
    target = out or Path(f"{name}.png")
    outputs = [target]
    if save_rows:
        outputs.append(save_rows)
        if save_rows.suffix not in (".csv", ".jsonl"):
            raise UsageError(f"{save_rows}: cannot write rows so", "end the name in .csv or .jsonl")
    for one in outputs:
        require_writable(one, force)
    require_apart(outputs, rows)
    found = []
    for path in rows:
        piped = str(path) == "-"
        hint = "give a file of rows, or - for a pipe"
        text = read_stdin() if piped else decode(read_bytes(path, hint), path)
        found += tables.read(text, "standard input" if piped else str(path))
    chosen = tables.select(found, where or [])
    from xtool.plots import _draw

    asked = replace(_draw.request(chosen, name, x, y, by), pairs=pairs)
    text = ""
    if save_rows:
        text = tables.render([*asked.rows, *asked.baselines], save_rows.suffix.lstrip("."))
    _draw.draw(asked, name, title, target)
    if save_rows:
        with replacing(save_rows) as (file, _):
            file.write(text.encode())
    notes.detail(f"{len(asked.rows)} rows of {asked.y}")
    write_stdout(f"{target}\n")
