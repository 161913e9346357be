"""What the gateway's routes share: who may do what for how long, jobs' sources, and threads for whatever may block.

What it does not do: speak HTTP, or change anything but through the registry.

Invariants: every cache is bounded; a quarantined or revoked volunteer is refused within ``REFUSED_MAX_AGE_S``; a job's
source is opened once; nothing here blocks the event loop.
"""

from __future__ import annotations

import asyncio
import re
import time
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from blake3 import blake3

from muster.cluster.coordinator.registry import AttemptRow, Registry
from muster.cluster.coordinator.served_source import ServedSource, load_source
from muster.cluster.coordinator.signed_urls import UrlSigner
from muster.cluster.coordinator.tickets import TicketSigner

URL_TTL_S = 900.0
REFUSED_MAX_AGE_S = 2.0
_MAX_GRANTS = 8192
_MAX_SOURCES = 64
_READ_THREADS = 16
_TOKEN = re.compile(r"[A-Za-z0-9._:+/=-]{1,128}")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Grant:
    """What an attempt may read and send: byte ranges of one file of its job's source, and one bounded upload."""

    attempt: str
    job: str
    volunteer: str
    file: int
    fingerprint: str
    ranges: tuple[tuple[int, int], ...]
    max_nbytes: int

    @property
    def etag(self) -> str:
        """A token for the version of the file: its fingerprint, or the hash of one that no header could carry."""
        return self.fingerprint if _TOKEN.fullmatch(self.fingerprint) else blake3(self.fingerprint.encode()).hexdigest()

    def covers(self, start: int, end: int) -> bool:
        """Whether [start, end) lies inside one of the chunk's ranges (which are sorted and disjoint)."""
        at = bisect_right(self.ranges, (start, 2**63)) - 1
        if at < 0 or end <= start:
            return False
        offset, length = self.ranges[at]
        return end <= offset + length


class GatewayState:
    """Shared by the routes of one gateway process."""

    def __init__(self, pool_dir: Path, registry: Registry, tickets: TicketSigner, urls: UrlSigner) -> None:
        self.pool_dir = pool_dir
        self.registry = registry
        self.tickets = tickets
        self.urls = urls
        self._grants: OrderedDict[str, Grant] = OrderedDict()
        self._sources: OrderedDict[str, asyncio.Task[ServedSource]] = OrderedDict()
        self._refused: dict[str, str] = {}
        self._refused_at_s = float("-inf")
        self._records = ThreadPoolExecutor(1, "registry")  # SQLite has one writer: more threads would only wait
        self._reads = ThreadPoolExecutor(_READ_THREADS, "read")

    async def record(self, call: Callable[..., T], *args: Any) -> T:
        """Run a registry call off the event loop, one at a time."""
        return await asyncio.get_running_loop().run_in_executor(self._records, call, *args)

    async def blocking(self, call: Callable[..., T], *args: Any) -> T:
        """Run a read or write of files off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._reads, call, *args)

    async def refused(self, volunteer: str) -> str | None:
        """Why this volunteer may not work, or None; as of ``REFUSED_MAX_AGE_S`` ago at most."""
        now_s = time.monotonic()
        if now_s - self._refused_at_s > REFUSED_MAX_AGE_S:
            self._refused_at_s = now_s
            self._refused = await self.record(self.registry.refused_volunteers)
        return self._refused.get(volunteer)

    async def grant(self, attempt_id: str) -> Grant | None:
        """The grant of an attempt, or None if there is no such attempt."""
        grant = self._grants.get(attempt_id)
        if grant is None:
            row = await self.record(self.registry.attempt, attempt_id)
            if row is None:
                return None
            grant = self._grants[attempt_id] = _grant_of(row)
            while len(self._grants) > _MAX_GRANTS:
                self._grants.popitem(last=False)
        return grant

    async def source(self, job_id: str) -> ServedSource:
        """The opened source of a job.

        Raises:
            SourceError: it can't be opened.
        """
        task = self._sources.get(job_id)
        if task is None:
            task = self._sources[job_id] = asyncio.ensure_future(self._open_source(job_id))
            while len(self._sources) > _MAX_SOURCES:
                self._sources.popitem(last=False)
        try:
            return await asyncio.shield(task)
        except BaseException:
            if task.done() and self._sources.get(job_id) is task:
                del self._sources[job_id]  # the next request tries again
            raise

    def forget_source(self, job_id: str) -> None:
        """Open the job's source again at the next request: its job may have been planned anew."""
        self._sources.pop(job_id, None)

    async def _open_source(self, job_id: str) -> ServedSource:
        text, options = await self.record(self.registry.job_source, job_id)
        return await self.blocking(load_source, text, self.pool_dir / "exchange", options)

    def close(self) -> None:
        """Stop the threads; calls under way end by themselves."""
        self._records.shutdown(wait=False, cancel_futures=True)
        self._reads.shutdown(wait=False, cancel_futures=True)


def _grant_of(row: AttemptRow) -> Grant:
    from muster.datasets.chunks import ChunkRef

    chunk = ChunkRef.from_json(row.chunk)
    return Grant(
        attempt=row.attempt_id,
        job=row.job_id,
        volunteer=row.volunteer,
        file=chunk.file,
        fingerprint=chunk.fingerprint,
        ranges=tuple(chunk.ranges),
        max_nbytes=row.max_nbytes,
    )
