"""Verified downloads: fetched once into a cache, checked, and never trusted by name alone."""

import os
from pathlib import Path
from typing import Any

from xtool.errors import XtoolError


class _Progress:
    """The progress object that pooch asks for, drawn by rich on standard error."""

    def __init__(self, name: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

        console = Console(stderr=True)
        columns = ("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task(name, total=None)
        self._bar.start()
        self.total = 0

    def update(self, done: int) -> None:
        """`done` more bytes have arrived."""
        self._bar.update(self._task, advance=done, total=self.total or None)

    def reset(self) -> None:
        """Start counting again."""
        self._bar.reset(self._task)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._bar.stop()


def download(url: str, known_hash: str | None) -> Path:
    """The cached file behind a URL, downloaded when it is not there.

    Args:
        url: where it lies.
        known_hash: such as `sha256:...`; None when the caller checks the content by itself.

    Raises:
        XtoolError: no network, or the content is not what was asked for.
    """
    import pooch
    from requests.exceptions import RequestException

    name = url.rpartition("/")[2]
    cache = Path(os.environ.get("XTOOL_CACHE") or pooch.os_cache("xtool"))
    pooch.get_logger().setLevel("ERROR")
    progress: Any = _Progress(name)
    try:
        fetcher = pooch.HTTPDownloader(progressbar=progress, timeout=30)
        found = pooch.retrieve(url, known_hash, fname=name, path=cache, downloader=fetcher)
    except ValueError as error:
        raise XtoolError(f"{url}: the download is not the known file: its hash differs") from error
    except (RequestException, OSError) as error:
        raise XtoolError(
            f"{url}: cannot be downloaded: {type(error).__name__}",
            "without a network, give the path of a text file, or use `builtin`",
        ) from error
    finally:
        progress.close()
    return Path(found)
