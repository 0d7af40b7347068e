"""The journal of a run: its rows, one JSON object a line, written as they come.

The file also marks that a run is going on: it stays locked until the run ends, so that two writers
never mix on one output, and a killed run holds nothing.
"""

import fcntl
import os
from pathlib import Path

from xtool.errors import XtoolError, from_os
from xtool.rows import Row, read, to_jsonl


class Journal:
    """The locked rows file of one run.

    Args:
        path: `NAME.rows.jsonl`.
        keep: rows up to this step stay; None starts anew.

    Raises:
        XtoolError: another run writes it, or it cannot be written.
    """

    def __init__(self, path: Path, keep: int | None) -> None:
        self.path = path
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
            self._file = os.fdopen(fd, "r+b")
        except OSError as error:
            raise from_os(path, error) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise XtoolError(
                f"{path}: another run is writing it",
                "wait for it, or name another output with `-o`",
            ) from error
        self.kept = self._cut(keep)

    def _cut(self, keep: int | None) -> list[Row]:
        """Rows up to step `keep`: they come first, and what follows them is cut off in place."""
        kept: list[Row] = []
        end = 0
        for line in self._file.readlines() if keep is not None else []:
            try:
                one = read(line.decode("utf-8"), self.path.name)[0]
            except (UnicodeDecodeError, XtoolError):
                break
            if not line.endswith(b"\n"):
                break  # a row that was cut off just before its end would swallow the next
            if not isinstance(one["step"], int) or one["step"] > (keep or 0) or one["digest"]:
                break
            kept.append(one)
            end += len(line)
        self._file.truncate(end)
        self._file.seek(end)
        return kept

    @property
    def seconds(self) -> float:
        """The training seconds of the rows that were kept."""
        return max((float(one.get("seconds") or 0) for one in self.kept), default=0.0)

    def write(self, rows: list[Row]) -> None:
        """Append rows; a kill takes none of them, `sync` makes them outlast a power cut.

        Raises:
            XtoolError: the disk is full.
        """
        try:
            self._file.write(to_jsonl(rows).encode())
            self._file.flush()
        except OSError as error:
            raise from_os(self.path, error) from error

    def sync(self) -> None:
        """Make the rows durable."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Make the rows durable and let the file go."""
        self.sync()
        self._file.close()


class Silent(Journal):
    """That of a process which leaves the rows to another."""

    def __init__(self) -> None:
        self.kept = []

    def write(self, rows: list[Row]) -> None:
        """Nothing."""

    def sync(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def rows_path(out: Path) -> Path:
    """`model.rows.jsonl` for `model.st`."""
    return out.with_name(out.name.removesuffix(".st") + ".rows.jsonl")


def state_path(out: Path) -> Path:
    """`model.resume.st` for `model.st`."""
    return out.with_name(out.name.removesuffix(".st") + ".resume.st")


def best_path(out: Path) -> Path:
    """`model.best.st` for `model.st`."""
    return out.with_name(out.name.removesuffix(".st") + ".best.st")
