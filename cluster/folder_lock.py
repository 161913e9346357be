"""A lock on a folder that one process holds and that goes with it, however the process ends.

SQLite's lock on an empty database: the same on every system, released by the kernel, without a stale file to judge.

Invariants: one holder at a time, threads of one process included; nothing has to be cleaned up after a crash.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

from muster.errors import PoolError

WAIT_S = 5.0  # a run that is just ending needs no error


class FolderLock:
    """Holds ``folder`` from construction to ``release``; raises PoolError if another process goes on holding it."""

    def __init__(self, folder: Path, wait_s: float = WAIT_S) -> None:
        holder = folder / "lock.pid"
        self._connection = sqlite3.connect(
            folder / "lock.sqlite", timeout=wait_s, isolation_level=None, check_same_thread=False
        )
        try:
            self._connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError:
            self._connection.close()
            raise PoolError(
                f"the embedded pool {folder} is in use by process {_read(holder)}",
                hint="wait for that run, set another MUSTER_HOME, or run `muster coordinator` and use --pool URL",
            ) from None
        holder.write_text(f"{os.getpid()}\n")

    def release(self) -> None:
        """Let the folder go; harmless when repeated."""
        self._connection.close()


def _read(holder: Path) -> str:
    with contextlib.suppress(OSError):
        return holder.read_text().strip()[:20] or "?"
    return "?"
