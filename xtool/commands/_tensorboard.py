"""Rows as TensorBoard's scalars: `--log tensorboard` writes them into NAME.tensorboard.

The rows file stays the record; this is a second view of it, which an interrupted run may leave
longer than the run: what lies behind the step of a resumed run is hidden by TensorBoard.
"""

from pathlib import Path
from typing import Any

from xtool.errors import UsageError, from_os
from xtool.rows import Row
from xtool.training.run import Listener

EVENTS = "events.out.tfevents.*"


class TensorBoard:
    """A listener of the training loop that passes on all it is told; use it as a context.

    Args:
        listener: who is told too.
        out: the model's path; events that an earlier run left beside it go.
        step: where the run begins, 0 unless it is resumed.

    Raises:
        UsageError: the package is missing.
        XtoolError: the folder cannot be written.
    """

    def __init__(self, listener: Listener, out: Path, step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UsageError(
                "`--log tensorboard` needs the package tensorboard",
                "pip install 'xtool[tensorboard]'",
            ) from error
        self._make: Any = SummaryWriter
        self.listener, self.step = listener, step
        self.folder = out.with_name(out.name.removesuffix(".st") + ".tensorboard")
        self._writers: dict[Path, Any] = {}
        try:
            for path in self.folder.rglob(EVENTS) if step == 0 else []:
                path.unlink()
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise from_os(self.folder, error) from error

    def __enter__(self) -> "TensorBoard":
        return self

    def __exit__(self, *error: object) -> None:
        for writer in self._writers.values():
            writer.close()

    def stepped(self, step: int, loss: float | None) -> None:
        """Pass it on."""
        self.listener.stepped(step, loss)

    def note(self, text: str) -> None:
        """Pass it on."""
        self.listener.note(text)

    def evaluated(self, rows: list[Row]) -> None:
        """A scalar for each row, METRIC/SPLIT/SIZE or METRIC/PART; replicas in folders."""
        try:
            for one in rows:
                tag = f"{one['metric']}/{one.get('part') or one['split']}"
                tag += f"/{one['size']}" if one.get("size") else ""
                self._writer(one).add_scalar(tag, one["value"], one["step"])
            for writer in self._writers.values():
                writer.flush()
        except OSError as error:
            raise from_os(self.folder, error) from error
        self.listener.evaluated(rows)

    def _writer(self, one: Row) -> Any:
        """That of a row's model."""
        place = self.folder if one["replica"] is None else self.folder / f"seed-{one['seed']}"
        if place not in self._writers:
            self._writers[place] = self._make(place, purge_step=self.step + 1)
        return self._writers[place]
