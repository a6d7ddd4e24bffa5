"""What long work shows: a bar with figures, rate and time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .names import printable


class PlainConsole(Console):
    """Prints strings as they are: what they hold is neither markup to rich nor a command to a terminal."""

    def __init__(self, **options: Any) -> None:
        super().__init__(soft_wrap=True, highlight=False, markup=False, **options)

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*(printable(o, keep="\n") if isinstance(o, str) else o for o in objects), **options)


console = PlainConsole(stderr=True)  # what a command says while it works
result = PlainConsole()  # what it was asked for
SECONDS_BETWEEN_LINES = 15.0


class Tracker:
    """Counts finished units; `figures` is a short text like "loss 2.31"."""

    def __init__(self, title: str, total: int, unit: str, done: int = 0) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done = self._done_at_start = done
        self._started = self._printed = time.monotonic()
        self._bar: Progress | None = None
        if console.is_terminal:
            fields = ("description", "fields[rate]", "fields[figures]")
            texts = [TextColumn(f"{{task.{field}}}", markup=False) for field in fields]
            columns = (texts[0], BarColumn(), MofNCompleteColumn(), *texts[1:])
            self._bar = Progress(*columns, TimeRemainingColumn(elapsed_when_finished=True), console=console)
            self._bar.start()
            self._row = self._bar.add_task(title, total=total, completed=done, rate="", figures="")

    def advance(self, count: int = 1, figures: str = "") -> None:
        self.done += count
        now = time.monotonic()
        rate = (self.done - self._done_at_start) / max(now - self._started, 1e-9)
        rate_text = f"{rate:.3g} {self.unit}/s"
        if self._bar is not None:
            self._bar.update(self._row, completed=self.done, rate=rate_text, figures=printable(figures))
        elif not console.quiet and (now - self._printed > SECONDS_BETWEEN_LINES or self.done >= self.total):
            self._printed = now
            left = duration((self.total - self.done) / max(rate, 1e-9))
            text = f"{self.title}: {self.done}/{self.total} {self.unit}, {rate_text}, {left} left"
            print(printable(f"{text}, {figures}" if figures else text), file=sys.stderr, flush=True)

    def stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()


@contextlib.contextmanager
def track(title: str, total: int, unit: str, done: int = 0) -> Iterator[Tracker]:
    """A Tracker that is closed at the end, also after an error."""
    tracker = Tracker(title, total, unit, done)
    try:
        yield tracker
    finally:
        tracker.stop()


def duration(seconds: float) -> str:
    """Seconds as people write them: 45 s, 12 min, 3.2 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class StopRequest:
    """Whether the user asked to stop; long work looks at it where its state is whole."""

    requested = False


@contextlib.contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Turns the first Ctrl-C or SIGTERM into a request; the second Ctrl-C stops at once."""
    request = StopRequest()

    def handle(number: int, frame: FrameType | None) -> None:
        if request.requested:
            raise KeyboardInterrupt
        request.requested = True

    try:
        before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: signals reach whoever is
        yield request
        return
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
