"""Results that passed intake, and what audits of them found.

Handlers of ``decide``: each maps (unit, contributor, event, policy) to a ``Step``. Which rows an audit draws comes from
the event's seed (``sampling``); whether a job is certified is for ``final_audit``.

Invariants: only the first good result of an open unit is accepted, and only from a contributor in good standing; one
bad row ends a contributor's part in the job, but never while the source may have changed; an audit counts once.
"""

from __future__ import annotations

from dataclasses import replace

from muster.errors import JobError
from muster.trust.attempts import Step, quarantine, reissue, reopen, send_home, source_changed
from muster.trust.events import (
    MAX_TEXT,
    AcceptResult,
    AuditFailed,
    AuditReported,
    AuditRows,
    CompareOnly,
    Instruction,
    RecordVerdict,
    ResultDiscarded,
    ResultValidated,
)
from muster.trust.policy import Policy
from muster.trust.records import ContributorRecord, UnitRecord, UnitState
from muster.trust.sampling import in_flight_chance, in_flight_offsets


def validated(unit: UnitRecord, who: ContributorRecord, event: ResultValidated, policy: Policy) -> Step:
    """The first good result of an open unit: accept it and perhaps draw rows to audit."""
    if event.n_rows != unit.n_rows:
        raise JobError(f"{unit.place}: expected a validated result of {unit.n_rows} rows, got {event.n_rows}")
    if event.attempt in unit.refused_attempts:
        raise JobError(f"{unit.place}: attempt {event.attempt} was refused by intake and can't be validated")
    if who.quarantined:
        verdict = _verdict("ignored-quarantined", unit, event.attempt, who)
        unit, after = reissue(unit) if event.issue == unit.issue else (unit, ())
        return Step(unit, who, (verdict, *after))
    n_audited = rows_to_audit(who, unit.n_rows, event.seed, policy)
    unit = replace(
        unit,
        state=UnitState.ACCEPTED,
        attempt=event.attempt,
        volunteer=event.volunteer,
        contributor=who.name,
        digest=event.digest,
        audit_rows=n_audited,
        audits_pending=(event.attempt,) if n_audited else (),
    )
    who = replace(
        who,
        validated=who.validated + 1,
        audits_started=who.audits_started + bool(n_audited),
    )
    accept = AcceptResult(unit.unit_id, event.attempt, who.name, event.digest)
    verdict = _verdict("accepted", unit, event.attempt, who, digest=event.digest, rows_drawn=n_audited)
    audit = (audit_rows(unit, event.seed, policy),) if n_audited else ()
    return Step(unit, who, (verdict, accept, *audit))


def validated_late(unit: UnitRecord, who: ContributorRecord, event: ResultValidated, policy: Policy) -> Step:  # noqa: ARG001
    """A second result for a settled unit: equal digests agree; a different one goes to a referee, once."""
    if event.attempt == unit.attempt or event.attempt in unit.compared or who.quarantined:
        return Step(unit, who)
    unit = replace(unit, compared=(*unit.compared, event.attempt))
    who = replace(who, validated=who.validated + 1)
    if event.digest == unit.digest:
        return Step(unit, who, (_verdict("agreed", unit, event.attempt, who),))
    standing = unit.attempt
    if standing is None:
        raise JobError(f"{unit.place}: a settled unit must name its attempt")
    reports = (event.attempt,) if unit.state is UnitState.TRUSTED else (standing, event.attempt)
    unit = replace(unit, audits_pending=(*unit.audits_pending, *reports))
    verdict = _verdict("disagreed", unit, event.attempt, who, digest=event.digest)
    return Step(unit, who, (verdict, CompareOnly(unit.unit_id, standing, event.attempt)))


def validated_for_home(unit: UnitRecord, who: ContributorRecord, event: ResultValidated, policy: Policy) -> Step:  # noqa: ARG001
    """A result for a unit that a referee has taken over: too late, and nobody's fault."""
    return Step(unit, who, (_verdict("ignored-at-home", unit, event.attempt, who),))


def audited(unit: UnitRecord, who: ContributorRecord, event: AuditReported, policy: Policy) -> Step:  # noqa: ARG001
    """A referee's report on rows of an attempt, standing or not."""
    stands = unit.state is UnitState.ACCEPTED and event.attempt == unit.attempt
    if stands and who.name != unit.contributor:
        raise JobError(f"{unit.place}: attempt {event.attempt} is by {unit.contributor}, not by {who.name}")
    if not event.source_unchanged:
        return source_changed(unit, who)
    if event.bad is not None:
        return _bad_row(unit, who, event, stands)
    if event.rows_checked < 1:
        raise JobError(f"{unit.place}: an audit that checked no row can't pass")
    return _passed(unit, who, event, stands)


def audit_failed(unit: UnitRecord, who: ContributorRecord | None, event: AuditFailed, policy: Policy) -> Step:
    """The referee could not recompute rows for which a volunteer has values: let it compute the whole unit."""
    if event.attempt != unit.attempt:
        return audit_failed_late(unit, who, event, policy)
    unit, after = send_home(unit)
    return Step(unit, who, (RecordVerdict("sent-home", {"unit": unit.unit_id, "reason": "audit-failed"}), *after))


def audit_failed_late(unit: UnitRecord, who: ContributorRecord | None, event: AuditFailed, policy: Policy) -> Step:  # noqa: ARG001
    """The referee could not recompute rows of a result that does not stand: nobody can be blamed, nothing waits."""
    return Step(replace(unit, audits_pending=_without(unit.audits_pending, event.attempt)), who)


def discarded(unit: UnitRecord, who: ContributorRecord, event: ResultDiscarded, policy: Policy) -> Step:  # noqa: ARG001
    """Take back a standing result of a quarantined contributor."""
    if unit.contributor != event.contributor:
        return Step(unit, who)
    if not who.quarantined:
        raise JobError(f"{unit.place}: {who.name} is in good standing; only quarantine discards results")
    verdict = _verdict("discarded", unit, unit.attempt or "", who)
    unit, after = reopen(unit)
    return Step(unit, who, (verdict, *after))


def rows_to_audit(who: ContributorRecord, n_rows: int, seed: bytes, policy: Policy) -> int:
    """Rows of a fresh result to recompute in flight; 0: this one is not drawn."""
    schedule = policy.in_flight
    if who.audits_started < schedule.probation_units:
        wanted = schedule.probation_rows
    elif in_flight_chance(seed) < schedule.later_rate:
        wanted = schedule.later_rows
    else:
        return 0
    return min(wanted, n_rows) if policy.row_wise else n_rows


def audit_rows(unit: UnitRecord, seed: bytes, policy: Policy) -> AuditRows:
    """The instruction for the draw that ``unit`` carries (also used to repeat it after a restart)."""
    if unit.attempt is None or unit.audit_rows < 1:
        raise JobError(f"{unit.place}: no in-flight draw to carry out")
    offsets = in_flight_offsets(seed, unit.n_rows, unit.audit_rows) if policy.row_wise else None
    return AuditRows(unit.unit_id, unit.attempt, offsets)


def _bad_row(unit: UnitRecord, who: ContributorRecord, event: AuditReported, stands: bool) -> Step:
    assert event.bad is not None
    bad = event.bad
    verdict = _verdict("bad-row", unit, event.attempt, who, position=bad.position, round=event.round)
    reason = (
        f"{unit.place}: row {bad.position}: expected {bad.expected[:MAX_TEXT]}, found {bad.found[:MAX_TEXT]} "
        f"from {who.name} (attempt {event.attempt})"
    )
    who, discard = quarantine(who, reason)
    after: tuple[Instruction, ...] = ()
    if stands:
        unit, after = reopen(unit)
    else:
        unit = replace(unit, audits_pending=_without(unit.audits_pending, event.attempt))
    return Step(unit, who, (verdict, *discard, *after))


def _passed(unit: UnitRecord, who: ContributorRecord, event: AuditReported, stands: bool) -> Step:
    if event.round is None:
        if event.attempt not in unit.audits_pending:
            return Step(unit, who)
        unit = replace(unit, audits_pending=_without(unit.audits_pending, event.attempt))
    elif not stands or event.round <= unit.round_passed:
        return Step(unit, who)
    else:
        unit = replace(unit, round_passed=event.round)
    if stands:
        unit = replace(unit, rows_audited=unit.rows_audited + event.rows_checked)
    who = replace(who, audits_passed=who.audits_passed + 1, rows_passed=who.rows_passed + event.rows_checked)
    verdict = _verdict("audit-passed", unit, event.attempt, who, rows=event.rows_checked, round=event.round)
    return Step(unit, who, (verdict,))


def _verdict(
    kind: str, unit: UnitRecord, attempt: str, who: ContributorRecord, **more: str | int | None
) -> RecordVerdict:
    fields = {"unit": unit.unit_id, "attempt": attempt, "contributor": who.name}
    return RecordVerdict(kind, {**fields, **more})


def _without(attempts: tuple[str, ...], attempt: str) -> tuple[str, ...]:
    """``attempts`` less one occurrence of ``attempt``."""
    if attempt not in attempts:
        return attempts
    at = attempts.index(attempt)
    return attempts[:at] + attempts[at + 1 :]
