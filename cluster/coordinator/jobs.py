"""The flow's side of the registry: jobs and their lease, units, events, audit rounds, contributors, ledger leaves.

Used by ``tasks`` on the trusted side. It stores what trust decided (records are opaque JSON here) and decides nothing.

Invariants: a unit is accepted by compare-and-set, once; keys and drawn rounds are written before they are used, so that
no restart can redraw; what one event changes (records, ledger leaves, the event's sequence number) is one transaction.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from sqlalchemy import func, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from muster.cluster.coordinator.attempt_log import AttemptLog
from muster.cluster.coordinator.rows import AcceptedRow, JobRow, NewUnit, RoundRow, UnitRow
from muster.cluster.coordinator.step import Step
from muster.cluster.coordinator.tables import (
    Database,
    attempts,
    contributors,
    jobs,
    ledger,
    rounds,
    standing,
    units,
)

JOB_STATES = ("planning", "open", "committed", "certified", "published", "failed")
STANDING = ("accepted", "trusted")  # unit states in which a result stands
_PAGE = 1000


class JobStore:
    """The flow's view of one pool's registry."""

    def __init__(self, pool_dir: str | Path) -> None:
        self.db = Database(pool_dir)
        self.attempts = AttemptLog(self.db)

    # -- jobs ------------------------------------------------------------------------------------------------------

    def open_job(self, job_id: str, *, spec: str, source: str, recipe: str, schema: str) -> JobRow:
        """Return the job, made in state ``planning`` with fresh keys if it is new.

        ``source`` replaces the stored one: the id binds its content, but not when its files were last written, and it
        is by that that the gateway tells whether they are still the planned ones.
        """
        with self.db.write() as c:
            c.execute(
                upsert(jobs)
                .values(
                    job_id=job_id,
                    spec=spec,
                    source=source,
                    recipe=recipe,
                    schema=schema,
                    state="planning",
                    created_s=time.time(),
                    inflight_key=secrets.token_bytes(32),
                    final_key=secrets.token_bytes(32),
                    events_seq=0,
                )
                .on_conflict_do_update(index_elements=["job_id"], set_={"source": source})
            )
        return self.job(job_id)

    def job(self, job_id: str) -> JobRow:
        """Return the job; KeyError if there is none."""
        with self.db.read() as c:
            row = c.execute(select(*[jobs.c[f] for f in JobRow.__slots__]).where(jobs.c.job_id == job_id)).one_or_none()
        if row is None:
            raise KeyError(job_id)
        return JobRow(**row._mapping)

    def set_job(self, job_id: str, state: str, *, n_rows: int | None = None, error: str | None = None) -> None:
        """Move the job to ``state``."""
        if state not in JOB_STATES:
            raise ValueError(f"unknown job state {state!r}")
        values: dict[str, object] = {"state": state, "error": error}
        if n_rows is not None:
            values["n_rows"] = n_rows
        with self.db.write() as c:
            c.execute(update(jobs).where(jobs.c.job_id == job_id).values(**values))

    def take_lease(self, job_id: str, owner: str, ttl_s: float, gone: str | None = None) -> str | None:
        """Take or renew the job's lease; return None on success, else the present owner's name.

        ``gone`` names an owner known to be dead, so that a killed flow's lease needs no wait.
        """
        now_s = time.time()
        with self.db.write() as c:
            row = c.execute(select(jobs.c.owner, jobs.c.lease_until_s).where(jobs.c.job_id == job_id)).one()
            held = row.owner and row.owner != owner and (row.lease_until_s or 0) > now_s
            if held and row.owner != gone:
                return str(row.owner)
            c.execute(update(jobs).where(jobs.c.job_id == job_id).values(owner=owner, lease_until_s=now_s + ttl_s))
        return None

    def lease_owner(self, job_id: str) -> str | None:
        """Return who holds the job's lease, expired or not."""
        with self.db.read() as c:
            return c.scalar(select(jobs.c.owner).where(jobs.c.job_id == job_id))

    def drop_lease(self, job_id: str, owner: str) -> None:
        """Give the lease back if ``owner`` holds it."""
        with self.db.write() as c:
            mine = (jobs.c.job_id == job_id) & (jobs.c.owner == owner)
            c.execute(update(jobs).where(mine).values(owner=None, lease_until_s=None))

    # -- units -----------------------------------------------------------------------------------------------------

    def add_units(self, job_id: str, planned: Iterable[NewUnit]) -> int:
        """Insert units in state ``open`` in batches; those already there stay; return how many were given."""
        count = 0
        batch: list[dict[str, object]] = []
        for unit in planned:
            batch.append({"job_id": job_id, "state": "open", "issue": 1, "record": ""} | _fields(unit))
            count += 1
            if len(batch) >= _PAGE:
                self._insert_units(batch)
                batch = []
        if batch:
            self._insert_units(batch)
        return count

    def _insert_units(self, batch: list[dict[str, object]]) -> None:
        with self.db.write() as c:
            c.execute(upsert(units).on_conflict_do_nothing(), batch)

    def reopen_failed(self, job_id: str) -> None:
        """Give a failed job another try: its failed units are open again, without a memory of failures."""
        with self.db.write() as c:
            failed = (units.c.job_id == job_id) & (units.c.state == "failed")
            c.execute(update(units).where(failed).values(state="open", record="", issue=units.c.issue + 1))
            c.execute(update(jobs).where(jobs.c.job_id == job_id).values(state="open", error=None))

    def unit(self, job_id: str, unit_id: str) -> UnitRow:
        """Return one unit."""
        with self.db.read() as c:
            row = c.execute(_UNIT.where(units.c.job_id == job_id, units.c.unit_id == unit_id)).one()
        return UnitRow(**row._mapping)

    def units_in(self, job_id: str, state: str, limit: int, after: int = -1) -> list[UnitRow]:
        """Return up to ``limit`` units in a state, by chunk index, from the one after ``after``."""
        here = (units.c.job_id == job_id) & (units.c.state == state) & (units.c.chunk_index > after)
        query = _UNIT.where(here).order_by(units.c.chunk_index).limit(limit)
        with self.db.read() as c:
            return [UnitRow(**row._mapping) for row in c.execute(query)]

    def count_units(self, job_id: str) -> dict[str, int]:
        """Return the number of units by state."""
        query = select(units.c.state, func.count()).where(units.c.job_id == job_id).group_by(units.c.state)
        with self.db.read() as c:
            return {str(state): int(n) for state, n in c.execute(query)}

    def accepted(self, job_id: str) -> Iterator[AcceptedRow]:
        """Yield the accepted units in chunk order, a page at a time."""
        query = (
            select(
                units.c.unit_id,
                units.c.chunk_index,
                units.c.chunk,
                units.c.n_rows,
                attempts.c.attempt_id,
                attempts.c.volunteer,
                attempts.c.contributor,
                attempts.c.outcome,
            )
            .join(attempts, attempts.c.attempt_id == units.c.attempt_id)
            .where(units.c.job_id == job_id, units.c.state.in_(STANDING))
            .order_by(units.c.chunk_index)
            .limit(_PAGE)
        )
        last = -1
        while True:
            with self.db.read() as c:
                page = [AcceptedRow(**row._mapping) for row in c.execute(query.where(units.c.chunk_index > last))]
            yield from page
            if len(page) < _PAGE:
                return
            last = page[-1].chunk_index

    def accepted_by(self, job_id: str, contributor: str) -> list[str]:
        """Return the ids of the units whose accepted result came from ``contributor``."""
        query = (
            select(units.c.unit_id)
            .join(attempts, attempts.c.attempt_id == units.c.attempt_id)
            .where(units.c.job_id == job_id, units.c.state.in_(STANDING), attempts.c.contributor == contributor)
        )
        with self.db.read() as c:
            return [str(u) for u in c.scalars(query)]

    # -- one step of trust -----------------------------------------------------------------------------------------

    def step(self) -> Step:
        """Return a transaction in which one event's changes are written together (a context manager)."""
        return Step(self.db)

    def standings(self, job_id: str) -> dict[str, str]:
        """Return what the job knows of each contributor: name → record (trust's, as JSON)."""
        with self.db.read() as c:
            query = select(standing.c.contributor, standing.c.record).where(standing.c.job_id == job_id)
            return {str(name): str(record) for name, record in c.execute(query)}

    def quarantined(self) -> dict[str, str]:
        """Return the pool's quarantined contributors with the reason."""
        query = select(contributors.c.name, contributors.c.reason).where(contributors.c.quarantined_s.is_not(None))
        with self.db.read() as c:
            return {str(name): str(reason) for name, reason in c.execute(query)}

    # -- audit rounds and the ledger -------------------------------------------------------------------------------

    def rounds(self, job_id: str) -> list[RoundRow]:
        """Return the job's audit rounds in order."""
        query = select(*[rounds.c[f] for f in RoundRow.__slots__]).where(rounds.c.job_id == job_id)
        with self.db.read() as c:
            return [RoundRow(**row._mapping) for row in c.execute(query.order_by(rounds.c.round))]

    def ledger_leaves(self, job_id: str | None = None) -> list[bytes]:
        """Return the ledger's leaves in order, of one job or all."""
        query = select(ledger.c.leaf).order_by(ledger.c.seq)
        if job_id is not None:
            query = query.where(ledger.c.job_id == job_id)
        with self.db.read() as c:
            return [bytes(leaf) for leaf in c.scalars(query)]

    def close(self) -> None:
        """Close the database."""
        self.db.close()


_UNIT = select(*[units.c[f] for f in UnitRow.__slots__])


def _fields(unit: NewUnit) -> dict[str, object]:
    return {f: getattr(unit, f) for f in NewUnit.__slots__}
