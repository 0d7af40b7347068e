"""Prepare a task: a corpus becomes a data file with train, dev and test splits."""

from pathlib import Path
from typing import Annotated, Any

import typer

from xtool import registry
from xtool.commands._dials import completion, entry, known, run_file, words
from xtool.commands._ui import (
    INPUT,
    SAID,
    Force,
    Notes,
    Out,
    Own,
    Quiet,
    Verbose,
    one_path,
    write_stdout,
)
from xtool.config import Option, options, resolve

COMMON = [Option("seed", "int", 0, "of the split")]


def panels() -> dict[str, list[Option]]:
    """The dials of the task that the command line names."""
    named = [known("tasks", word) for word in words()[1:] if not word.startswith("-")]
    task = next((name for name in named if name), registry.names("tasks")[0])
    return {f"Task `{task}`": options("tasks", task), "Common": COMMON}


def prepare(
    task: Annotated[
        str,
        typer.Argument(
            help="The task: " + ", ".join(registry.names("tasks")) + ".",
            autocompletion=completion(registry.names("tasks")),
        ),
    ],
    corpus: Annotated[
        str | None,
        typer.Argument(
            help=(
                "builtin, builtin-large, text8, shakespeare, a text file, or - for standard input; "
                "for regression a CSV file, or nothing."
            ),
            autocompletion=completion(registry.names("corpora")),
        ),
    ] = None,
    lines: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            help="Ready examples, one a line, already normalised: TRAIN DEV; no test split.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    tokenizer_from: Annotated[
        Path | None,
        typer.Option(
            help="A model or data file whose tokenizer to use; - reads its path.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    out: Out = None,
    force: Force = False,
    config_file: Annotated[
        Path | None,
        typer.Option(
            "--config", help="A TOML file with a table `[prepare]`.", rich_help_panel=INPUT
        ),
    ] = None,
    own: Own = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    **dials: Any,
) -> None:
    """Make a task's data file from text.

    Its path goes to standard output.
    """
    from xtool.atomic import require_apart, require_writable
    from xtool.errors import UsageError
    from xtool.tasks import make_data

    notes = Notes(quiet, verbose)
    name = entry("tasks", task)
    if lines and corpus:
        raise UsageError("`--lines` takes the place of a corpus; give one of them")
    source = corpus or str(registry.literal("tasks", name, "CORPUS"))
    known_dials = options("tasks", name) + COMMON
    named = source in registry.names("corpora")
    customary = registry.literal("corpora", source, "DEFAULTS", {}) if named else {}
    layers = [
        (SAID, dials),
        (str(config_file), run_file(config_file, "prepare", known_dials)),
        ("the corpus", customary),
    ]
    values = resolve(known_dials, layers)
    seed = values.pop("seed")
    stem = Path(source).stem if corpus and corpus not in ("-", "builtin") else ""
    target = out or Path("-".join([part for part in (Path(name).stem, stem) if part]) + ".st")
    require_writable(target, force)
    like = one_path(tokenizer_from) if tokenizer_from else None
    own_files = registry.admitted().values()
    require_apart([target], [Path(source), *(lines or ()), config_file, like, *own_files])
    files = dict(zip(("train", "dev"), lines, strict=True)) if lines else {}
    digest = make_data(target, name, source, files, values, seed, like)
    notes.say(f"prepared {name} from {'lines' if lines else source}: {target} ({digest[:12]})")
    write_stdout(f"{target}\n")
