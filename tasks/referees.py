"""Referees: trusted compute that checks and recomputes, by default a Dask LocalCluster on this machine.

Starts them in the background (their first task waits), hands them functions of ``recompute`` and collects outcomes in a
queue that the dispatcher drains. Decides nothing.

Invariants: referees never see a volunteer's bytes, only the source and what intake re-encoded; every submitted task
ends in exactly one queued outcome, an exception included.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future as ThreadFuture
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from muster.cluster.service import bare_main, process_cpu_s

START_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one referee task: ``value`` or ``error``; ``tag`` is the submitter's."""

    tag: Hashable
    value: Any
    error: BaseException | None


class Referees:
    """A pool of trusted worker processes; a context manager."""

    def __init__(self, n_workers: int | None = None, address: str | None = None) -> None:
        self._n_workers = n_workers or max(1, min(4, os.cpu_count() or 1))
        self._address = address
        self._started: ThreadFuture[Any] = ThreadFuture()
        self._starting: threading.Thread | None = None
        self._cluster: Any = None
        self._pending: dict[Hashable, Any] = {}
        self._shared: dict[Hashable, Any] = {}
        self._handing_over = threading.Lock()  # a task is pending or its outcome is queued, never neither
        self.outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self._start_cpu_s = 0.0

    def start(self) -> None:
        """Begin to start the workers in the background; harmless when repeated."""
        if self._starting is None:
            self._starting = threading.Thread(target=self._start, name="referees-start", daemon=True)
            self._starting.start()

    def _start(self) -> None:
        try:
            client = self._connect()
            self._start_cpu_s = self._clock_s()
            self._started.set_result(client)
        except BaseException as error:
            self._started.set_exception(error)

    def _connect(self) -> Any:
        import dask
        from distributed import Client, LocalCluster
        from distributed.security import Security

        logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what fails is reported as an outcome
        if self._address is not None:
            return Client(self._address, set_as_default=False, timeout=START_TIMEOUT_S)
        dask.config.set(_LOCAL_CONFIG)
        with bare_main():
            self._cluster = LocalCluster(
                n_workers=self._n_workers,
                threads_per_worker=1,
                processes=True,
                dashboard_address="127.0.0.1:0",
                memory_limit=0,
                security=Security.temporary(),
                silence_logs=logging.CRITICAL,
            )
        return Client(self._cluster, set_as_default=False)

    @property
    def client(self) -> Any:
        """The connected Dask client; waits for the workers' start."""
        self.start()
        return self._started.result(START_TIMEOUT_S)

    @property
    def n_pending(self) -> int:
        """Tasks submitted and not yet reported."""
        with self._handing_over:
            return len(self._pending)

    def tags(self) -> list[Hashable]:
        """Return the tags of the tasks that are under way."""
        return list(self._pending)

    def share(self, value: Hashable) -> Any:
        """Send ``value`` to every referee once; the result stands for it among ``submit``'s arguments.

        A job's list of files may be megabytes long, and a task for each chunk must not carry it.
        """
        if value not in self._shared:
            self._shared[value] = self.client.scatter(value, broadcast=True, hash=False)
        return self._shared[value]

    def submit(self, tag: Hashable, function: Callable[..., Any], *args: Any) -> None:
        """Run ``function(*args)`` on a referee; its outcome appears in ``outcomes`` under ``tag``."""
        future = self.client.submit(function, *args, pure=False)
        self._pending[tag] = future
        future.add_done_callback(lambda done: self._report(tag, done))

    def _report(self, tag: Hashable, future: Any) -> None:
        error = None if future.status == "finished" else (future.exception() or RuntimeError(future.status))
        value = future.result() if error is None else None
        with self._handing_over:
            self._pending.pop(tag, None)
            self.outcomes.put(Outcome(tag, value, error))

    def cpu_s(self) -> float:
        """CPU seconds of the local referees since they were ready; 0 for a cluster elsewhere."""
        return max(0.0, self._clock_s() - self._start_cpu_s) if self._started.done() else 0.0

    def _clock_s(self) -> float:
        workers = {} if self._cluster is None else self._cluster.workers
        return sum(process_cpu_s(worker.process.pid) for worker in workers.values() if worker.process is not None)

    def close(self) -> None:
        """Stop the workers and drop what is pending."""
        if self._starting is None:
            return
        self._starting.join(START_TIMEOUT_S)
        cluster, self._cluster = self._cluster, None
        if self._started.exception() is None:
            self._started.result().close()
        if cluster is not None:
            cluster.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


_LOCAL_CONFIG: dict[str, Any] = {
    "distributed.worker.multiprocessing-method": "forkserver" if os.name == "posix" else "spawn",
    "distributed.worker.profile.enabled": False,
    "distributed.scheduler.active-memory-manager.start": False,
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    # Dask's self-observation (50 ticks and 2 samples of /proc a second) is most of an idle process's CPU time.
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.system-monitor.interval": "10s",
    "distributed.admin.system-monitor.disk": False,
    "distributed.admin.system-monitor.gil.enabled": False,
}
