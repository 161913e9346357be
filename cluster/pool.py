"""A pool as the trusted side sees it: its registry, its exchange, a client of its scheduler.

``connect`` reaches a pool that runs already, with an operator's bundle; ``embedded`` starts one. Both give a ``Pool``,
so that the stages of a job can't tell them apart.

Invariants: a Pool holds the only Dask client of the run and closes it; it never starts or stops a pool that it did not
make itself.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from muster.cluster.bundle import Bundle, read_bundle
from muster.cluster.client import PoolClient
from muster.cluster.coordinator.jobs import JobStore
from muster.datasets.exchange import Exchange
from muster.errors import ConfigError, PoolError

if TYPE_CHECKING:
    from muster.cluster.embedded import EmbeddedServices

_CONNECT_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Pool:
    """An open pool; ``services`` is there when this process started it."""

    pool_dir: Path
    client: PoolClient
    jobs: JobStore
    exchange: Exchange
    services: EmbeddedServices | None = None

    def check(self, patience_s: float = 0.0) -> None:
        """Raise PoolError if a service of the pool has died, or dies within ``patience_s`` each."""
        if self.services is not None:
            self.services.check(patience_s)
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


def connect(gateway_url: str, bundle_path: Path) -> Pool:
    """Reach a pool that runs already; raises PoolError or ConfigError with what to do."""
    bundle = _operator_bundle(gateway_url, bundle_path)
    pool_dir = Path(str(bundle.pool_dir))
    _require_listener(bundle.scheduler)
    return Pool(pool_dir, operator_client(bundle), JobStore(pool_dir), Exchange(pool_dir / "exchange"))


def _require_listener(address: str) -> None:
    """Say at once that nobody listens there; Dask's client would go on trying until its time-out."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise PoolError(
            f"the pool's scheduler at {address} can't be reached: {error.strerror or error}",
            hint="is the coordinator running? Start it with: muster coordinator",
        ) from None


def operator_client(bundle: Bundle) -> PoolClient:
    """Return a client of the scheduler that an operator's bundle is for; raises PoolError."""
    return PoolClient(bundle.scheduler, ca=bundle.ca, cert=bundle.cert, key=bundle.key)


def bundle_pool_dir(gateway_url: str, bundle_path: Path) -> Path:
    """Return the state folder of the pool that the operator's bundle is for."""
    return Path(str(_operator_bundle(gateway_url, bundle_path).pool_dir))


def _operator_bundle(gateway_url: str, bundle_path: Path) -> Bundle:
    if not gateway_url.startswith("https://"):
        raise ConfigError(f"--pool {gateway_url!r}: expected embedded, local, or the https:// URL of a pool's gateway")
    if not bundle_path.exists():
        raise ConfigError(
            f"--pool {gateway_url} needs an operator's bundle, and there is none at {bundle_path}",
            hint="on the pool's host: muster operator create NAME",
        )
    bundle = read_bundle(bundle_path, "operator")
    if bundle.gateway != gateway_url.rstrip("/"):
        raise ConfigError(f"{bundle_path} is for the pool {bundle.gateway}, not for {gateway_url}")
    if bundle.pool_dir is None or not Path(bundle.pool_dir).is_dir():
        raise PoolError(
            f"the pool's state folder {bundle.pool_dir} is not on this host",
            hint="with an SQLite registry, flows run on the coordinator's own host",
        )
    return bundle
