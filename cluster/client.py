"""The trusted side's hold on a pool's scheduler: submit units, learn which keys ended, see who is there.

Only states of keys are read. Results never come this way (volunteers upload them to the gateway, and ``finished``
proves nothing), nothing is gathered, and the two event topics that would unpickle what a worker logged are
unsubscribed.
What it does not do: keep a window, retry, or judge (the dispatcher in ``tasks`` does).

Invariants: a key's state is put into ``states`` once, after which its future is kept until ``release``; text from
volunteers is bounded and printable; every call ends within its time-out, with PoolError if the pool is gone.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import re
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal, Self, cast

import dask
from distributed import Client, Future
from distributed.security import Security

from muster.cluster.unit import execute_unit
from muster.errors import PoolError, printable

Status = Literal["finished", "error", "cancelled", "lost"]
MAX_ERROR_CHARS = 2500
_BLAMED = re.compile(r"vol://([^.: ]+)\.[a-z0-9]+: ")  # what ``edge.schema`` puts before a volunteer's own words
_NOISY = ("distributed.client", "distributed.core", "distributed.comm", "distributed.batched", "distributed.utils")


class NobodyEligibleError(PoolError):
    """Every live volunteer is excluded from this unit."""


@dataclass(frozen=True, slots=True)
class KeyState:
    """A key that ended: ``status`` is Dask's word for how, ``error_text`` what the volunteer or the edge said.

    ``volunteer`` is the name of the volunteer whose error it is, empty if it is nobody's.
    """

    key: str
    status: Status
    error_text: str = ""
    volunteer: str = ""


@dataclass(frozen=True, slots=True)
class Volunteer:
    """A live volunteer; ``in_flight`` counts the units it has been given and has not ended."""

    name: str
    address: str
    nthreads: int
    in_flight: int


class PoolClient:
    """An operator's connection to one pool's scheduler; ``states`` receives a KeyState for each key that ends."""

    def __init__(self, address: str, *, ca: str, cert: str, key: str, timeout_s: float = 10.0) -> None:
        """Connect.

        Args:
            address: ``tls://host:port`` (or ``host:port``) of the scheduler's door for operators.
            ca, cert, key: PEM text, or paths of PEM files: the operators' CA and this operator's pair.
            timeout_s: for the connection and for every later question.

        Raises:
            PoolError: unreachable, or the credentials were refused.
        """
        self.address = address if "://" in address else f"tls://{address}"
        self.states: queue.SimpleQueue[KeyState] = queue.SimpleQueue()
        self._timeout_s = timeout_s
        self._futures: dict[str, Future] = {}
        self._allowed: dict[str, frozenset[str]] = {}  # of keys that not everybody may get
        self._lock = threading.Lock()
        self._cached: tuple[float, list[Volunteer]] = (-1e9, [])
        self._closed = False
        for name in _NOISY:
            logging.getLogger(name).setLevel(logging.CRITICAL)  # losing a peer is reported by ``check``, in our words
        self._client = self._connect(ca, cert, key)

    def _connect(self, ca: str, cert: str, key: str) -> Client:
        security = Security(require_encryption=True, tls_ca_file=ca, tls_client_cert=cert, tls_client_key=key)
        settings = {"distributed.comm.timeouts.connect": self._timeout_s, "distributed.comm.timeouts.tcp": "900s"}
        try:
            with dask.config.set(settings):
                client = Client(self.address, security=security, set_as_default=False, timeout=self._timeout_s)
        except Exception as error:
            raise PoolError(
                f"pool at {self.address}: {_cause(error)}",
                hint="is the coordinator running, and is this its operator's bundle?",
            ) from None
        for topic in ("print", "warn"):  # their handlers unpickle what any worker logs
            with contextlib.suppress(Exception):
                client.unsubscribe_topic(topic)
        return client

    def submit(self, unit: str, key: str, exclude: Collection[str] | None = None) -> None:
        """Put one unit into the scheduler.

        Args:
            unit: the message of ``unit.make_unit``.
            key: its Dask key (``unit.unit_key``); must not be in use.
            exclude: names of volunteers that must not get it; the unit then goes only to one of the others alive now,
                under whatever connection they come back with.

        Raises:
            NobodyEligibleError: all live volunteers are excluded.
            PoolError: the connection is gone.
        """
        self.check()
        allowed: list[str] | None = None
        if exclude:
            allowed = sorted({v.name for v in self.volunteers(max_age_s=1.0)} - set(exclude))
            if not allowed:
                raise NobodyEligibleError(
                    f"unit {key}: every live volunteer is excluded ({', '.join(sorted(exclude))})"
                )
        future = self._client.submit(execute_unit, unit, key=key, pure=False, workers=allowed)
        with self._lock:
            self._futures[key] = future
            if allowed is not None:
                self._allowed[key] = frozenset(allowed)
        future.add_done_callback(self._done)

    def _done(self, future: Future) -> None:
        status = cast("Status", future.status)
        error = getattr(future._state, "exception", None) if status != "finished" else None
        with self._lock:
            known = self._futures.get(future.key) is future
        if known:
            text = printable(str(error), MAX_ERROR_CHARS, mark=" ") if error is not None else ""
            blamed = _BLAMED.match(text)
            volunteer = blamed[1] if blamed else ""
            self.states.put(KeyState(str(future.key), status, text[blamed.end() :] if blamed else text, volunteer))

    def release(self, key: str) -> None:
        """Drop a key: Dask forgets it, or takes it back if it has not ended; unknown keys are ignored."""
        with self._lock:
            future = self._futures.pop(key, None)
            self._allowed.pop(key, None)
        if future is not None and not self._closed:
            with contextlib.suppress(Exception):
                future.release()

    def enders(self, key: str) -> set[str]:
        """Names of the volunteers that reported this key, which is not released yet, finished or failed."""
        with self._lock:
            future = self._futures.get(key)
        if future is None or not future.done():
            return set()
        error = getattr(future._state, "exception", None) if future.status == "error" else None
        blamed = _BLAMED.match(str(error)) if error is not None else None
        if blamed or future.status != "finished":
            return {blamed[1]} if blamed else set()
        holders = self._ask("who_has", keys=[key]).get(key, ())
        return {address.removeprefix("vol://").split(".")[0] for address in holders if address.startswith("vol://")}

    def pending(self) -> int:
        """How many submitted keys have not been released."""
        with self._lock:
            return len(self._futures)

    def stranded(self) -> list[str]:
        """The keys that nobody alive may get: all volunteers they were restricted to are gone. Release and submit anew.

        Raises:
            PoolError: the scheduler did not answer.
        """
        with self._lock:
            restricted = dict(self._allowed)
        if not restricted:
            return []
        alive = {volunteer.name for volunteer in self.volunteers(max_age_s=1.0)}
        return [key for key, allowed in restricted.items() if not allowed & alive]

    def volunteers(self, max_age_s: float = 0.0) -> list[Volunteer]:
        """The live volunteers, as the scheduler sees them; an answer younger than ``max_age_s`` is used again.

        Raises:
            PoolError: the scheduler did not answer.
        """
        asked_s, known = self._cached
        if time.monotonic() - asked_s < max_age_s:
            return known
        fresh = [Volunteer(**fields) for fields in self._ask("muster_volunteers")]
        self._cached = (time.monotonic(), fresh)
        return fresh

    def edge_counts(self) -> dict[str, int]:
        """What happened at the edge so far: admitted, refused, superseded, cut, violations, refused_tasks, …

        Raises:
            PoolError: the scheduler did not answer.
        """
        return dict(self._ask("muster_edge")["counts"])

    def _ask(self, question: str, **about: Any) -> Any:
        self.check()
        try:
            handler = getattr(self._client.scheduler, question)
            return self._client.sync(handler, callback_timeout=self._timeout_s, **about)
        except Exception as error:
            raise PoolError(f"pool at {self.address} did not answer: {_cause(error)}") from None

    def check(self) -> None:
        """Raise PoolError if the connection to the scheduler is gone."""
        if self._closed:
            raise PoolError(f"pool at {self.address}: this client is closed")
        if self._client.status != "running":
            raise PoolError(f"pool at {self.address}: the connection to the scheduler was lost")

    def close(self) -> None:
        """Leave the pool; quick, quiet, and safe to call twice. Keys that have not ended are taken back."""
        if self._closed:
            return
        self._closed = True
        with self._lock:
            self._futures.clear()
        with contextlib.suppress(Exception):
            self._client.close(timeout=2)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def _cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"[:300]
