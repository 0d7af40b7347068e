"""The command line: registers commands; turns errors into one line, a hint and an exit code."""

import os
import signal
import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from inspect import signature
from io import TextIOWrapper
from pathlib import Path
from traceback import extract_tb
from typing import Annotated, Any, NoReturn

import typer

from xtool import __version__, registry
from xtool.commands._dials import with_dials, words
from xtool.commands._help import GroupedCommand
from xtool.commands._ui import spoken_for
from xtool.config import options
from xtool.errors import XtoolError

COMMANDS = ("prepare", "train", "grow", "slice", "evaluate", "plot", "sample", "inspect", "check")
INTERRUPTED = 130
# The flags that choose an entry of a folder, whose dials the command then has.
CHOOSERS = {"--attention": "layers/attention", "--method": "surgery/operators"}
EPILOG = "Every dial can also be set as XTOOL_DIAL, such as XTOOL_LR, or in a --config file."


def _version(asked: bool) -> None:
    if asked:
        print(f"xtool {__version__}")
        raise typer.Exit


def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Transformer surgery on safetensors files: prepare, train, grow, slice, evaluate, plot."""


def make_app() -> typer.Typer:
    """The app; the dials of a command are read only when the command line names it."""
    app = typer.Typer(
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        epilog=EPILOG,
    )
    app.callback()(root)
    named = next((word for word in words() if not word.startswith("-")), "")
    for name in COMMANDS:
        module = import_module(f"xtool.commands.{name}")
        function: Callable[..., None] = getattr(module, name, None) or getattr(module, f"{name}_")
        if name == named and hasattr(module, "panels"):
            function = with_dials(function, module.panels())
        elif hasattr(module, "panels"):
            function = with_dials(function, {})
        epilog = EPILOG if "config_file" in signature(function).parameters else None
        app.command(name, cls=GroupedCommand, epilog=epilog)(function)
    return app


def fail(message: str, hint: str, code: int) -> NoReturn:
    """Print one error with its hint on standard error and exit."""
    if spoken_for():
        sys.exit(code)
    print(f"error: {message}", file=sys.stderr)
    if hint:
        print(f"\nhint: {hint}", file=sys.stderr)
    sys.exit(code)


def main() -> NoReturn:
    """Run the command line and exit with its code."""
    warnings.showwarning = _warn
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that it cleans up as Ctrl-C
    _open_streams()
    if not words():
        sys.argv.append("--help")
        make_app()(standalone_mode=False)
        sys.exit(2)
    try:
        code = make_app()(standalone_mode=False)
    except XtoolError as error:
        fail(error.message, error.hint, error.exit_code)
    except typer.TyperException as error:
        _usage(error)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        sys.exit(1)
    except OSError as error:
        _drop_output()
        where = error.filename or "the work was stopped"
        fail(f"{where}: {(error.strerror or str(error)).lower()}", "", 1)
    except MemoryError:
        fail("out of memory", "a smaller model, batch or corpus needs less", 1)
    except Exception as error:
        _explain(error)
    if code == INTERRUPTED:
        fail("interrupted", "", INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)


def _open_streams() -> None:
    """Give standard streams that were closed a place, so that no file takes their number.

    Paths go out as the bytes that they are.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
            if name == "stdout":
                fail("standard output is closed", "`> /dev/null` drops what a command says", 1)
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="surrogateescape")


def _drop_output() -> None:
    """Whoever read our output has left; say nothing more, also when the interpreter flushes."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _explain(error: Exception) -> NoReturn:
    """An exception that is not ours: memory, a user's own file, or a fault of xtool."""
    if os.environ.get("XTOOL_DEBUG"):
        raise error
    what = f"{type(error).__name__}: {error}".partition("\n")[0]
    if "out of memory" in what or "allocate memory" in what:
        fail("out of memory", "a smaller model, batch or corpus needs less", 1)
    own = {str(path.resolve()): path for path in registry.admitted().values()}
    frames = [f for f in extract_tb(error.__traceback__) if str(Path(f.filename).resolve()) in own]
    if frames:
        place = f"{own[str(Path(frames[-1].filename).resolve())]}, line {frames[-1].lineno}"
        fail(f"{place}: {what}", "XTOOL_DEBUG=1 shows the whole trace", 1)
    if own:
        names = ", ".join(map(str, own.values()))
        fail(what, f"does {names} keep the contract in README.md? XTOOL_DEBUG=1 shows the trace", 1)
    fail(f"a fault of xtool: {what}", "XTOOL_DEBUG=1 shows the trace; please report it", 1)


def _warn(message: Warning | str, *rest: object, **more: object) -> None:
    """A warning as one line on standard error, without the place in the code."""
    print(f"warning: {message}", file=sys.stderr)


def _owners(flag: str, command: Any) -> str:
    """The entries, not chosen by this command line, that have a dial."""
    taken = {word for parameter in command.params for word in parameter.opts}
    for chooser, folder in CHOOSERS.items():
        has = [
            name
            for name in registry.names(folder)
            if any(dial.flag == flag for dial in options(folder, name))
        ]
        if chooser in taken and has:
            return f"`{chooser} {'|'.join(has)}`"
    return ""


def _usage(error: Exception) -> NoReturn:
    """A command line that does not parse, in our own words' form."""
    message = getattr(error, "format_message", lambda: str(error))()
    message = message.partition(" (Possible options")[0].rstrip(".")
    if near := getattr(error, "possibilities", None):
        message += f": did you mean {', '.join(near)}?"
    context = getattr(error, "ctx", None)
    hint = f"see `{context.command_path} --help`" if context else "see `xtool --help`"
    if context and (owners := _owners(getattr(error, "option_name", ""), context.command)):
        hint = f"it is a dial of {owners}; {hint}"
    fail(message[:1].lower() + message[1:], hint, getattr(error, "exit_code", 2))
