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
    Device,
    Notes,
    Own,
    Quiet,
    Threads,
    Verbose,
    chosen_format,
    files,
    write_stdout,
)
from xtool.rows import FORMATS

TRACES = ("heads", "maps")
MASKS = ("state", "input")
ROWS = (".jsonl", ".csv")


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
        list[str] | None,
        typer.Option(
            help="Also the paired difference from this model, of several from that of the same "
            "sizes; with --over, from this label.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option(
            help="Score a model in this size, as 16 or d_ff=64,128; all for those nested in it.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    untrained_ok: Annotated[
        bool,
        typer.Option(
            "--untrained-ok", help="Also sizes that were never trained.", rich_help_panel=MODEL
        ),
    ] = False,
    front: Annotated[
        int | None,
        typer.Option(
            help="Score the uniform sizes of a nested model and the best mix under each of so many "
            "budgets of parameters; `front` says which sizes no other beats.",
            rich_help_panel=MODEL,
            min=1,
            max=1000,
        ),
    ] = None,
    speed: Annotated[
        bool,
        typer.Option("--speed", help="Also positions a second.", rich_help_panel=OUTPUT),
    ] = False,
    own: Own = None,
    device: Device = "auto",
    threads: Threads = None,
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
    residual: Annotated[
        bool,
        typer.Option(
            "--residual",
            help="Also how far state and output of a looped model move in each loop.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    exits: Annotated[
        str | None,
        typer.Option(
            help="Also score where each prompt leaves the loops once its state, or its output, "
            "moves less than this part of itself; several as A,B.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    mask: Annotated[
        str | None,
        typer.Option(
            help="Before each loop, set the state or the input to 0 but for --keep.",
            rich_help_panel=OUTPUT,
            autocompletion=completion(MASKS),
        ),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(
            help="first:N or last:N positions; several as first:0:62:4, first to last by step.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    state_noise: Annotated[
        float,
        typer.Option(
            help="Standard deviation of noise on the state between loops.", rich_help_panel=OUTPUT
        ),
    ] = 0.0,
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
    from xtool.training.devices import device_of, threads_of

    shape = chosen_format(form)
    if label and len(label) != len(found):
        raise UsageError(f"{len(label)} labels for {len(found)} models", "one `--label` for each")
    if trace is not None and trace not in TRACES:
        raise unknown("trace", trace, TRACES)
    threads_of(threads)
    if over and against and len(against) > 1:
        raise UsageError("with `--over`, `--against` is one label", "give it once")
    others = [Path(one) for one in against or []] if not over else []
    from xtool.commands._details import details_of

    wanted = details_of(loops, by_examples, residual, exits, mask, keep, state_noise)
    detail = wanted if wanted.looped or by_examples else None
    from xtool.evaluation.sizes import SizeRequest

    sizes = SizeRequest(size or (), untrained_ok, speed)
    evaluator = Evaluator(data, split.split(","), device_of(device), trace, detail, sizes)
    asks = wanted.looped or by_examples or trace is not None or size or speed
    if front and (asks or untrained_ok or others):
        raise UsageError(
            "`--front` chooses sizes itself and scores them plainly",
            "leave out `--size`, `--against` and what looks inside",
        )
    for_models = {"label": label, "data": data, "against": others, "split": split != "dev"}
    given = [f"`--{flag}`" for flag, value in for_models.items() if value]
    holding = [path.suffix in ROWS for path in found]
    if given and (all(holding) or (label and any(holding))):
        raise UsageError(
            f"{', '.join(given)}: for models, and the files hold rows",
            "choose rows with `--where split=test`; `--against` takes a label with `--over seed`",
        )
    rows: list[tables.Row] = []
    names: Sequence[str | None] = label or [None] * len(found)
    for path, name in zip(found, names, strict=True):
        notes.detail(f"evaluating {path}")
        if path.suffix in ROWS:
            if asks or front:
                raise UsageError(
                    f"{path} holds rows, from which no size, loop, exit, mask or trace can be read",
                    "name the models",
                )
            more = tables.read(decode(read_bytes(path, "give a file of rows"), path), str(path))
            rows += averages.unseen(more, rows)
        elif front:
            from xtool.evaluation.front import front_rows

            rows += front_rows(evaluator, path, name, front)
        else:
            rows += evaluator.rows(path, name, others)
    rows = tables.select(rows, where or [])
    if over:
        pairs = averages.paired(rows, against[0], over) if against else []
        rows = averages.average(rows, over) + pairs
    if pivot is None:
        write_stdout(tables.render(rows, shape))
        return
    lines, columns = averages.pivot(rows, *pivot)
    if shape in ("table", "markdown"):
        write_stdout(tables.to_table(lines, columns, markdown=shape == "markdown"))
    else:
        write_stdout(tables.to_jsonl(lines) if shape == "jsonl" else tables.to_csv(lines, columns))
