"""A volunteer's process: a Dask worker that dials the pool, never listens, and runs nothing but units.

One worker lives as long as its connection; a supervisor loop makes the next one, with a new nonce and after a jittered
pause. Threads that were computing when a connection broke go on: their result reaches the gateway on its own way.
What it does not do: execute (``execute``), transfer (``transfer``), or choose what to work on.

Invariants: no listening socket; no plugins, no code from the network (``edge.volunteer_schema``), no data of others;
the same Executor serves every life of the worker, so that compute stays within ``n_threads`` across reconnections.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import secrets
import ssl
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
from distributed import Worker

from muster.cluster.bundle import Bundle, bundle_from_dict, client_context, read_bundle
from muster.cluster.edge.comm import install
from muster.cluster.edge.door import SUPERSEDED, muster_version
from muster.cluster.edge.volunteer_side import PoolUnreachable, Refused, VolunteerSide
from muster.cluster.edge.wire import PREFIX
from muster.cluster.stop_signals import stop_on_signals
from muster.cluster.unit import set_executor
from muster.cluster.volunteer.execute import Executor
from muster.errors import PoolError

log = logging.getLogger("muster.volunteer")
_START_TIMEOUT_S = 60.0
_CLOSE_TIMEOUT_S = 2.0
_FIRST_PAUSE_S = 0.5
_MAX_PAUSE_S = 60.0
_REFUSED_PAUSE_S = 300.0  # quarantine and the like are lifted by people, not within seconds
_STEADY_S = 30.0  # a connection that lasted this long was a good one: the pauses start small again
_STREAM_OPS = frozenset(
    {"close", "compute-task", "cancel-compute", "free-keys", "remove-replicas", "steal-request", "worker-status-change"}
)


@dataclass(frozen=True)
class VolunteerConfig:
    """One volunteer.

    Attributes:
        bundle_path: the volunteer's bundle file; used unless ``bundle`` is given.
        scratch_dir: for Dask's working folder and for finished work that waits for its upload.
        n_threads: cores to compute on at once; 0 means all that this process may use.
        log_path: a file to log to instead of standard error.
        bundle: the bundle's content.
        depth: units in hand per core, so that fetching and uploading overlap with computing.
        wait_for_pool: whether an unreachable pool at the start is waited for; otherwise it is a PoolError.
    """

    bundle_path: str = ""
    scratch_dir: str = ""
    n_threads: int = 0
    log_path: str | None = None
    bundle: Mapping[str, Any] | None = None
    depth: int = 3
    wait_for_pool: bool = False


def run(
    config: VolunteerConfig,
    ready: Callable[[dict[str, object]], None],
    executor_class: type[Executor] = Executor,
) -> None:
    """Work for a pool until SIGTERM or Ctrl-C.

    ``ready`` gets ``{"name": str, "address": str, "n_threads": int}`` at the first registration.

    Raises:
        ConfigError: the bundle is unusable.
        PoolError: the pool can't be reached at the start, refuses this volunteer then, or needs another Muster version.
    """
    _log_to(config.log_path)
    if config.bundle is not None:
        bundle = bundle_from_dict(config.bundle)
    else:
        bundle = read_bundle(Path(config.bundle_path), "volunteer")
    n_threads = config.n_threads or _usable_cores()
    scratch = Path(config.scratch_dir)
    scratch.mkdir(parents=True, exist_ok=True)
    executor = executor_class(bundle, n_compute=n_threads, scratch=scratch)
    set_executor(executor)
    agent = Agent(config, bundle, n_threads, scratch, ready)
    try:
        with dask.config.set(_dask_settings()):
            asyncio.run(agent.supervise())
    finally:
        set_executor(None)
        executor.close()


def _dask_settings() -> dict[str, Any]:
    memory = {f"distributed.worker.memory.{what}": False for what in ("spill", "target", "pause", "terminate")}
    return memory | {
        "distributed.worker.profile.enabled": False,
        "distributed.worker.http.routes": [],
        "distributed.worker.preload": [],
        "distributed.worker.resources": {},
        "distributed.worker.use-file-locking": False,
        "distributed.worker.lifetime.duration": None,
        "distributed.admin.system-monitor.gil.enabled": False,
        "distributed.admin.low-level-log-length": 100,
        # Dask's self-observation (50 ticks and 2 samples of /proc a second) is most of an idle process's CPU time.
        "distributed.admin.tick.interval": "1s",
        "distributed.admin.system-monitor.interval": "10s",
        "distributed.comm.timeouts.connect": "30s",
        "distributed.comm.timeouts.tcp": "900s",
        "distributed.comm.require-encryption": True,
    }


class VolunteerWorker(Worker):  # type: ignore[misc]
    """Dask's worker with every way in removed but the task stream."""

    def __init__(self, scheduler: str, **options: Any) -> None:
        super().__init__(scheduler, protocol="vol", extensions={}, startup_information={}, nanny=None, **options)
        self.handlers.clear()
        for op in set(self.stream_handlers) - _STREAM_OPS:
            del self.stream_handlers[op]
        with contextlib.suppress(ValueError):
            sys.path.remove(self.local_directory)  # nothing in the scratch folder is ever imported

    def start_http_server(self, *_args: Any, **_options: Any) -> None:
        """Start none: a volunteer has no listening socket."""

    async def plugin_add(self, *_args: Any, **_options: Any) -> dict[str, Any]:
        """Refuse."""
        raise PermissionError("a volunteer takes no plugins")

    async def _refuse(self, *_args: Any, **_options: Any) -> None:
        raise PermissionError("a volunteer takes no code and serves no data")

    run = run_coroutine = upload_file = actor_execute = actor_attribute = get_data = _refuse

    async def close(self, **options: Any) -> str | None:
        """Close without waiting for threads: what they compute goes to the gateway, not through this connection."""
        options |= {"executor_wait": False, "timeout": _CLOSE_TIMEOUT_S}
        outcome: str | None = await super().close(**options)
        return outcome


class Agent:
    """The supervisor loop of one volunteer."""

    def __init__(
        self,
        config: VolunteerConfig,
        bundle: Bundle,
        n_threads: int,
        scratch: Path,
        ready: Callable[[dict[str, object]], None],
    ) -> None:
        self._bundle = bundle
        self._n_threads = n_threads
        self._depth = max(1, config.depth)
        self._wait_for_pool = config.wait_for_pool
        self._scratch = scratch
        self._ready = ready
        self._registered_before = False
        self._context = client_context(bundle)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._stop = asyncio.Event()

    async def supervise(self) -> None:
        """Connect, work, reconnect; ends when told to stop. Raises PoolError as ``run`` says."""
        stop_on_signals(self._stop)
        loop = asyncio.get_running_loop()
        pause_s = _FIRST_PAUSE_S
        while not self._stop.is_set():
            began_s = loop.time()
            floor_s = 0.0
            try:
                farewell = await self._live_once()
                log.info("connection to the pool ended: %s", farewell or "lost")
                if farewell == SUPERSEDED:  # another process has this certificate: don't fight over it
                    floor_s = _MAX_PAUSE_S
            except Refused as refusal:
                self._give_up_on(refusal)
                log.warning("the pool refuses this volunteer: %s", refusal)
                floor_s = _REFUSED_PAUSE_S
            except PoolUnreachable as error:
                if not (self._registered_before or self._wait_for_pool):
                    raise PoolError(str(error), hint="is the coordinator running, and is the bundle current?") from None
                log.info("%s", error)
            if loop.time() - began_s > _STEADY_S:
                pause_s = _FIRST_PAUSE_S
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), floor_s + random.uniform(0.5, 1.0) * pause_s)  # noqa: S311
            pause_s = min(2 * pause_s, _MAX_PAUSE_S)

    def _give_up_on(self, refusal: Refused) -> None:
        """Waiting helps against a quarantine that begins while working, not against the rest."""
        if str(refusal).startswith("version:") or not self._registered_before:
            raise PoolError(f"the pool refuses this volunteer: {refusal}") from None

    async def _live_once(self) -> str:
        """One life of the worker; returns why the pool closed it, empty if the connection broke."""
        side = VolunteerSide(
            self._bundle.scheduler, self._context, self._bundle.server_name, secrets.token_hex(8), muster_version()
        )
        install(side)
        worker = VolunteerWorker(
            PREFIX + self._bundle.scheduler,
            name=self._bundle.name,
            nthreads=self._n_threads * self._depth,
            memory_limit=0,
            dashboard=False,
            local_directory=str(self._scratch / "dask"),
        )
        if not await self._started(worker):
            return ""
        address = f"{PREFIX}{self._bundle.name}.{side.nonce}"
        log.info("registered as %s with %d threads", address, self._n_threads)
        if not self._registered_before:
            self._registered_before = True
            self._ready({"name": self._bundle.name, "address": address, "n_threads": self._n_threads})
        stopping = asyncio.create_task(self._stop.wait())
        finished = asyncio.create_task(worker.finished())
        await asyncio.wait({stopping, finished}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        await worker.close(reason="volunteer stops")
        return side.link.farewell

    async def _started(self, worker: VolunteerWorker) -> bool:
        """Start the worker; False if told to stop meanwhile. Raises Refused or PoolUnreachable."""
        starting = asyncio.ensure_future(worker.start())
        stopping = asyncio.create_task(self._stop.wait())
        done, _ = await asyncio.wait(
            {starting, stopping}, timeout=_START_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED
        )
        stopping.cancel()
        if starting not in done:
            starting.cancel()
            await asyncio.wait({starting}, timeout=_CLOSE_TIMEOUT_S)
            if self._stop.is_set():
                return False
            raise PoolUnreachable(f"the pool at {self._bundle.scheduler} did not answer within {_START_TIMEOUT_S:g} s")
        error = starting.exception()
        while error is not None and not isinstance(error, Refused | PoolUnreachable):
            if error.__cause__ is None:
                raise PoolUnreachable(f"the worker did not start: {type(error).__name__}: {error}") from error
            error = error.__cause__
        if error is not None:
            raise error
        return True


def _usable_cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def _log_to(path: str | None) -> None:
    logging.basicConfig(filename=path, level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    logging.getLogger("muster").setLevel(logging.INFO)
    # A lost connection and a failed unit are daily life here; both are logged in our words.
    for name in ("distributed", "distributed.worker", "distributed.core", "distributed.comm", "distributed.batched"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
