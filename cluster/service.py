"""How one service process of a pool is started, watched and stopped.

A service is a module with ``run(config, ready)``: it calls ``ready({...})`` once it is usable and blocks until SIGTERM.
On Linux the processes are forked from one warm server (``multiprocessing``'s forkserver) that has imported the heavy
packages once, which makes a pool start in a second instead of one second a process; elsewhere they are spawned.

Does not hold: which services a pool has (``coordinator.supervisor``, ``embedded``).
Invariants: a service exits when its parent is gone, however that died; its output goes to its own log file; no secret
is in the fork server (configs travel after the fork and name files only).
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

from muster.errors import PoolError

_PRELOAD = (
    "muster.cluster.warm",
    "muster.cluster.coordinator.gateway",
    "muster.cluster.coordinator.intake",
    "muster.cluster.coordinator.scheduler",
    "muster.cluster.volunteer.agent",
)
_TERM_GRACE_S = 5.0


@dataclass(frozen=True, slots=True)
class Service:
    """A process to run: ``module.run(config, ready)``, called ``name`` in messages and log files."""

    name: str
    module: str
    config: object
    log_path: str


class RunningService:
    """A started service; use ``wait_ready`` before relying on it."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._conn, child_conn = multiprocessing.Pipe(duplex=True)
        self._ready: dict[str, object] | None = None
        start_fork_server()
        context: Any = multiprocessing.get_context(start_method())
        self.process: Any = context.Process(
            target=_service_main, args=(service, child_conn), name=f"muster-{service.name}", daemon=False
        )
        with bare_main():
            self.process.start()
        child_conn.close()

    def wait_ready(self, timeout_s: float) -> dict[str, object]:
        """Return what the service reported when it became usable; raises PoolError if it died or took too long."""
        if self._ready is None:
            deadline = time.monotonic() + timeout_s
            while not self._conn.poll(min(0.2, timeout_s)):
                if not self.process.is_alive():
                    raise PoolError(self._failure("stopped while starting"))
                if time.monotonic() > deadline:
                    raise PoolError(self._failure(f"was not ready within {timeout_s:g} s"))
            try:
                self._ready = self._conn.recv()
            except (EOFError, OSError):  # its end of the pipe closes a moment before it counts as ended
                raise PoolError(self._failure("stopped while starting")) from None
        return self._ready

    def _failure(self, what: str) -> str:
        name, log = self.service.name, Path(self.service.log_path)
        lines = log.read_text(errors="replace").strip().splitlines()[-3:] if log.exists() else []
        return f"the pool's {name} process {what}; its log {log} ends with: {' | '.join(lines) or '(nothing)'}"

    @property
    def pid(self) -> int:
        """Return the process id."""
        return int(self.process.pid)

    def alive(self, patience_s: float = 0.0) -> bool:
        """Whether the process runs, and goes on running for ``patience_s``."""
        if patience_s:
            self.process.join(patience_s)
        return bool(self.process.is_alive())

    def cpu_s(self) -> float:
        """CPU seconds (user and system) of the service and its children so far; 0 when it has ended."""
        return process_cpu_s(self.pid)

    def terminate(self) -> None:
        """Ask the service to stop; returns at once."""
        if self.process.is_alive():
            self.process.terminate()

    def join(self, timeout_s: float = _TERM_GRACE_S) -> None:
        """Wait for the end; after ``timeout_s`` the process is killed."""
        self.process.join(timeout_s)
        if self.process.is_alive():
            self.process.kill()
            self.process.join(1.0)
        self._conn.close()


def process_cpu_s(pid: int) -> float:
    """CPU seconds (user and system) of a process and its living children; 0 when it has ended."""
    try:
        process = psutil.Process(pid)
        total = sum(process.cpu_times()[:2])
        return float(total + sum(sum(child.cpu_times()[:2]) for child in process.children(recursive=True)))
    except psutil.Error:
        return 0.0


@contextmanager
def bare_main() -> Iterator[None]:
    """Hide ``__main__`` while a process starts, so that the child doesn't import the parent's script (or Prefect)."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def start_method() -> str:
    """Return the way in which processes are started here: from the warm fork server where there is one."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return "spawn"
    multiprocessing.set_forkserver_preload(list(_PRELOAD))
    return "forkserver"


def start_fork_server() -> None:
    """Start the warm fork server in the background, so that its imports overlap with the caller's own.

    It and all that it forks are deaf to Ctrl-C, which reaches the whole group: the caller says when to stop.
    """
    if start_method() == "forkserver":
        from multiprocessing import forkserver, resource_tracker

        resource_tracker.ensure_running()  # later it would undo the mask
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with bare_main():
                forkserver.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _service_main(service: Service, conn: Connection) -> None:
    _redirect_output(service.log_path)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent says when to stop
    threading.Thread(target=_exit_with_parent, args=(conn,), name="parent-watch", daemon=True).start()
    importlib.import_module(service.module).run(service.config, conn.send)


def _exit_with_parent(conn: Connection) -> None:
    try:
        while True:
            conn.recv()
    except (EOFError, OSError):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_TERM_GRACE_S)
        os._exit(1)


def _redirect_output(log_path: str) -> None:
    Path(log_path).parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)
