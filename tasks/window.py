"""The window: the bounded set of units that are at the Dask scheduler now. The window is the queue.

Fills itself from the registry's open units, remembers which issue of a unit is out, and says what became of its keys,
which attempts are overdue and which units nobody takes. It decides nothing and never looks at a result.

Invariants: at most ``size`` units are out; a unit is out under one issue at a time; a released unit's future is gone
from the scheduler; a job's open units are read page by page, never all at once.
"""

from __future__ import annotations

import contextlib
import queue
import time
from collections import deque

from muster.cluster.client import KeyState, NobodyEligibleError
from muster.cluster.unit import make_unit, unit_key
from muster.tasks.run import Run

_TICK_S = 1.0
_PAGE = 256
_NOBODY_GRACE_S = 45.0  # longer than a reconnect after a cut usually takes
_NOBODY_GRACE_DEAD_S = 2.0  # when this process started the volunteers and knows them dead
_HOME_AT_ONCE = 4
_UNREDEEMED_TIMEOUTS = 2.0  # a unit may wait for a free thread as long as another one is computed

Overdue = tuple[str, int, str, str | None, str | None]  # unit, issue, attempt, volunteer, contributor


class Window:
    """The units of one run that are out."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._job = run.job.job_id
        self._out: dict[str, tuple[str, int]] = {}  # unit → (key, issue)
        self._sent_s: dict[str, float] = {}  # key → when it went out
        self._tried_by: dict[str, set[str]] = {}  # unit → volunteers that ended earlier issues without a result
        self._ended: list[KeyState] = []
        self._again: deque[tuple[str, int]] = deque()
        self._cursor = -1
        self._exhausted = False
        self._page: deque[tuple[str, int]] = deque()
        self._reported_overdue: set[str] = set()
        self._next_tick_s = 0.0
        self._alone_since_s: float | None = None
        self._size = 4

    def fill(self) -> None:
        """Submit open units until the window is full."""
        while len(self._out) < self._size:
            following = self._next()
            if following is None:
                return
            unit, issue = following
            row = self._run.store.unit(self._job, unit)
            if unit in self._out or (row.state, row.issue) != ("open", issue):
                continue  # settled or reissued since it was queued
            key = unit_key(self._job, unit, issue)
            self._submit(unit, issue, key)
            self._out[unit] = (key, issue)
            self._sent_s[key] = time.monotonic()

    def _submit(self, unit: str, issue: int, key: str) -> None:
        """Let others try first: who fails at once is idle at once, and would be given every unit again and again."""
        client, message = self._run.pool.client, make_unit(self._job, unit, issue)
        try:
            client.submit(message, key, exclude=self._tried_by.get(unit))
        except NobodyEligibleError:
            del self._tried_by[unit]
            client.submit(message, key)

    def _next(self) -> tuple[str, int] | None:
        if self._again:
            return self._again.popleft()
        if not self._page and not self._exhausted:
            rows = self._run.store.units_in(self._job, "open", limit=_PAGE, after=self._cursor)
            self._exhausted = len(rows) < _PAGE
            self._cursor = rows[-1].chunk_index if rows else self._cursor
            self._page.extend((row.unit_id, row.issue) for row in rows)
        return self._page.popleft() if self._page else None

    def issue(self, unit: str, issue: int) -> None:
        """Put a unit back under a new issue; the old issue's future is released."""
        tried_by = self._tried_by.get(unit, set())
        if unit in self._out:
            key, before = self._out[unit]
            tried_by |= {volunteer for _, volunteer, *_ in self._run.store.attempts.at(self._job, unit, before)}
            tried_by |= self._run.pool.client.enders(key)
        self.release(unit)
        self._tried_by[unit] = tried_by
        self._again.append((unit, issue))

    def release(self, unit: str) -> None:
        """Forget a unit that needs no volunteer now."""
        self._tried_by.pop(unit, None)
        out = self._out.pop(unit, None)
        if out is not None:
            self._sent_s.pop(out[0], None)
            self._run.pool.client.release(out[0])

    def close_key(self, unit: str, issue: int) -> None:
        """Forget an issue whose key has ended and of which nothing more will come."""
        if self._out.get(unit, ("", 0))[1] == issue:
            self.release(unit)

    def busy(self) -> bool:
        """Whether a unit is out or waits to go out again."""
        return bool(self._out or self._again)

    def wait(self, timeout_s: float) -> None:
        """Wait until a key changes its state, at most ``timeout_s``."""
        with contextlib.suppress(queue.Empty):
            self._ended.append(self._run.pool.client.states.get(timeout=timeout_s))

    def key_states(self) -> list[tuple[str, int, str, str]]:
        """Return (unit, issue, status, error text) of each key that ended since the last call."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._ended.append(self._run.pool.client.states.get_nowait())
        by_key = {key: (unit, issue) for unit, (key, issue) in self._out.items()}
        ended, self._ended = self._ended, []
        known = [state for state in ended if state.key in by_key]
        return [(*by_key[state.key], state.status, state.error_text) for state in known]

    def tick_due(self) -> bool:
        """True about once a second; then the window's size follows the volunteers that are there."""
        now_s = time.monotonic()
        if now_s < self._next_tick_s:
            return False
        self._next_tick_s = now_s + _TICK_S
        threads = sum(v.nthreads for v in self._run.pool.client.volunteers())
        self._size = max(4, threads + threads // 2)
        self._alone_since_s = None if threads else (self._alone_since_s or now_s)
        return True

    def overdue(self) -> list[Overdue]:
        """Return attempts that newly ran over their time, and units that are out for long without any."""
        late = self._run.store.attempts.overdue(self._job, time.time() - self._run.params.unit_timeout_s)
        fresh = [row for row in late if row[2] not in self._reported_overdue]
        self._reported_overdue.update(row[2] for row in fresh)
        return [*fresh, *self._never_begun()]

    def _never_begun(self) -> list[Overdue]:
        """Whoever holds a unit may live and never redeem its ticket: no attempt could run over its time."""
        before_s = time.monotonic() - _UNREDEEMED_TIMEOUTS * self._run.params.unit_timeout_s
        lost = set(self._run.pool.client.stranded())
        out = self._out.items()
        old = [(unit, issue) for unit, (key, issue) in out if self._sent_s[key] < before_s or key in lost]
        unbegun = [one for one in old if not self._run.store.attempts.at(self._job, *one)]
        return [(unit, issue, f"{unit}.{issue}", None, None) for unit, issue in unbegun]

    def units_nobody_takes(self) -> list[str]:
        """Return a few open units if no volunteer has been there for a while."""
        if self._alone_since_s is None:
            return []
        services = self._run.pool.services
        grace_s = _NOBODY_GRACE_DEAD_S if services is not None and not services.volunteers_alive() else _NOBODY_GRACE_S
        if time.monotonic() - self._alone_since_s < grace_s or self._run.referees.n_pending >= _HOME_AT_ONCE:
            return []
        open_units = self._run.store.units_in(self._job, "open", limit=_HOME_AT_ONCE)
        return [row.unit_id for row in open_units]
