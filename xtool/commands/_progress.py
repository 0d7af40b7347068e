"""The progress of a training run on standard error: a bar on a terminal, a line an evaluation."""

from statistics import mean

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from xtool.averages import BASELINES
from xtool.commands._ui import Notes
from xtool.rows import Row, short


class ProgressBar:
    """A listener of the training loop; use it as a context.

    Args:
        total: steps to do.
        done: steps done before.
        notes: where the lines go.
    """

    def __init__(self, total: int, done: int, notes: Notes) -> None:
        self.notes, self.total = notes, total
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            TaskProgressColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]} steps/s  loss {task.fields[loss]}"),
            TimeRemainingColumn(),
            console=console,
            disable=notes.quiet or not console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task("", total=total, completed=done, rate="-", loss="-")

    def __enter__(self) -> "ProgressBar":
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def stepped(self, step: int, loss: float | None) -> None:
        """Move the bar."""
        if loss is not None:
            speed = self._bar.tasks[0].speed
            rate = f"{speed:.0f}" if speed else "-"
            self._bar.update(self._task, completed=step, loss=short(loss), rate=rate)

    def evaluated(self, rows: list[Row]) -> None:
        """A line with the dev metrics."""
        values: dict[str, list[float]] = {}
        groups = []
        for one in rows:
            if one["split"] == "dev" and one.get("size"):
                if one["metric"] == "group_excess":
                    groups.append(f"{one['size']} {short(one['value'])}")
            elif one["split"] == "dev" and one["metric"] not in BASELINES:
                values.setdefault(one["metric"].replace("_", " "), []).append(one["value"])
        dev = "  ".join(f"{name} {short(mean(every))}" for name, every in values.items())
        dev += f"  group excess {', '.join(groups)}" if groups else ""
        at = rows[0]
        of = "" if at.get("replica") is None else ", mean of the replicas,"
        text = f"step {at['step']:>6}  epoch {at['epoch']:g}  dev{of} {dev}"
        if self._bar.disable:
            self.notes.say(text)
        else:
            self._bar.console.print(text, highlight=False)

    def note(self, text: str) -> None:
        """A line."""
        self.notes.say(text)
