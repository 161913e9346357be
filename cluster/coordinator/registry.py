"""The services' side of the registry: who may work, and what became of each attempt.

Used by the gateway (redeem, uploaded, failed), intake (validated, refused) and the scheduler (refused volunteers).
It decides nothing about trust: it records what happened and appends it to ``events``, where the dispatcher reads it.

Invariants: an attempt's state only moves along ``ATTEMPT_STATES``; each move is one transaction with one event; there
is one attempt for (job, unit, issue, volunteer), so that redeeming a ticket again renews and never repeats.
"""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert, select, update

from muster.cluster.coordinator.identity import check_contributor, check_name
from muster.cluster.coordinator.tables import Database, attempts, contributors, events, jobs, units, volunteers
from muster.errors import printable

# state → states that may follow it
ATTEMPT_STATES: dict[str, frozenset[str]] = {
    "started": frozenset({"uploaded", "failed"}),
    "uploaded": frozenset({"validated", "refused"}),
    "validated": frozenset(),
    "refused": frozenset(),
    "failed": frozenset(),
}


class SettledError(Exception):
    """The unit needs no work any more, or the volunteer may not do any; ``str`` says which."""


@dataclass(frozen=True, slots=True)
class Redeemed:
    """What a redeemed ticket stands for."""

    attempt_id: str
    job_id: str
    unit_id: str
    volunteer: str
    contributor: str
    recipe: str
    schema: str
    chunk: str
    max_nbytes: int


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """One attempt as the gateway and intake need it; ``chunk`` is the ChunkRef as JSON."""

    attempt_id: str
    job_id: str
    unit_id: str
    volunteer: str
    contributor: str
    state: str
    recipe: str
    schema: str
    chunk: str
    max_nbytes: int
    upload_blake3: str | None


class Registry:
    """The services' view of one pool's registry."""

    def __init__(self, pool_dir: str | Path) -> None:
        self.db = Database(pool_dir)

    # -- volunteers ------------------------------------------------------------------------------------------------

    def enrol(self, volunteer: str, contributor: str) -> None:
        """Record a volunteer machine and its owner; doing it again changes nothing. ConfigError for unusable names."""
        check_name(volunteer)
        check_contributor(contributor)
        now_s = time.time()
        with self.db.write() as c:
            if c.scalar(select(contributors.c.name).where(contributors.c.name == contributor)) is None:
                c.execute(insert(contributors).values(name=contributor, enrolled_s=now_s))
            if c.scalar(select(volunteers.c.name).where(volunteers.c.name == volunteer)) is None:
                c.execute(insert(volunteers).values(name=volunteer, contributor=contributor, enrolled_s=now_s))

    def refused_volunteers(self) -> dict[str, str]:
        """Return the volunteers that may not work, each with the reason."""
        query = (
            select(volunteers.c.name, volunteers.c.revoked_s, contributors.c.reason)
            .join(contributors, contributors.c.name == volunteers.c.contributor)
            .where((contributors.c.quarantined_s.is_not(None)) | (volunteers.c.revoked_s.is_not(None)))
        )
        with self.db.read() as c:
            return {r.name: "revoked" if r.revoked_s else f"quarantined: {r.reason}" for r in c.execute(query)}

    # -- the gateway -----------------------------------------------------------------------------------------------

    def redeem(self, job_id: str, unit_id: str, issue: int, volunteer: str) -> Redeemed:
        """Begin (or renew) the attempt of ``volunteer`` at this issue of the unit; raises SettledError."""
        with self.db.write() as c:
            contributor = _eligible_contributor(c, volunteer)
            unit = c.execute(
                select(units, jobs.c.recipe, jobs.c.schema)
                .join(jobs, jobs.c.job_id == units.c.job_id)
                .where(units.c.job_id == job_id, units.c.unit_id == unit_id)
            ).one_or_none()
            if unit is None or unit.state != "open" or unit.issue != issue:
                raise SettledError("the unit is settled")
            attempt_id = c.scalar(
                select(attempts.c.attempt_id).where(
                    attempts.c.job_id == job_id,
                    attempts.c.unit_id == unit_id,
                    attempts.c.issue == issue,
                    attempts.c.volunteer == volunteer,
                )
            )
            if attempt_id is None:
                attempt_id = begin_attempt(c, job_id, unit_id, issue, volunteer, contributor)
            elif c.scalar(select(attempts.c.state).where(attempts.c.attempt_id == attempt_id)) != "started":
                raise SettledError("this attempt has ended")
            return Redeemed(
                attempt_id,
                job_id,
                unit_id,
                volunteer,
                contributor,
                unit.recipe,
                unit.schema,
                unit.chunk,
                unit.max_nbytes,
            )

    def attempt(self, attempt_id: str) -> AttemptRow | None:
        """Return one attempt with its unit's chunk and job's recipe, or None."""
        with self.db.read() as c:
            row = c.execute(_ATTEMPT.where(attempts.c.attempt_id == attempt_id)).one_or_none()
        return None if row is None else AttemptRow(**row._mapping)

    def job_source(self, job_id: str) -> tuple[str, dict[str, str]]:
        """Return the job's source as JSON (``Source.from_json`` reads it) and the options of its file system."""
        with self.db.read() as c:
            row = c.execute(select(jobs.c.source, jobs.c.spec).where(jobs.c.job_id == job_id)).one()
        return str(row.source), dict(json.loads(row.spec).get("storage_options", {}))

    def attempt_uploaded(self, attempt_id: str, nbytes: int, blake3_hex: str) -> bool:
        """Record a whole upload; False if the attempt was not waiting for one."""
        return self._move(attempt_id, "uploaded", upload_nbytes=nbytes, upload_blake3=blake3_hex)

    def attempt_failed(self, attempt_id: str, kind: str, text: str) -> bool:
        """Record that the volunteer gave up; False if the attempt had ended already."""
        return self._move(attempt_id, "failed", outcome=_finding(kind, text))

    # -- intake ----------------------------------------------------------------------------------------------------

    def attempts_to_intake(self, limit: int = 64) -> list[AttemptRow]:
        """Return uploaded attempts in the order of their upload."""
        with self.db.read() as c:
            rows = c.execute(_ATTEMPT.where(attempts.c.state == "uploaded").order_by(attempts.c.ended_s).limit(limit))
            return [AttemptRow(**row._mapping) for row in rows]

    def attempt_validated(self, attempt_id: str, outcome: dict[str, Any]) -> bool:
        """Record that intake took the result: ``outcome`` is AcceptedInfo as a dict (digest, kept, rejected, …)."""
        return self._move(attempt_id, "validated", outcome=json.dumps(outcome))

    def attempt_refused(self, attempt_id: str, kind: str, text: str) -> bool:
        """Record that intake refused the upload: evidence against the volunteer."""
        return self._move(attempt_id, "refused", outcome=_finding(kind, text))

    def _move(self, attempt_id: str, state: str, **values: Any) -> bool:
        allowed = [s for s, following in ATTEMPT_STATES.items() if state in following]
        with self.db.write() as c:
            row = c.execute(
                select(attempts.c.job_id, attempts.c.unit_id, attempts.c.state).where(
                    attempts.c.attempt_id == attempt_id
                )
            ).one_or_none()
            if row is None or row.state not in allowed:
                return False
            c.execute(
                update(attempts)
                .where(attempts.c.attempt_id == attempt_id)
                .values(state=state, ended_s=time.time(), **values)
            )
            append_event(c, row.job_id, row.unit_id, attempt_id, state)
            return True

    def close(self) -> None:
        """Close the database."""
        self.db.close()


def begin_attempt(c: Connection, job_id: str, unit_id: str, issue: int, volunteer: str, contributor: str) -> str:
    """Insert a started attempt inside the caller's transaction and return its new id."""
    attempt_id = secrets.token_hex(16)
    c.execute(
        insert(attempts).values(
            attempt_id=attempt_id,
            job_id=job_id,
            unit_id=unit_id,
            issue=issue,
            volunteer=volunteer,
            contributor=contributor,
            state="started",
            started_s=time.time(),
        )
    )
    append_event(c, job_id, unit_id, attempt_id, "started")
    return attempt_id


def append_event(c: Connection, job_id: str, unit_id: str, attempt_id: str, kind: str) -> None:
    """Append one event inside the caller's transaction."""
    c.execute(insert(events).values(job_id=job_id, unit_id=unit_id, attempt_id=attempt_id, kind=kind, at_s=time.time()))


_ATTEMPT = (
    select(
        attempts.c.attempt_id,
        attempts.c.job_id,
        attempts.c.unit_id,
        attempts.c.volunteer,
        attempts.c.contributor,
        attempts.c.state,
        attempts.c.upload_blake3,
        jobs.c.recipe,
        jobs.c.schema,
        units.c.chunk,
        units.c.max_nbytes,
    )
    .join(units, (units.c.job_id == attempts.c.job_id) & (units.c.unit_id == attempts.c.unit_id))
    .join(jobs, jobs.c.job_id == attempts.c.job_id)
)


def _eligible_contributor(c: Connection, volunteer: str) -> str:
    row = c.execute(
        select(volunteers.c.contributor, volunteers.c.revoked_s, contributors.c.quarantined_s)
        .join(contributors, contributors.c.name == volunteers.c.contributor)
        .where(volunteers.c.name == volunteer)
    ).one_or_none()
    if row is None:
        raise SettledError("this volunteer is not enrolled here")
    if row.revoked_s is not None or row.quarantined_s is not None:
        raise SettledError("this volunteer may not take work now")
    return str(row.contributor)


def _finding(kind: str, text: str) -> str:
    return json.dumps({"kind": kind[:40], "text": printable(text, 2000)})
