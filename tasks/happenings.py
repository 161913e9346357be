"""What happened, in trust's words: registry events, ended keys and referees' checks become ``trust.events``.

A translator: it looks things up and decides nothing.

Invariants: the source is looked at again before anything that could be held against a volunteer is reported; text from
volunteers stays bounded (the registry and the client cut it).
"""

from __future__ import annotations

import json
from typing import Any, cast

from muster.cluster.coordinator.rows import HOME, EventRow
from muster.datasets.chunks import ChunkRef
from muster.errors import JobError, MusterError, SourceError
from muster.tasks import recompute
from muster.tasks.recompute import Check
from muster.tasks.run import Run
from muster.trust import events as ev
from muster.trust.attempts import COUNTS_AGAINST_UNIT
from muster.trust.sampling import in_flight_seed

LOST_UPLOAD = "lost-upload"  # intake's word for an upload that the pool no longer has
_ENDED = frozenset({"uploaded", "validated", "refused", "failed"})


def of_row(run: Run, row: EventRow) -> ev.Event | None:
    """Return the event that a registry row stands for; None if it is of no interest."""
    if row.volunteer == HOME or row.kind == "uploaded":
        return None
    outcome: dict[str, Any] = {} if row.outcome is None else json.loads(row.outcome)
    if row.kind == "started":
        return ev.AttemptStarted(row.unit_id, row.issue, row.attempt_id, row.volunteer, row.contributor)
    if row.kind == "validated":
        return _validated(run, row, outcome)
    if row.kind == "refused" and outcome["kind"] != LOST_UPLOAD:
        return ev.ResultRefused(
            row.unit_id,
            row.issue,
            row.attempt_id,
            row.volunteer,
            row.contributor,
            kind=str(outcome["kind"]),
            text=str(outcome["text"]),
            source_unchanged=_source_unchanged(run, row.unit_id),
        )
    kind, text = str(outcome.get("kind")), str(outcome.get("text", ""))
    kind = "lost" if kind == LOST_UPLOAD else kind  # the pool's fault, not the volunteer's
    if kind == "source":
        ref = ChunkRef.from_json(run.store.unit(run.job.job_id, row.unit_id).chunk)
        run.source.check_unchanged(ref.file)  # a source that changed ends the job at once
    return failed(row.unit_id, row.issue, row.attempt_id, row.volunteer, row.contributor, kind, text)


def _validated(run: Run, row: EventRow, outcome: dict[str, Any]) -> ev.Event:
    digest = str(outcome["digest"])
    return ev.ResultValidated(
        row.unit_id,
        row.issue,
        row.attempt_id,
        row.volunteer,
        row.contributor,
        digest=digest,
        n_rows=int(outcome["kept"]) + int(outcome["rejected"]),
        seed=in_flight_seed(run.job.inflight_key, digest),
    )


def rejected_rows(row: EventRow) -> int:
    """Return how many rows a validated result rejects."""
    return int(json.loads(row.outcome).get("rejected", 0)) if row.kind == "validated" and row.outcome else 0


def failed(
    unit: str, issue: int, attempt: str, volunteer: str | None, contributor: str | None, kind: str, text: str
) -> ev.AttemptFailed:
    """Return the event of an attempt that ended without an upload; an unknown kind counts as a transfer."""
    known = cast("ev.FailureKind", kind if kind in COUNTS_AGAINST_UNIT else "transfer")
    return ev.AttemptFailed(unit, issue, attempt, volunteer, contributor, known, text)


def of_key(run: Run, unit: str, issue: int, status: str, text: str) -> list[ev.Event]:
    """Return what an ended Dask key says. It proves nothing: only attempts that have not ended otherwise are news."""
    tried = run.store.attempts.at(run.job.job_id, unit, issue)
    if any(state in _ENDED for *_, state in tried):
        return []
    if status == "finished":
        kind, text = "no-upload", "reported finished without an upload"
    else:
        kind = "settled" if "settled" in text else "transfer"
    if not tried:  # nobody redeemed the ticket
        return [failed(unit, issue, f"{unit}.{issue}", None, None, kind, text)]
    return [failed(unit, issue, attempt, who, contributor, kind, text) for attempt, who, contributor, _ in tried]


def of_check(run: Run, unit: str, attempt: str, round_number: int | None, check: Check) -> ev.AuditReported:
    """Return the event of a referee's check."""
    difference, bad = check.difference, None
    if difference is not None:
        bad = ev.BadRow(difference.position, f"{difference.column} = {difference.expected}", difference.found)
    contributor = run.store.attempts.by(attempt)[1]
    return ev.AuditReported(unit, attempt, contributor, round_number, check.n_rows, bad, check.source_unchanged)


def job_failure(run: Run, text: str) -> MusterError:
    """Return the error that ends the job: that the source changed, if it did, since all else follows from that."""
    try:
        for file in run.source.files:
            run.source.check_unchanged(file.index)
    except SourceError as error:
        return error
    return JobError(text)


def _source_unchanged(run: Run, unit: str) -> bool:
    ref = ChunkRef.from_json(run.store.unit(run.job.job_id, unit).chunk)
    return recompute.source_unchanged(run.work, ref)
