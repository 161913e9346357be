"""One transaction of the flow: everything that one event or one audit round changes, written together or not at all.

It stores what ``trust`` decided and decides nothing. Invariants: a unit is accepted by compare-and-set, once; a
quarantine is never lifted here; ledger leaves are only appended.
"""

from __future__ import annotations

import time
from typing import Self

from sqlalchemy import Connection, insert, update
from sqlalchemy.dialects.sqlite import insert as upsert

from muster.cluster.coordinator.tables import Database, contributors, jobs, ledger, rounds, standing, units


class Step:
    """A write transaction with the flow's few verbs; use as a context manager."""

    def __init__(self, db: Database) -> None:
        self._scope = db.write()
        self._c: Connection

    def __enter__(self) -> Self:
        self._c = self._scope.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._scope.__exit__(*error)  # type: ignore[arg-type]

    def save_unit(self, job_id: str, unit_id: str, *, state: str, issue: int, record: str) -> None:
        """Write a unit that is not being accepted; its accepted attempt, if any, no longer stands."""
        self._c.execute(
            update(units)
            .where(units.c.job_id == job_id, units.c.unit_id == unit_id)
            .values(state=state, issue=issue, record=record, attempt_id=None)
        )

    def accept_unit(self, job_id: str, unit_id: str, *, state: str, attempt_id: str, record: str) -> bool:
        """Let an attempt's result stand for the unit (``accepted`` or ``trusted``) if none does; False if one does."""
        free = units.c.state.not_in(("accepted", "trusted"))
        done = self._c.execute(
            update(units)
            .where(units.c.job_id == job_id, units.c.unit_id == unit_id, free)
            .values(state=state, attempt_id=attempt_id, record=record)
        )
        return done.rowcount == 1

    def touch_unit(self, job_id: str, unit_id: str, *, record: str) -> None:
        """Write a unit's record without changing its state."""
        where = (units.c.job_id == job_id) & (units.c.unit_id == unit_id)
        self._c.execute(update(units).where(where).values(record=record))

    def save_standing(self, job_id: str, contributor: str, record: str) -> None:
        """Write what the job knows of a contributor."""
        self._c.execute(
            upsert(standing)
            .values(job_id=job_id, contributor=contributor, record=record)
            .on_conflict_do_update(index_elements=["job_id", "contributor"], set_={"record": record})
        )

    def quarantine(self, contributor: str, reason: str) -> None:
        """Shut a contributor out of the pool; nothing here lifts a quarantine."""
        fresh = (contributors.c.name == contributor) & contributors.c.quarantined_s.is_(None)
        self._c.execute(update(contributors).where(fresh).values(quarantined_s=time.time(), reason=reason[:500]))

    def save_round(self, job_id: str, number: int, *, root: str, state: str, outcome: str | None) -> None:
        """Write a round as drawn, or the outcome of one."""
        values = {"root": root, "state": state, "outcome": outcome}
        self._c.execute(
            upsert(rounds)
            .values(job_id=job_id, round=number, drawn_s=time.time(), **values)
            .on_conflict_do_update(index_elements=["job_id", "round"], set_=values)
        )

    def append_leaf(self, job_id: str, leaf: bytes) -> None:
        """Append a leaf to the ledger."""
        self._c.execute(insert(ledger).values(job_id=job_id, leaf=leaf))

    def close_job(self, job_id: str) -> bool:
        """Move the job to ``published``; False if it is there already."""
        unclosed = (jobs.c.job_id == job_id) & (jobs.c.state != "published")
        return self._c.execute(update(jobs).where(unclosed).values(state="published", error=None)).rowcount == 1

    def mark_seen(self, job_id: str, seq: int) -> None:
        """Remember that the dispatcher has dealt with the job's events up to ``seq``."""
        self._c.execute(update(jobs).where(jobs.c.job_id == job_id).values(events_seq=seq))
