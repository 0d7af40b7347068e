"""Evaluate models on whole splits: rows, each with its interval and its cost."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from xtool.commands._dials import completion
from xtool.commands._ui import (
    INPUT,
    MODEL,
    OUTPUT,
    Notes,
    Own,
    Quiet,
    Verbose,
    chosen_format,
    files,
    write_stdout,
)
from xtool.rows import FORMATS

TRACES = ("heads", "maps")
MOST_LOOPS = 100_000


def evaluate(
    model: Annotated[
        list[Path],
        typer.Argument(help="Models or files of rows (.jsonl, .csv), or - for their paths."),
    ],
    data: Annotated[
        Path | None,
        typer.Option(help="The data; by default that of the lineage.", rich_help_panel=INPUT),
    ] = None,
    split: Annotated[
        str, typer.Option(help="train, dev, test or all.", rich_help_panel=INPUT)
    ] = "dev",
    against: Annotated[
        str | None,
        typer.Option(
            help="Also the paired difference from this model; with --over, from this label.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    own: Own = None,
    device: Annotated[
        str,
        typer.Option(
            help="auto, cpu, cuda or mps.",
            rich_help_panel=MODEL,
            envvar="XTOOL_DEVICE",
            show_envvar=False,
        ),
    ] = "auto",
    threads: Annotated[
        int | None,
        typer.Option(
            help="CPU threads; all cores unless given.",
            rich_help_panel=MODEL,
            envvar="XTOOL_THREADS",
            show_envvar=False,
        ),
    ] = None,
    trace: Annotated[
        str | None,
        typer.Option(
            help="Also look into attention, by layer and head, on up to 256 examples: heads "
            "(window lengths, look-back, entropy, gates) or maps (the weights too, in up to "
            "32 x 32 cells).",
            rich_help_panel=OUTPUT,
            autocompletion=completion(TRACES),
        ),
    ] = None,
    loops: Annotated[
        str | None,
        typer.Option(
            help="Also score a looped model after FIRST:LAST loops, FIRST:LAST:STEP, or A,B,C.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    by_examples: Annotated[
        bool,
        typer.Option(
            "--by-examples",
            help="Also score by the number of examples in the prompt.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    label: Annotated[
        list[str] | None,
        typer.Option(help="Names a model in the rows; one for each.", rich_help_panel=OUTPUT),
    ] = None,
    where: Annotated[
        list[str] | None, typer.Option(help="Keep rows with COLUMN=VALUE.", rich_help_panel=OUTPUT)
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="table, csv, jsonl or markdown; a table on a terminal, else csv.",
            rich_help_panel=OUTPUT,
            autocompletion=completion(FORMATS),
        ),
    ] = None,
    pivot: Annotated[
        tuple[str, str] | None,
        typer.Option(help="A results table: columns DOWN ACROSS.", rich_help_panel=OUTPUT),
    ] = None,
    over: Annotated[
        str | None,
        typer.Option(
            help="Average rows that differ only by COLUMN, as seed.", rich_help_panel=OUTPUT
        ),
    ] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Score models on whole splits; average rows."""
    notes = Notes(quiet, verbose)
    found = files(model)
    from xtool import averages
    from xtool import rows as tables
    from xtool.errors import UsageError, unknown
    from xtool.evaluation.models import Evaluator
    from xtool.inputs import decode, read_bytes
    from xtool.training.setup import device_of, threads_of

    shape = chosen_format(form)
    if label and len(label) != len(found):
        raise UsageError(f"{len(label)} labels for {len(found)} models", "one `--label` for each")
    if trace is not None and trace not in TRACES:
        raise unknown("trace", trace, TRACES)
    threads_of(threads)
    other = Path(against) if against and not over else None
    asked = _numbers(loops) if loops else []
    evaluator = Evaluator(data, split.split(","), device_of(device), trace, asked, by_examples)
    rows = []
    names: Sequence[str | None] = label or [None] * len(found)
    for path, name in zip(found, names, strict=True):
        notes.detail(f"evaluating {path}")
        if path.suffix in (".jsonl", ".csv"):
            rows += tables.read(decode(read_bytes(path, "give a file of rows"), path), str(path))
        else:
            rows += evaluator.rows(path, name, other)
    rows = tables.select(rows, where or [])
    if over:
        pairs = averages.paired(rows, against, over) if against else []
        rows = averages.average(rows, over) + pairs
    if pivot is None:
        write_stdout(tables.render(rows, shape))
        return
    lines, columns = averages.pivot(rows, *pivot)
    if shape in ("table", "markdown"):
        write_stdout(tables.to_table(lines, columns, markdown=shape == "markdown"))
    else:
        write_stdout(tables.to_jsonl(lines) if shape == "jsonl" else tables.to_csv(lines, columns))


def _numbers(text: str) -> list[int]:
    """The loops of `1:20`, `1:100:5` or `1,5,20`.

    Raises:
        UsageError: they are not such numbers.
    """
    from xtool.errors import UsageError

    try:
        parts = [int(part) for part in text.replace(",", ":").split(":")]
    except ValueError:
        parts = []
    ranged = ":" in text and "," not in text
    if ranged and len(parts) in (2, 3) and parts[-1] > 0:
        parts = list(range(parts[0], parts[1] + 1, parts[2] if len(parts) == 3 else 1))
    elif ranged:
        parts = []
    if not parts or min(parts) < 1 or max(parts) > MOST_LOOPS:
        raise UsageError(
            f"`--loops {text}` are not numbers of 1 to {MOST_LOOPS}", "such as 1:100 or 1,5,20"
        )
    return parts
