"""The pool's Dask scheduler as a service, with two doors: ``tls://`` for operators, ``vol://`` for volunteers.

Operators (trusted clients and workers) come in by Dask's own protocol with a certificate of the operators' CA;
volunteers through the edge, with one of the volunteers' CA. The registry says every second who is refused; their
connections are cut. What it does not do: know jobs, units or results; count failures (Muster does, and Dask's own limit
is out of the way).

Invariants: no HTTP server, no dashboard, nothing dialled; Dask's settings are set here and nowhere else for this
process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dask
from distributed import Scheduler
from distributed.security import Security

from muster.cluster.coordinator.pki import load_secret, pool_pki
from muster.cluster.coordinator.tickets import TicketSigner
from muster.cluster.edge import schema
from muster.cluster.edge.comm import install
from muster.cluster.edge.door import Door
from muster.cluster.edge.limits import EdgeLimits
from muster.cluster.edge.scheduler_side import SchedulerSide, server_context
from muster.cluster.edge.wire import PREFIX
from muster.cluster.stop_signals import stop_on_signals
from muster.cluster.unit import UnitMessage
from muster.errors import PoolError

log = logging.getLogger("muster.scheduler")
_CLOSE_TIMEOUT_S = 3.0


@dataclass(frozen=True)
class SchedulerConfig:
    """Where the scheduler listens and how it treats volunteers.

    Attributes:
        pool_dir: the pool's state folder; needs ``pki/`` and ``secrets/`` (``pki.create_pool_pki``).
        tls_host, tls_port: of the operators' door; port 0 takes a free one.
        vol_host, vol_port: of the volunteers' door.
        saturation: units at a volunteer per thread that it reports (it reports cores times depth itself).
        worker_ttl_s: silence after which a volunteer's units are given to others.
        ticket_ttl_s: how long a volunteer may take from receiving a unit to redeeming it.
        refresh_s: how often the registry is asked who is refused.
        limits: of the edge.
    """

    pool_dir: str
    tls_host: str
    tls_port: int
    vol_host: str
    vol_port: int
    saturation: float = 1.0
    worker_ttl_s: float = 30.0
    ticket_ttl_s: float = 6 * 3600.0
    refresh_s: float = 1.0
    limits: EdgeLimits = field(default_factory=EdgeLimits)


class PoolScheduler(Scheduler):  # type: ignore[misc]
    """Dask's scheduler without its HTTP server."""

    def start_http_server(self, *_args: Any, **_options: Any) -> None:
        """Start none: there is nobody to serve."""


def run(config: SchedulerConfig, ready: Callable[[dict[str, object]], None]) -> None:
    """Run the scheduler until SIGTERM (or Ctrl-C).

    ``ready`` gets ``{"tls_port": int, "vol_port": int}`` once both doors are open.

    Raises:
        PoolError: an address is taken.
        ConfigError: the pool has no certificates or secrets.
    """
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    logging.getLogger("muster").setLevel(logging.INFO)
    # What Dask logs about a lost peer, at WARNING and with stacks, is daily life in a pool of strangers.
    for name in ("distributed.core", "distributed.comm.tcp", "distributed.scheduler", "distributed.batched"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with dask.config.set(_dask_settings(config)):
        asyncio.run(_serve(config, ready))


def _dask_settings(config: SchedulerConfig) -> dict[str, Any]:
    return {
        "distributed.scheduler.worker-saturation": config.saturation,
        "distributed.scheduler.work-stealing": True,
        # Muster counts failed attempts; Dask would kill a task that flapping volunteers took and dropped a few times.
        "distributed.scheduler.allowed-failures": 10**6,
        "distributed.scheduler.worker-ttl": f"{config.worker_ttl_s}s",
        "distributed.scheduler.active-memory-manager.start": False,
        "distributed.scheduler.http.routes": [],
        "distributed.scheduler.preload": [],
        "distributed.scheduler.allowed-imports": ["dask", "distributed"],
        "distributed.scheduler.events-cleanup-delay": "1m",
        "distributed.admin.log-length": 0,
        # Dask's self-observation (50 ticks and 2 samples of /proc a second) is most of an idle process's CPU time.
        "distributed.admin.tick.interval": "1s",
        "distributed.admin.system-monitor.interval": "10s",
        "distributed.comm.require-encryption": True,
        "distributed.comm.timeouts.tcp": "900s",
    }


async def _serve(config: SchedulerConfig, ready: Callable[[dict[str, object]], None]) -> None:
    stop = asyncio.Event()
    stop_on_signals(stop)
    refusals = Refusals(config.pool_dir)
    await asyncio.to_thread(refusals.refresh)
    door = Door(config.limits, refusals.reason)
    scheduler = _make_scheduler(config)
    install(_make_side(config, scheduler, door))
    scheduler.handlers["muster_volunteers"] = lambda: volunteers(scheduler)
    scheduler.handlers["muster_edge"] = lambda: {"counts": dict(door.counts), "connections": door.connections()}
    try:
        await scheduler
    except OSError as error:
        raise PoolError(
            f"the scheduler can't listen on {config.tls_host}:{config.tls_port} and "
            f"{config.vol_host}:{config.vol_port}: {error}"
        ) from error
    polling = asyncio.create_task(_poll(refusals, door, config.refresh_s))
    ports = [listener.get_host_port()[1] for listener in scheduler.listeners]
    ready({"tls_port": ports[0], "vol_port": ports[1]})
    await stop.wait()
    polling.cancel()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(scheduler.close(timeout=1), _CLOSE_TIMEOUT_S)


def _make_scheduler(config: SchedulerConfig) -> PoolScheduler:
    pki = pool_pki(Path(config.pool_dir))
    security = Security(
        require_encryption=True,
        tls_ca_file=str(pki.operator_ca),
        tls_scheduler_cert=str(pki.scheduler_cert),
        tls_scheduler_key=str(pki.scheduler_key),
        tls_min_version=771,
    )
    return PoolScheduler(
        host=[config.tls_host, config.vol_host],
        port=[config.tls_port, config.vol_port],
        protocol=["tls", "vol"],
        security=security,
        dashboard=False,
        dashboard_address="127.0.0.1:0",
    )


def _make_side(config: SchedulerConfig, scheduler: Scheduler, door: Door) -> SchedulerSide:
    pki = pool_pki(Path(config.pool_dir))
    signer = TicketSigner(load_secret(pki.ticket_secret))

    def holder_of(key: str) -> str | None:
        task = scheduler.tasks.get(key)
        return None if task is None or task.processing_on is None else str(task.processing_on.address)

    def ticket_for(volunteer: str, unit: UnitMessage) -> str:
        return signer.issue(unit.job, unit.unit, unit.issue, volunteer, time.time(), config.ticket_ttl_s)

    def refuse_task(address: str, refused: schema.RefusedTask) -> None:
        scheduler.handle_task_erred(
            key=refused.task_key,
            run_id=refused.run_id,
            worker=address,
            stimulus_id="edge-refused",
            exception=f"refused by the edge: {refused}",
            traceback=None,
            exception_text=str(refused),
            traceback_text="",
            startstops=[],
            thread=0,
        )

    context = server_context(str(pki.volunteer_ca), str(pki.scheduler_cert), str(pki.scheduler_key))
    return SchedulerSide(context, door, holder_of, ticket_for, refuse_task)


def volunteers(scheduler: Scheduler) -> list[dict[str, Any]]:
    """What operators are told about each live volunteer: name, address, threads, and units it has in hand."""
    return [
        {
            "name": worker.host,
            "address": worker.address,
            "nthreads": worker.nthreads,
            "in_flight": len(worker.processing),
        }
        for worker in scheduler.workers.values()
        if worker.address.startswith(PREFIX)
    ]


class Refusals:
    """The registry's refused volunteers, as of the last ``refresh``."""

    def __init__(self, pool_dir: str) -> None:
        from muster.cluster.coordinator.registry import Registry

        self._registry = Registry(pool_dir)
        self._reasons: Mapping[str, str] = {}

    def refresh(self) -> set[str]:
        """Read the registry (blocking); returns the names that are refused since the last time."""
        before = self._reasons
        self._reasons = self._registry.refused_volunteers()
        return set(self._reasons) - set(before)

    def reason(self, name: str) -> str | None:
        """Why this volunteer is refused, None if it is not."""
        return self._reasons.get(name)


async def _poll(refusals: Refusals, door: Door, refresh_s: float) -> None:
    while True:
        await asyncio.sleep(refresh_s)
        try:
            door.cut(await asyncio.to_thread(refusals.refresh))
        except Exception:
            log.exception("the registry could not be read; whoever was refused stays refused")
