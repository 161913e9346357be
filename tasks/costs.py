"""CPU seconds of the trusted side, split by what they were spent on: the denominator of leverage.

Measures processes from outside (their CPU clocks), so that nothing on a hot path has to count. Decides nothing.

Invariants: seconds only grow; a category is one of ``CATEGORIES``; the flow process's own time goes to the stage that
is under way.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

CATEGORIES = ("plan", "dispatch", "serve and receive", "intake", "audit", "commit", "publish")


_SERVICES = {"scheduler": "dispatch", "gateway": "serve and receive", "intake": "intake"}


class Watched(Protocol):
    """A pool whose services' CPU clocks can be read."""

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds by service."""
        ...


@dataclass
class Costs:
    """Seconds by category: ``cpu_s`` of trusted processes, ``wall_s`` of the flow's stages."""

    cpu_s: dict[str, float] = field(default_factory=dict)
    wall_s: dict[str, float] = field(default_factory=dict)
    _before: dict[str, float] = field(default_factory=dict)

    def watch(self, pool: Watched) -> None:
        """Begin to charge the pool's services: what they have used so far was start-up."""
        self._before = pool.cpu_s()

    def collect(self, pool: Watched, referees_cpu_s: float) -> None:
        """Add what services and referees have used since ``watch``."""
        for name, seconds in pool.cpu_s().items():
            self.add_cpu(_SERVICES[name], seconds - self._before.get(name, 0.0))
        self.add_cpu("audit", referees_cpu_s)

    def add_cpu(self, category: str, seconds: float) -> None:
        """Add CPU seconds to a category."""
        if category not in CATEGORIES:
            raise ValueError(f"unknown cost category {category!r}")
        self.cpu_s[category] = self.cpu_s.get(category, 0.0) + max(0.0, seconds)

    @contextmanager
    def stage(self, category: str) -> Iterator[None]:
        """Charge this process's CPU and wall time inside the block to a category."""
        cpu_s, wall_s = time.process_time(), time.monotonic()
        try:
            yield
        finally:
            self.add_cpu(category, time.process_time() - cpu_s)
            self.wall_s[category] = self.wall_s.get(category, 0.0) + time.monotonic() - wall_s

    @property
    def total_cpu_s(self) -> float:
        """All trusted CPU seconds."""
        return sum(self.cpu_s.values())
