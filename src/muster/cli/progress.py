"""How a running job looks: bars on a terminal, a line now and then anywhere else.

A ``Progress`` is the ``on_progress`` that flows call: ``progress(stage, done, total, note)``. It shows; it measures and
decides nothing.

Invariants: everything goes to stderr, so that stdout holds results only; away from a terminal at most one line a stage
every ``PLAIN_EVERY_S`` seconds, plus its first and last.
"""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

PLAIN_EVERY_S = 5.0


class Progress:
    """Shows the stages of one command; use as a context manager. Thread-safe."""

    def __init__(self) -> None:
        self._bars: RichProgress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._printed: dict[str, tuple[float, int]] = {}
        self._lock = threading.Lock()

    def __call__(self, stage: str, done: int = 0, total: int | None = None, note: str = "") -> None:
        """Report that ``done`` of ``total`` items of ``stage`` are finished; ``total`` None means not known."""
        with self._lock:
            if self._bars is None:
                self._line(stage, done, total, note)
            else:
                self._bar(self._bars, stage, done, total, note)

    def _bar(self, bars: RichProgress, stage: str, done: int, total: int | None, note: str) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = bars.add_task(stage, total=total, note=note)
        bars.update(self._tasks[stage], completed=done, total=total, note=note)

    def _line(self, stage: str, done: int, total: int | None, note: str) -> None:
        now = time.monotonic()
        printed_s, printed_done = self._printed.get(stage, (-PLAIN_EVERY_S, -1))
        finished = total is not None and done >= total and printed_done < total
        if not finished and now - printed_s < PLAIN_EVERY_S:
            return
        self._printed[stage] = (now, done)
        count = f" {done:,}" + (f" of {total:,}" if total is not None else "") if done or total else ""
        sys.stderr.write(f"{stage}:{count}{' ' + note if note else ''}\n")
        sys.stderr.flush()

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as RichProgress

            columns = (
                TextColumn("{task.description:<12}"),
                BarColumn(bar_width=28),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[note]}"),
            )
            self._bars = RichProgress(*columns, console=Console(stderr=True), refresh_per_second=5)
            self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
