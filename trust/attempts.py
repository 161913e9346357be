"""Attempts that started, failed or were refused, and what referees made of units that volunteers could not do.

Handlers of ``decide``: each maps (unit, contributor, event, policy) to a ``Step``. They say nothing about results that
passed intake (``results``).

Invariants: an attempt counts once, however often it is reported; a unit is reissued only for its current issue; a
structural fault is held against a contributor only while the source is known to be unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from muster.trust.events import (
    MAX_TEXT,
    AcceptResult,
    AttemptFailed,
    AttemptStarted,
    ComputeAtHome,
    DiscardContributor,
    FailJob,
    HomeRequested,
    Instruction,
    IssueUnit,
    RecordVerdict,
    RefereeComputed,
    RefereeFailed,
    ResultRefused,
)
from muster.trust.policy import Policy
from muster.trust.records import ContributorRecord, UnitRecord, UnitState


@dataclass(frozen=True, slots=True)
class Step:
    """What a handler made of an event: the records after it and the instructions, in order."""

    unit: UnitRecord
    who: ContributorRecord | None
    instructions: tuple[Instruction, ...] = ()


# Failures that count towards "three times on different volunteers". The others say more about links, churn and
# quarantine than about the unit; ``max_tries`` bounds those.
COUNTS_AGAINST_UNIT = {
    "kernel": True,
    "source": True,
    "input": True,
    "no-upload": True,
    "transfer": False,
    "lost": False,
    "settled": False,
}


def started(unit: UnitRecord, who: ContributorRecord, event: AttemptStarted, policy: Policy) -> Step:  # noqa: ARG001
    """Count the attempt."""
    return Step(unit, replace(who, attempts=who.attempts + 1))


def failed(unit: UnitRecord, who: ContributorRecord | None, event: AttemptFailed, policy: Policy) -> Step:
    """An attempt on an open unit ended without an upload: reissue, or go home after too many."""
    is_current = event.issue_over and event.issue == unit.issue
    if event.attempt in unit.failed_attempts:
        return Step(unit, who) if not is_current else _step(reissue(unit), who)
    who = replace(who, failures=who.failures + 1) if who is not None else None
    verdict = RecordVerdict(
        "attempt-failed",
        {"unit": unit.unit_id, "attempt": event.attempt, "volunteer": event.volunteer, "failure": event.kind},
    )
    blamed = event.volunteer if COUNTS_AGAINST_UNIT[event.kind] else None
    unit, after = _after_failure(unit, event.attempt, blamed, is_current, policy)
    return Step(unit, who, (verdict, *after))


def failed_late(unit: UnitRecord, who: ContributorRecord | None, event: AttemptFailed, policy: Policy) -> Step:  # noqa: ARG001
    """An attempt failed on a unit that no longer needs it: only its contributor's count remembers."""
    return Step(unit, replace(who, failures=who.failures + 1) if who is not None else None)


def refused(unit: UnitRecord, who: ContributorRecord, event: ResultRefused, policy: Policy) -> Step:
    """Intake refused an upload for an open unit: a fault of the contributor and a failure of the attempt."""
    step = refused_late(unit, who, event, policy)
    if step.unit.state is UnitState.FAILED:
        return step
    is_current = event.issue == unit.issue
    if event.attempt in unit.failed_attempts:
        unit, after = reissue(step.unit) if is_current else (step.unit, ())
    else:
        unit, after = _after_failure(step.unit, event.attempt, event.volunteer, is_current, policy)
    return Step(unit, step.who, (*step.instructions, *after))


def refused_late(unit: UnitRecord, who: ContributorRecord, event: ResultRefused, policy: Policy) -> Step:
    """Intake refused an upload: hold it against the contributor, if the source is what it was at planning."""
    if event.attempt in unit.refused_attempts:
        return Step(unit, who)
    if not event.source_unchanged:
        return source_changed(unit, who)
    unit = replace(unit, refused_attempts=(*unit.refused_attempts, event.attempt))
    who = replace(who, faults=who.faults + 1)
    verdict = RecordVerdict(
        "refused",
        {"unit": unit.unit_id, "attempt": event.attempt, "contributor": who.name, "fault": event.kind[:MAX_TEXT]},
    )
    if who.faults < policy.max_faults:
        return Step(unit, who, (verdict,))
    who, discard = quarantine(who, f"{who.faults} refused uploads, the last {event.kind}: {event.text}")
    return Step(unit, who, (verdict, *discard))


def home_requested(unit: UnitRecord, who: ContributorRecord | None, event: HomeRequested, policy: Policy) -> Step:  # noqa: ARG001
    """Compute the unit at home whatever stands there now (ladder, or nobody else can)."""
    verdict = RecordVerdict("sent-home", {"unit": unit.unit_id, "reason": event.reason[:MAX_TEXT]})
    unit, after = send_home(unit)
    return Step(unit, who, (verdict, *after))


def home_computed(unit: UnitRecord, who: ContributorRecord | None, event: RefereeComputed, policy: Policy) -> Step:  # noqa: ARG001
    """A referee's result settles the unit."""
    unit = replace(unit, state=UnitState.TRUSTED, attempt=event.attempt, digest=event.digest)
    verdict = RecordVerdict("computed-at-home", {"unit": unit.unit_id, "digest": event.digest})
    return Step(unit, who, (verdict, AcceptResult(unit.unit_id, event.attempt, None, event.digest)))


def home_failed(unit: UnitRecord, who: ContributorRecord | None, event: RefereeFailed, policy: Policy) -> Step:  # noqa: ARG001
    """It fails at home too: the data or the kernel is at fault, and the job can't be finished."""
    failures = f", after {len(unit.failures_by)} volunteers had failed on it" if unit.failures_by else ""
    text = f"{unit.place}: the recipe failed on trusted compute too{failures}: {event.text[: 4 * MAX_TEXT]}"
    return fail_job(unit, who, "unit-failed", text)


def source_changed(unit: UnitRecord, who: ContributorRecord | None) -> Step:
    """A mismatch that a changed source may explain is nobody's fault but the source's owner's."""
    text = f"{unit.place}: the source changed while the job ran; plan the job again from the new files"
    return fail_job(unit, who, "source-changed", text)


def fail_job(unit: UnitRecord, who: ContributorRecord | None, kind: str, text: str) -> Step:
    """End the unit and the job."""
    verdict = RecordVerdict(kind, {"unit": unit.unit_id})
    return Step(replace(unit, state=UnitState.FAILED, audits_pending=()), who, (verdict, FailJob(text)))


def quarantine(who: ContributorRecord, reason: str) -> tuple[ContributorRecord, tuple[Instruction, ...]]:
    """Cut the contributor off, once; the discard covers everything that stands by them, also in other units."""
    if who.quarantined:
        return who, ()
    reason = reason[: 2 * MAX_TEXT]
    who = replace(who, quarantined=True, reason=reason)
    return who, (RecordVerdict("quarantined", {"contributor": who.name}), DiscardContributor(who.name, reason))


def reopen(unit: UnitRecord) -> tuple[UnitRecord, tuple[Instruction, ...]]:
    """Forget the standing result and issue the unit afresh."""
    unit = replace(
        unit,
        state=UnitState.OPEN,
        issue=unit.issue + 1,
        failures_by=(),
        failed_attempts=(),
        attempt=None,
        volunteer=None,
        contributor=None,
        digest=None,
        audit_rows=0,
        audits_pending=(),
        rows_audited=0,
        round_passed=0,
    )
    return unit, (IssueUnit(unit.unit_id, unit.issue),)


def reissue(unit: UnitRecord) -> tuple[UnitRecord, tuple[Instruction, ...]]:
    """Send an open unit out once more."""
    unit = replace(unit, issue=unit.issue + 1)
    return unit, (IssueUnit(unit.unit_id, unit.issue),)


def send_home(unit: UnitRecord) -> tuple[UnitRecord, tuple[Instruction, ...]]:
    """Hand the unit to a referee, forgetting a standing result but not who failed on it."""
    emptied, _ = reopen(unit)
    home = replace(emptied, state=UnitState.HOME, failures_by=unit.failures_by, failed_attempts=unit.failed_attempts)
    return home, (ComputeAtHome(unit.unit_id),)


def _step(outcome: tuple[UnitRecord, tuple[Instruction, ...]], who: ContributorRecord | None) -> Step:
    unit, instructions = outcome
    return Step(unit, who, instructions)


def _after_failure(
    unit: UnitRecord, attempt: str, blamed: str | None, is_current: bool, policy: Policy
) -> tuple[UnitRecord, tuple[Instruction, ...]]:
    by = unit.failures_by if blamed is None or blamed in unit.failures_by else (*unit.failures_by, blamed)
    unit = replace(unit, failures_by=by, failed_attempts=(*unit.failed_attempts, attempt))
    if len(by) >= policy.max_attempts or len(unit.failed_attempts) >= policy.max_tries:
        unit, after = send_home(unit)
        return unit, (RecordVerdict("sent-home", {"unit": unit.unit_id, "reason": "failures"}), *after)
    return reissue(unit) if is_current else (unit, ())
