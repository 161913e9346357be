"""What a running job tells the world: one small, frozen snapshot at a time.

The stages call ``Reporter.update``; the CLI draws a bar from it, the Prefect flow an artifact. It computes nothing and
stores nothing.

Invariants: a listener is called at most once a second for each stage, and always at a stage's start and end; a failing
listener never fails the job.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

logger = logging.getLogger(__name__)

MIN_INTERVAL_S = 1.0


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the job is: ``done`` of ``total`` ``noun``; ``by_volunteer`` counts attempts by (name, state)."""

    stage: str
    done: int = 0
    total: int = 0
    noun: str = "chunks"
    note: str = ""
    by_state: Mapping[str, int] = field(default_factory=dict)
    by_volunteer: Mapping[tuple[str, str], int] = field(default_factory=dict)


Listener = Callable[[Progress], None]


class Reporter:
    """Passes progress on to a listener, at a bounded rate."""

    def __init__(self, listener: Listener | None = None) -> None:
        self._listener = listener
        self._last_s = 0.0
        self._stage = ""

    def due(self) -> bool:
        """Whether an update would be passed on now; lets a stage skip the work of making one."""
        return self._listener is not None and time.monotonic() - self._last_s >= MIN_INTERVAL_S

    def update(self, progress: Progress, *, force: bool = False) -> None:
        """Pass ``progress`` on if it begins a stage, ends one, is forced, or enough time has passed."""
        ends = progress.total > 0 and progress.done >= progress.total
        if self._listener is None or not (force or ends or progress.stage != self._stage or self.due()):
            return
        self._stage = progress.stage
        self._last_s = time.monotonic()
        try:
            self._listener(progress)
        except Exception:
            logger.exception("a progress listener failed; the job goes on")
