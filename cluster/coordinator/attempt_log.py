"""What the registry knows of a job's attempts: events in order, who did what, what intake recorded.

The flow's side; the services' side, which moves attempts from state to state, is ``registry``. Home attempts (trusted
compute) are begun and ended here, without events: the caller knows. Decides nothing.
"""

from __future__ import annotations

import time

from sqlalchemy import func, select, update

from muster.cluster.coordinator.registry import begin_attempt
from muster.cluster.coordinator.rows import HOME, EventRow
from muster.cluster.coordinator.tables import Database, attempts, events, units


class AttemptLog:
    """A job's attempts; one for each open registry."""

    def __init__(self, db: Database) -> None:
        self.db = db

    def counts(self, job_id: str) -> dict[tuple[str, str], int]:
        """Return the number of the job's attempts by (volunteer, state)."""
        a = attempts.c
        query = select(a.volunteer, a.state, func.count()).where(a.job_id == job_id).group_by(a.volunteer, a.state)
        with self.db.read() as c:
            return {(str(v), str(s)): int(n) for v, s, n in c.execute(query)}

    def events_after(self, job_id: str, seq: int, limit: int = 500) -> list[EventRow]:
        """Return the job's events after ``seq`` in order."""
        query = (
            select(
                events.c.seq,
                events.c.unit_id,
                events.c.attempt_id,
                events.c.kind,
                events.c.at_s,
                attempts.c.issue,
                attempts.c.volunteer,
                attempts.c.contributor,
                attempts.c.outcome,
            )
            .join(attempts, attempts.c.attempt_id == events.c.attempt_id)
            .where(events.c.job_id == job_id, events.c.seq > seq)
            .order_by(events.c.seq)
            .limit(limit)
        )
        with self.db.read() as c:
            return [EventRow(**row._mapping) for row in c.execute(query)]

    def at(self, job_id: str, unit_id: str, issue: int) -> list[tuple[str, str, str, str]]:
        """Return (attempt id, volunteer, contributor, state) of every attempt at one issue of a unit."""
        a = attempts.c
        here = (a.job_id == job_id) & (a.unit_id == unit_id) & (a.issue == issue)
        with self.db.read() as c:
            query = select(a.attempt_id, a.volunteer, a.contributor, a.state).where(here)
            return [(str(i), str(v), str(o), str(s)) for i, v, o, s in c.execute(query)]

    def by(self, attempt_id: str) -> tuple[str, str]:
        """Return (volunteer, contributor) of an attempt."""
        with self.db.read() as c:
            query = select(attempts.c.volunteer, attempts.c.contributor).where(attempts.c.attempt_id == attempt_id)
            row = c.execute(query).one()
        return str(row.volunteer), str(row.contributor)

    def outcome(self, attempt_id: str) -> str | None:
        """Return what intake recorded about an attempt (JSON), or None."""
        with self.db.read() as c:
            return c.scalar(select(attempts.c.outcome).where(attempts.c.attempt_id == attempt_id))

    def overdue(self, job_id: str, started_before_s: float) -> list[tuple[str, int, str, str, str]]:
        """Return (unit, issue, attempt, volunteer, contributor) of attempts begun long ago and still without an end."""
        a = attempts.c
        late = (a.job_id == job_id) & (a.state == "started") & (a.started_s < started_before_s)
        query = select(a.unit_id, a.issue, a.attempt_id, a.volunteer, a.contributor).where(late, a.volunteer != HOME)
        with self.db.read() as c:
            return [(str(u), int(i), str(n), str(v), str(o)) for u, i, n, v, o in c.execute(query)]

    def begin_home(self, job_id: str, unit_id: str, issue: int) -> str:
        """Record that trusted compute takes the unit; return the attempt's id."""
        with self.db.write() as c:
            existing = c.scalar(
                select(attempts.c.attempt_id).where(
                    attempts.c.job_id == job_id,
                    attempts.c.unit_id == unit_id,
                    attempts.c.issue == issue,
                    attempts.c.volunteer == HOME,
                )
            )
            return str(existing or begin_attempt(c, job_id, unit_id, issue, HOME, HOME))

    def end_home(self, attempt_id: str, state: str, outcome: str) -> None:
        """Record how trusted compute ended (``validated`` or ``failed``); no event: the caller knows."""
        with self.db.write() as c:
            c.execute(
                update(attempts)
                .where(attempts.c.attempt_id == attempt_id)
                .values(state=state, outcome=outcome, ended_s=time.time())
            )

    def abandoned(self, job_id: str, volunteer: str) -> list[tuple[str, str]]:
        """Return (unit, who computed it in the end) for each attempt that ``volunteer`` began and never ended."""
        a, final = attempts.c, attempts.alias("final")
        query = (
            select(a.unit_id, final.c.volunteer)
            .join(units, (units.c.job_id == a.job_id) & (units.c.unit_id == a.unit_id))
            .join(final, final.c.attempt_id == units.c.attempt_id)
            .where(a.job_id == job_id, a.volunteer == volunteer, a.state == "started")
        )
        with self.db.read() as c:
            return [(str(u), str(v)) for u, v in c.execute(query)]
