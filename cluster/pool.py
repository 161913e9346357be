"""A pool as the trusted side sees it: its registry, its exchange, a client of its scheduler.

``connect`` reaches a pool that runs already, with an operator's bundle; ``embedded`` starts one. Both give a ``Pool``,
so that the stages of a job can't tell them apart.

Invariants: a Pool holds the only Dask client of the run and closes it; it never starts or stops a pool that it did not
make itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from muster.cluster.client import PoolClient
from muster.cluster.coordinator.jobs import JobStore
from muster.datasets.exchange import Exchange

if TYPE_CHECKING:
    from muster.cluster.embedded import EmbeddedServices


@dataclass(frozen=True)
class Pool:
    """An open pool; ``services`` is there when this process started it."""

    pool_dir: Path
    client: PoolClient
    jobs: JobStore
    exchange: Exchange
    services: EmbeddedServices | None = None

    def check(self) -> None:
        """Raise PoolError if a service of the pool has died."""
        if self.services is not None:
            self.services.check()
        self.client.check()

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds of the pool's trusted services, by name; empty if they run elsewhere."""
        return {} if self.services is None else self.services.cpu_s()

    def close(self) -> None:
        """Leave the pool, and stop it if this process started it."""
        self.client.close()
        if self.services is not None:
            self.services.stop()
        self.jobs.close()
