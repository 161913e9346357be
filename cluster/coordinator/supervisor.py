"""A pool's trusted services under one roof: scheduler with the edge, gateway, intake; each its own process.

Used by ``muster coordinator`` (in the foreground) and by the embedded pool. Makes the pool's folders, certificates and
secrets on first use. Does not start volunteers and takes no decision about work.

Invariants: the services die with this process; a dead service is reported by name with its log; stopping is idempotent.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from muster.cluster.coordinator.bundles import PoolAddresses, save_addresses
from muster.cluster.coordinator.gateway import GatewayConfig
from muster.cluster.coordinator.intake import IntakeConfig
from muster.cluster.coordinator.pki import create_pool_pki
from muster.cluster.coordinator.scheduler import SchedulerConfig
from muster.cluster.service import RunningService, Service
from muster.errors import PoolError

START_TIMEOUT_S = 60.0


class Coordinator:
    """The running services of one pool."""

    def __init__(
        self,
        pool_dir: str | Path,
        *,
        host: str = "127.0.0.1",
        operator_port: int = 0,
        volunteer_port: int = 0,
        gateway_port: int = 0,
    ) -> None:
        self.pool_dir = Path(pool_dir)
        self._host = host
        self._ports = (operator_port, volunteer_port, gateway_port)
        self._services: dict[str, RunningService] = {}
        self.addresses: PoolAddresses | None = None

    def start(self) -> PoolAddresses:
        """Start every service and return where they listen; raises PoolError naming the one that failed."""
        for folder in ("exchange", "logs", "scratch"):
            (self.pool_dir / folder).mkdir(parents=True, exist_ok=True)
        create_pool_pki(self.pool_dir, hosts=[self._host, "127.0.0.1", "localhost"])
        pool, host = str(self.pool_dir), self._host
        operator_port, volunteer_port, gateway_port = self._ports
        try:
            self._launch(
                "scheduler",
                SchedulerConfig(
                    pool_dir=pool,
                    tls_host="127.0.0.1",
                    tls_port=operator_port,
                    vol_host=host,
                    vol_port=volunteer_port,
                ),
            )
            self._launch("gateway", GatewayConfig(pool_dir=pool, host=host, port=gateway_port))
            self._launch("intake", IntakeConfig(pool_dir=pool))
            ready = {name: service.wait_ready(START_TIMEOUT_S) for name, service in self._services.items()}
        except BaseException:
            self.stop()
            raise
        self.addresses = PoolAddresses(
            operator_address=f"tls://127.0.0.1:{ready['scheduler']['tls_port']}",
            volunteer_address=f"{host}:{ready['scheduler']['vol_port']}",
            gateway_url=f"https://{host}:{ready['gateway']['port']}",
        )
        save_addresses(self.pool_dir, self.addresses)
        return self.addresses

    def _launch(self, name: str, config: object) -> None:
        log = str(self.pool_dir / "logs" / f"{name}.log")
        self._services[name] = RunningService(Service(name, f"muster.cluster.coordinator.{name}", config, log))

    def check(self, patience_s: float = 0.0) -> None:
        """Raise PoolError if a service has died, or dies within ``patience_s`` each."""
        for name, service in self._services.items():
            if not service.alive(patience_s):
                raise PoolError(f"the pool's {name} process (pid {service.pid}) died; see {service.service.log_path}")

    def pids(self) -> dict[str, int]:
        """Return the process id of each service."""
        return {name: service.pid for name, service in self._services.items()}

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds of each service so far."""
        return {name: service.cpu_s() for name, service in self._services.items()}

    def stop(self) -> None:
        """Stop every service."""
        for service in self._services.values():
            service.terminate()
        for service in self._services.values():
            service.join()
        self._services.clear()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()


def run_coordinator(
    pool_dir: str | Path,
    *,
    host: str,
    operator_port: int,
    volunteer_port: int,
    gateway_port: int,
    on_ready: Callable[[PoolAddresses], None],
) -> None:
    """Run a pool's services in the foreground until SIGINT or SIGTERM; raises PoolError when one of them dies."""
    stop = threading.Event()
    previous = {s: signal.signal(s, lambda *_: stop.set()) for s in (signal.SIGINT, signal.SIGTERM)}
    coordinator = Coordinator(
        pool_dir, host=host, operator_port=operator_port, volunteer_port=volunteer_port, gateway_port=gateway_port
    )
    try:
        on_ready(coordinator.start())
        while not stop.wait(1.0):
            coordinator.check()
    finally:
        coordinator.stop()
        for signum, handler in previous.items():
            signal.signal(signum, handler)
