"""How a running job looks: bars on a terminal, a line now and then anywhere else.

A ``ProgressView`` is a listener for ``muster.tasks.progress``. It shows; it measures and decides nothing.

Invariants: everything goes to stderr, so that stdout holds results only; away from a terminal at most one line a stage
every ``PLAIN_EVERY_S`` seconds, plus its first and last.
"""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from muster.tasks.progress import Progress

PLAIN_EVERY_S = 5.0


class ProgressView:
    """Shows the stages of one command on ``stream`` (default stderr); use as a context manager. Thread-safe."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._bars: RichProgress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._printed: dict[str, tuple[float, int]] = {}
        self._lock = threading.Lock()

    def __call__(self, progress: Progress) -> None:
        """Show one snapshot."""
        with self._lock:
            if self._bars is None:
                self._print_line(progress)
            else:
                self._update_bar(self._bars, progress)

    def _update_bar(self, bars: RichProgress, progress: Progress) -> None:
        total = progress.total or None  # 0 means not known yet
        count = f"{progress.done:,}/{progress.total:,} {progress.noun}" if total else ""
        if progress.stage not in self._tasks:
            self._tasks[progress.stage] = bars.add_task(progress.stage, total=total, count=count, note=progress.note)
        task = self._tasks[progress.stage]
        bars.update(task, completed=progress.done, total=total, count=count, note=progress.note)

    def _print_line(self, progress: Progress) -> None:
        now = time.monotonic()
        printed_s, printed_done = self._printed.get(progress.stage, (now - PLAIN_EVERY_S, -1))
        finished = 0 < progress.total <= progress.done and printed_done < progress.done
        if not finished and now - printed_s < PLAIN_EVERY_S:
            return
        self._printed[progress.stage] = (now, progress.done)
        count = f" {progress.done:,} of {progress.total:,} {progress.noun}" if progress.total else ""
        self._stream.write(
            f"{progress.stage}:{count}{'; ' if count and progress.note else ' '}{progress.note}".rstrip()
        )
        self._stream.write("\n")
        self._stream.flush()

    def __enter__(self) -> Self:
        if self._stream.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as RichProgress

            columns = (
                TextColumn("{task.description:<10}"),
                BarColumn(bar_width=28),
                TextColumn("{task.fields[count]}"),
                TimeElapsedColumn(),
                TextColumn("{task.fields[note]}", markup=False),
            )
            self._bars = RichProgress(*columns, console=Console(file=self._stream), refresh_per_second=5)
            self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
