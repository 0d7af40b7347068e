"""Errors that a user can act on: one line that says what is wrong, one hint that mends it.

    Exception
    └── XtoolError          exit 1: the work failed
        ├── UsageError      exit 2: the command line asks for something that does not exist
        ├── CheckFailed     exit 3: a promise did not hold (bad file in `check`, inexact growth)
        ├── Diverged        exit 1: a loss, score or weight is no number
        └── Interrupted     exit 130: stopped by the user, with the work saved

Foreign exceptions are translated where the file is read; whatever else reaches the top is a fault
of xtool, which says so (`XTOOL_DEBUG=1` shows the traceback), or of a user's own file.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class XtoolError(Exception):
    """Something failed for a reason the user can mend.

    Args:
        message: what, where (file, tensor, axis, flag) and both numbers; lower case, no full stop.
        hint: the command or flag that mends it; empty when there is none.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = printable(message)
        self.hint = printable(hint)


class UsageError(XtoolError):
    """The command line names something that does not exist or does not go together."""

    exit_code = 2


class CheckFailed(XtoolError):
    """A file or a growth does not keep what it promises."""

    exit_code = 3


class Diverged(XtoolError):
    """A loss, a score or a weight is NaN or infinite: the run that made it went astray."""


class Interrupted(XtoolError):
    """The user stopped the run; what was done is saved."""

    exit_code = 130


@contextmanager
def located(where: object) -> Iterator[None]:
    """Put a file's name before the message of an error in the block, as what is wrong is in it.

    Raises:
        XtoolError: in place of one without the name, or of a UsageError: nobody typed it.
    """
    try:
        yield
    except XtoolError as error:
        if str(where) in error.message and not isinstance(error, UsageError):
            raise
        kind = XtoolError if isinstance(error, UsageError) else type(error)
        raise kind(f"{where}: {error.message}", error.hint) from error


def from_os(where: object, error: OSError | ValueError) -> XtoolError:
    """What the operating system says of a path, as one of our own errors."""
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return XtoolError(f"{where}: {reason.lower()}")


def printable(text: str) -> str:
    """`text` with control characters escaped, so that a hostile file cannot drive the terminal."""
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )


def unknown(what: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that is not in `known`: lists them and guesses the nearest."""
    names = sorted(known)
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    guess = f"did you mean `{near[0]}`? " if near else ""
    return UsageError(f"unknown {what} `{name}`", f"{guess}known: {', '.join(names)}")
