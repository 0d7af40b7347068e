"""Dials as command-line options: read from the file that declares them, shown in its help."""

import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from xtool import registry
from xtool.config import Option, read_run_file, run_table
from xtool.errors import XtoolError

Function = Callable[..., None]


def with_dials(function: Function, groups: Mapping[str, list[Option]]) -> Function:
    """The command with its `**dials` replaced by one option a dial, in a help panel a group."""
    signature = inspect.signature(function)
    kept = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    taken = {p.name for p in kept}
    added = []
    for panel, dials in groups.items():
        for dial in dials:
            if dial.name in taken:
                raise XtoolError(f"{panel}: dial `{dial.name}` is there already", "rename it")
            taken.add(dial.name)
            added.append(_parameter(dial, panel))

    @wraps(function)
    def command(*args: Any, **named: Any) -> None:
        function(*args, **named)

    command.__signature__ = signature.replace(parameters=kept + added)  # type: ignore[attr-defined]
    return command


def _parameter(dial: Option, panel: str) -> inspect.Parameter:
    flag = f"{dial.flag}/--no-{dial.flag[2:]}" if dial.type == "bool" else dial.flag
    text = dial.help
    if dial.choices:
        text += f"; {', '.join(dial.choices)}"
    if dial.default is not None:
        shown = (
            {True: "on", False: "off"}.get(dial.default, dial.default)
            if (dial.type == "bool")
            else dial.default
        )
        text += f" [default: {shown}]"
    option = typer.Option(
        flag,
        help=text,
        envvar=f"XTOOL_{dial.name.upper()}",
        show_envvar=False,
        show_default=False,
        rich_help_panel=panel,
        autocompletion=completion(dial.choices) if dial.choices else None,
    )
    kind: Any = list[str] if dial.type == "texts" else dial.python
    return inspect.Parameter(
        dial.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, option],
    )


def completion(choices: Iterable[str]) -> Callable[[str], list[str]]:
    """Shell completion of one of these words."""

    def complete(incomplete: str) -> list[str]:
        return [choice for choice in choices if choice.startswith(incomplete)]

    return complete


def words() -> list[str]:
    """The command line, also while the shell asks for a completion."""
    line = os.environ.get("COMP_WORDS")
    return line.split()[1:] if line else sys.argv[1:]


def peek(flag: str) -> str | None:
    """The value of a flag before the command line is parsed."""
    line = words()
    for place, word in enumerate(line):
        if word == flag and place + 1 < len(line):
            return line[place + 1]
        if word.startswith(flag + "="):
            return word.partition("=")[2]
    return None


def peek_dial(flag: str) -> str | None:
    """The same of a dial, which its environment variable may give too."""
    return peek(flag) or os.environ.get("XTOOL_" + flag.lstrip("-").upper().replace("-", "_"))


def peek_all(flag: str) -> list[str]:
    """Every value of a flag that may be given again, before the command line is parsed."""
    line = words()
    apart = [line[place + 1] for place, word in enumerate(line[:-1]) if word == flag]
    return apart + [word.partition("=")[2] for word in line if word.startswith(flag + "=")]


def peek_run_file(command: str) -> Mapping[str, Any]:
    """The table of `--config`, as far as it can be read; what is wrong the command itself says."""
    path = peek("--config")
    try:
        return run_table(Path(path), command) if path else {}
    except XtoolError:
        return {}


def known(folder: str, *given: object) -> str | None:
    """The first value given, if it names an entry; a user's own file is admitted first."""
    name = next((one for one in given if one is not None), None)
    try:
        return entry(folder, name) if isinstance(name, str) else None
    except XtoolError:
        return None


def entry(folder: str, name: str) -> str:
    """A name as it stands in headers; a path to a user's own file is admitted.

    Raises:
        UsageError: no such entry or file.
    """
    if name.endswith(".py") and not (name in registry.admitted() and not Path(name).exists()):
        return registry.admit(name)
    registry.path_of(folder, name)
    return name


def run_file(path: Path | None, command: str, dials: list[Option]) -> dict[str, Any]:
    """The dials of `--config`, if it was given."""
    return read_run_file(path, command, dials) if path else {}
