"""Stopping politely: a signal asks, the loop ends its step, saves and leaves."""

import signal
from types import FrameType
from typing import Self


class StopRequest:
    """While active, a first SIGINT or SIGTERM sets `asked`; a second ends the process at once."""

    def __init__(self) -> None:
        self.asked: int | None = None
        self._old: dict[int, object] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._old[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked is not None:
            raise KeyboardInterrupt
        self.asked = number
