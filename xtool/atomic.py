"""Outputs of any kind, written atomically and durably.

The sequence is: a temporary file in the same folder, write, fsync, rename, fsync of the folder.
Whatever is killed in between leaves the old file whole.
"""

import errno
import fcntl
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from xtool.errors import UsageError, XtoolError, from_os

YOUNG = 2.0  # seconds
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def require_writable(path: Path, force: bool = False) -> None:
    """Fail before the long work when an output cannot be written.

    Raises:
        XtoolError: it exists and `force` is not set, it is not a regular file, or its folder is
            missing or closed.
    """
    if not path.name or path.name.startswith("-"):
        raise XtoolError(f"{path}: not a file name", "`-o` takes the path of a file to write")
    if path.exists() or path.is_symlink():
        if path.exists() and not path.is_file():
            raise XtoolError(f"{path}: not a regular file", "choose another name with `-o`")
        if not force:
            raise XtoolError(f"{path}: already exists", "`--force` replaces it, `-o` names another")
    folder = path.resolve().parent
    if not folder.is_dir():
        raise XtoolError(f"{path}: the folder `{folder.name}` does not exist", f"mkdir -p {folder}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise XtoolError(f"{path}: the folder cannot be written to")


def require_apart(outputs: Iterable[Path], inputs: Iterable[Path | None]) -> None:
    """Fail when an output would replace an input, or another output of the same command.

    Raises:
        UsageError: it would; `--force` does not allow it.
    """
    taken = {path.resolve() for path in inputs if path is not None}
    for path in outputs:
        if path.resolve() in taken:
            raise UsageError(
                f"{path}: is both an output and another file of this command",
                "name another output with `-o`",
            )
        taken.add(path.resolve())


@contextmanager
def replacing(path: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """A temporary file that becomes `path` when the block ends well, and vanishes when it does not.

    Yields:
        the open file and its path; the caller may read it back before the block ends.
    """
    real = path.resolve()
    is_new = not real.exists()
    _remove_stale(real)
    temporary = real.with_name(f"{_start(real)}{secrets.token_hex(4)}.tmp")
    try:
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with os.fdopen(fd, "w+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield file, temporary
            file.flush()
            os.fsync(file.fileno())
            _put_in_place(temporary, real, is_new)
        _sync_folder(real.parent)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise from_os(path, error) from error
        raise


def _put_in_place(temporary: Path, real: Path, is_new: bool) -> None:
    """Rename; a name that was free when the work began is never taken from another writer."""
    if not is_new:
        os.replace(temporary, real)
        return
    try:
        os.link(temporary, real)
    except FileExistsError as error:
        raise XtoolError(
            f"{real.name}: another command wrote it meanwhile", "name another output with `-o`"
        ) from error
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        os.replace(temporary, real)
    else:
        os.unlink(temporary)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _start(real: Path) -> str:
    """How the name of a temporary file begins, which may have no more than 255 bytes."""
    return f".{os.fsencode(real.name)[:200].decode(errors='ignore')}."


def _remove_stale(real: Path) -> None:
    """Remove what killed writers of this output left; a live writer holds its file's lock."""
    prefix, suffix = _start(real), ".tmp"
    for name in os.listdir(real.parent) if real.parent.is_dir() else []:
        if not (
            name.startswith(prefix) and name.endswith(suffix) and len(name) == len(prefix) + 12
        ):
            continue
        with suppress(OSError), open(real.parent / name, "rb") as file:
            # A young file may belong to a writer that has not locked it yet.
            if time.time() - os.fstat(file.fileno()).st_mtime > YOUNG:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(real.parent / name)


def require_space(path: Path, needed: int) -> None:
    """Raise XtoolError when the disk of an output lacks `needed` bytes."""
    try:
        status = os.statvfs(path.resolve().parent)
    except OSError as error:
        raise from_os(path, error) from error
    free = status.f_bavail * status.f_frsize
    if needed > free:
        raise XtoolError(
            f"{path}: needs {needed / 1e6:.3g} MB, the disk has {free / 1e6:.3g} MB free",
            "make room, or name another disk with `-o`",
        )
