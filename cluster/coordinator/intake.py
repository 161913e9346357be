"""Intake: takes whole uploads one by one to a sandboxed child and records what came of them.

This half has the registry and the exchange; it never opens an upload. The other half (``intake_child``) opens uploads
and has nothing else. What this half learns is a small checked message and two files of which it only looks at the size.
What it does not do: judge values (audits do), or decide what a refusal means for a volunteer (``trust`` does).

Invariants: an upload is answered exactly once in the registry (validated or refused) and then removed; accepted files
stand under their names before the registry says so; a child that breaks on an upload is replaced, the upload tried once
more, and refused as ``intake-crash`` if it breaks the next child too; other uploads go on meanwhile.
"""

from __future__ import annotations

import logging
import queue
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from muster.cluster.coordinator.intake_bell import last_rung_ns
from muster.cluster.coordinator.intake_plans import IntakePlans
from muster.cluster.coordinator.intake_process import ChildLostError, IntakeProcess
from muster.cluster.coordinator.intake_request import IntakeFinding, IntakeOutcome, IntakeRequest
from muster.cluster.coordinator.registry import AttemptRow, Registry
from muster.datasets.exchange import Exchange, PendingAccepted, UploadRefusedError, file_blake3
from muster.errors import MusterError, PoolError

LOOK_EVERY_S = 0.01
ASK_EVERY_S = 1.0
N_CHILDREN = 2  # a stuck upload must not hold up the others …
PATIENCE_S = 1.0  # … but a second child is only started once an upload has waited this long for the first
TIMEOUT_FLOOR_S = 60.0
SLOWEST_NBYTES_PER_S = 5e6
TRIES = 2
PAUSE_AFTER_FAILURE_S = 30.0
SWEEP_AFTER_S = 86400.0
_log = logging.getLogger("muster.intake")


@dataclass(frozen=True, slots=True)
class IntakeConfig:
    """Where the pool's state is."""

    pool_dir: str


def run(config: IntakeConfig, ready: Callable[[dict[str, object]], None]) -> None:
    """Take uploads until SIGTERM; calls ``ready({"walls": …})`` when the first child is confined.

    Raises:
        PoolError: the child can't be started.
    """
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    intake = Intake(Path(config.pool_dir))
    try:
        ready({"walls": intake.start()})
        intake.serve(stop)
    finally:
        intake.close()


class Intake:
    """The supervising half."""

    def __init__(self, pool_dir: Path) -> None:
        self._pool_dir = pool_dir
        self._all: set[IntakeProcess] = set()
        self._idle: queue.LifoQueue[IntakeProcess] = queue.LifoQueue()
        self._closing = False
        self._idle.put(self._new_child())  # it imports while this process does
        self._exchange = Exchange(pool_dir / "exchange")
        self._registry = Registry(pool_dir)
        self._plans = IntakePlans(self._registry, pool_dir / "exchange")
        self._threads = ThreadPoolExecutor(N_CHILDREN, "intake")
        self._busy: set[str] = set()
        self._not_before_s: dict[str, float] = {}

    def start(self) -> str:
        """Remove what a crash left half-written, wait for the first child; returns the walls around it."""
        self._exchange.sweep(SWEEP_AFTER_S)
        child = self._idle.get()
        try:
            walls = child.wait_ready()
        except ChildLostError as error:
            raise PoolError(f"intake: its sandboxed process can't work: {error}") from None
        self._idle.put(child)
        return walls

    def serve(self, stop: threading.Event) -> None:
        """Take what is there whenever the bell rang, and now and then without it."""
        rung_ns, asked_s = -1, 0.0
        while not stop.is_set():
            latest_ns = last_rung_ns(self._pool_dir)
            if latest_ns != rung_ns or time.monotonic() - asked_s > ASK_EVERY_S:
                rung_ns, asked_s = latest_ns, time.monotonic()
                for row in self._registry.attempts_to_intake():
                    if row.attempt_id not in self._busy and self._not_before_s.get(row.attempt_id, 0.0) <= asked_s:
                        self._busy.add(row.attempt_id)
                        self._threads.submit(self._take, row)
            else:
                stop.wait(LOOK_EVERY_S)

    def close(self) -> None:
        """End the children; what was under way is taken again by the next intake."""
        self._closing = True
        for child in list(self._all):
            self._end_child(child)
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._registry.close()

    def _take(self, row: AttemptRow) -> None:
        try:
            answer = self._answer(row)
            if isinstance(answer, IntakeFinding):
                self._registry.attempt_refused(row.attempt_id, answer.kind, answer.text)
            else:
                self._registry.attempt_validated(row.attempt_id, asdict(answer))
            self._exchange.remove_upload(row.attempt_id)
            self._not_before_s.pop(row.attempt_id, None)
        except Exception:
            if not self._closing:
                _log.exception("attempt %s: could not be taken; it will be tried again", row.attempt_id)
            self._not_before_s[row.attempt_id] = time.monotonic() + PAUSE_AFTER_FAILURE_S
        finally:
            self._busy.discard(row.attempt_id)

    def _answer(self, row: AttemptRow) -> IntakeOutcome | IntakeFinding:
        if not self._exchange.has_upload(row.attempt_id):
            return IntakeFinding("lost-upload", "the pool no longer has this upload")
        request = self._plans.request(row)
        seen = ""
        for _ in range(TRIES):
            try:
                return self._open_once(row, request)
            except ChildLostError as error:
                seen = str(error)
                _log.warning("attempt %s: the process that opened it was lost: %s", row.attempt_id, seen)
        return IntakeFinding("intake-crash", f"the process that opened it was lost {TRIES} times: {seen}")

    def _open_once(self, row: AttemptRow, request: IntakeRequest) -> IntakeOutcome | IntakeFinding:
        timeout_s = TIMEOUT_FLOOR_S + request.max_nbytes / SLOWEST_NBYTES_PER_S
        upload = self._exchange.upload_path(row.attempt_id)
        child = self._child()
        try:
            with self._exchange.begin_accepted(row.attempt_id) as pending:
                answer = child.open_upload(request, upload, pending.kept, pending.rejects, timeout_s)
                if isinstance(answer, IntakeOutcome):
                    self._name_files(row.attempt_id, pending, answer)
        except BaseException:
            self._end_child(child)
            raise
        self._idle.put(child)
        return answer

    def _name_files(self, attempt_id: str, pending: PendingAccepted, outcome: IntakeOutcome) -> None:
        sizes = (pending.kept.stat().st_size, pending.rejects.stat().st_size)
        if sizes != (outcome.kept_nbytes, outcome.rejects_nbytes):
            raise ChildLostError("its files are not of the size that it reported")
        try:
            self._exchange.commit_accepted(attempt_id, pending)
        except UploadRefusedError:
            kept, _ = self._exchange.accepted_paths(attempt_id)
            if file_blake3(kept) != outcome.kept_blake3:  # from before a crash, of the same upload: must be the same
                raise MusterError(f"attempt {attempt_id}: other accepted files are there already") from None

    def _child(self) -> IntakeProcess:
        try:
            return self._idle.get(timeout=PATIENCE_S if self._all else 0.001)
        except queue.Empty:
            return self._new_child()

    def _new_child(self) -> IntakeProcess:
        if self._closing:
            raise PoolError("intake is closing")
        child = IntakeProcess()
        self._all.add(child)
        return child

    def _end_child(self, child: IntakeProcess) -> None:
        self._all.discard(child)
        child.close()
