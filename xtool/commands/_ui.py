"""What the commands share: paths from standard input, notes on standard error, common options."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from xtool import registry
from xtool.errors import UsageError, XtoolError, from_os, printable, unknown
from xtool.inputs import MAX_BYTES, decode, require_files
from xtool.rows import FORMATS

INPUT, MODEL, OUTPUT = "Input", "Model", "Output"
# Where a dial's value came from, in errors.
SAID = "the command line or environment"


def _admit(given: list[Path] | None) -> list[Path] | None:
    for path in given or ():
        registry.admit(str(path))
    return given


# The files are admitted while the command line is parsed; a command only names the option.
Own = Annotated[
    list[Path] | None,
    typer.Option(
        "--own",
        help="A file of your own that the model uses, `.py`.",
        metavar="<path>",
        callback=_admit,
        rich_help_panel=INPUT,
    ),
]
Out = Annotated[
    Path | None, typer.Option("--out", "-o", help="Where to write.", rich_help_panel=OUTPUT)
]
Force = Annotated[
    bool, typer.Option("--force", help="Replace an existing output.", rich_help_panel=OUTPUT)
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="No notes, no progress.", rich_help_panel=OUTPUT)
]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="More notes.", rich_help_panel=OUTPUT)
]


Device = Annotated[
    str,
    typer.Option(
        help="auto, cpu, cuda or mps.",
        rich_help_panel=INPUT,
        envvar="XTOOL_DEVICE",
        show_envvar=False,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        help="CPU threads; all cores unless given.",
        rich_help_panel=INPUT,
        envvar="XTOOL_THREADS",
        show_envvar=False,
    ),
]


class Notes:
    """Notes for a person, on standard error.

    Args:
        quiet: say nothing.
        verbose: say more.
    """

    def __init__(self, quiet: bool, verbose: bool) -> None:
        if quiet and verbose:
            raise UsageError("`--quiet` and `--verbose` exclude each other")
        self.quiet, self.verbose = quiet, verbose

    def say(self, text: str) -> None:
        """A line, unless quiet."""
        if not self.quiet:
            print(printable(text), file=sys.stderr, flush=True)

    def detail(self, text: str) -> None:
        """A line, only if verbose."""
        if self.verbose:
            self.say(text)


def spoken_for() -> bool:
    """Whether another of the processes that `torchrun` started speaks for this one."""
    return os.environ.get("RANK", "0") != "0"


def chosen_format(form: str | None) -> str:
    """The format of rows that was asked for, else a table on a terminal and CSV elsewhere.

    Raises:
        UsageError: unknown.
    """
    if form and form not in FORMATS:
        raise unknown("format", form, FORMATS)
    return form or ("table" if sys.stdout.isatty() else "csv")


def paths(given: Iterable[Path]) -> list[Path]:
    """The given paths; `-` stands for those on standard input, one a line.

    Raises:
        XtoolError: nothing was given, or standard input was empty or held rows.
    """
    out: list[Path] = []
    for path in given:
        if str(path) != "-":
            out.append(path)
            continue
        lines = [line.strip() for line in read_stdin().splitlines()]
        found = [Path(line) for line in lines if line]
        if not found:
            raise XtoolError(
                "standard input holds no path",
                "the command before the pipe failed or wrote nothing",
            )
        if lines[0].startswith(("{", "label,")):
            raise XtoolError(
                "standard input holds rows, where paths of files are read",
                "write the rows to a file and give that; `xtool plot -` reads them piped in",
            )
        out += found
    return out


def files(given: Iterable[Path]) -> list[Path]:
    """As `paths`, after a look that all are there, which comes before slow imports.

    Raises:
        XtoolError: see `paths`; or a path is no readable file.
    """
    found = paths(given)
    require_files(found, "give the path of a file")
    return found


def one_path(given: Path) -> Path:
    """As `files`, for a place where exactly one goes.

    Raises:
        XtoolError: standard input held several.
    """
    found = files([given])
    if len(found) != 1:
        raise XtoolError(f"standard input holds {len(found)} paths, exactly one is needed")
    return found[0]


def read_stdin() -> str:
    """All of standard input as text.

    Raises:
        XtoolError: it is not UTF-8 text.
    """
    try:
        raw = sys.stdin.buffer.read(MAX_BYTES + 1)
    except OSError as error:
        raise from_os("standard input", error) from error
    if len(raw) > MAX_BYTES:
        raise XtoolError(f"standard input: more than {MAX_BYTES} bytes")
    return decode(raw, "standard input")


def write_stdout(text: str) -> None:
    """Data for the next command.

    Raises:
        XtoolError: it cannot be written.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise from_os("standard output", error) from error
