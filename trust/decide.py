"""``decide``: the one place where an event about a unit becomes a decision.

    decide(touched records, event, policy) -> (changed records, instructions)

The state machine is the table ``TRANSITIONS``: for every state and event a rule with its handler and the states that
may follow. It performs nothing: the dispatcher first stores the changed records, then carries out the instructions in
order; after a crash in between, ``resume`` says what a unit still needs.

Invariants, checked at run time: a result stands only for a contributor in good standing; a unit never reaches a state
that its rule does not name. Events that come late, twice or out of order are absorbed by rules that change nothing
(``ignored``); events about other units, unknown contributors or impossible facts raise ``JobError`` (fail closed).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from muster.errors import JobError
from muster.trust.attempts import (
    Step,
    failed,
    failed_late,
    home_computed,
    home_failed,
    home_requested,
    refused,
    refused_late,
    started,
)
from muster.trust.events import (
    AttemptFailed,
    AttemptStarted,
    AuditFailed,
    AuditReported,
    CompareOnly,
    ComputeAtHome,
    Event,
    HomeRequested,
    Instruction,
    IssueUnit,
    RefereeComputed,
    RefereeFailed,
    ResultDiscarded,
    ResultRefused,
    ResultValidated,
)
from muster.trust.policy import Policy
from muster.trust.records import ContributorRecord, Records, UnitRecord, UnitState
from muster.trust.results import (
    audit_failed,
    audit_failed_late,
    audit_rows,
    audited,
    discarded,
    validated,
    validated_for_home,
    validated_late,
)

Handler = Callable[[UnitRecord, Any, Any, Policy], Step]


@dataclass(frozen=True, slots=True)
class Rule:
    """A handler and the states that may follow it."""

    handler: Handler
    to: tuple[UnitState, ...]


def ignored(unit: UnitRecord, who: ContributorRecord | None, event: Event, policy: Policy) -> Step:  # noqa: ARG001
    """The event comes too late to matter (or again): nothing changes."""
    return Step(unit, who)


OPEN, HOME, ACCEPTED, TRUSTED, FAILED = UnitState
_STAY_OPEN = Rule(ignored, (OPEN,))
_STAY_HOME = Rule(ignored, (HOME,))
_STAY_ACCEPTED = Rule(ignored, (ACCEPTED,))
_STAY_TRUSTED = Rule(ignored, (TRUSTED,))
_STAY_FAILED = Rule(ignored, (FAILED,))

TRANSITIONS: Mapping[UnitState, Mapping[type[Event], Rule]] = {
    OPEN: {
        AttemptStarted: Rule(started, (OPEN,)),
        ResultValidated: Rule(validated, (OPEN, ACCEPTED)),
        ResultRefused: Rule(refused, (OPEN, HOME, FAILED)),
        AttemptFailed: Rule(failed, (OPEN, HOME)),
        AuditReported: Rule(audited, (OPEN, FAILED)),
        AuditFailed: _STAY_OPEN,
        RefereeComputed: _STAY_OPEN,
        RefereeFailed: _STAY_OPEN,
        ResultDiscarded: _STAY_OPEN,
        HomeRequested: Rule(home_requested, (HOME,)),
    },
    HOME: {
        AttemptStarted: Rule(started, (HOME,)),
        ResultValidated: Rule(validated_for_home, (HOME,)),
        ResultRefused: Rule(refused_late, (HOME, FAILED)),
        AttemptFailed: Rule(failed_late, (HOME,)),
        AuditReported: Rule(audited, (HOME, FAILED)),
        AuditFailed: _STAY_HOME,
        RefereeComputed: Rule(home_computed, (TRUSTED,)),
        RefereeFailed: Rule(home_failed, (FAILED,)),
        ResultDiscarded: _STAY_HOME,
        HomeRequested: _STAY_HOME,
    },
    ACCEPTED: {
        AttemptStarted: Rule(started, (ACCEPTED,)),
        ResultValidated: Rule(validated_late, (ACCEPTED,)),
        ResultRefused: Rule(refused_late, (ACCEPTED, FAILED)),
        AttemptFailed: Rule(failed_late, (ACCEPTED,)),
        AuditReported: Rule(audited, (ACCEPTED, OPEN, FAILED)),
        AuditFailed: Rule(audit_failed, (ACCEPTED, HOME)),
        RefereeComputed: _STAY_ACCEPTED,
        RefereeFailed: _STAY_ACCEPTED,
        ResultDiscarded: Rule(discarded, (ACCEPTED, OPEN)),
        HomeRequested: Rule(home_requested, (HOME,)),
    },
    TRUSTED: {
        AttemptStarted: Rule(started, (TRUSTED,)),
        ResultValidated: Rule(validated_late, (TRUSTED,)),
        ResultRefused: Rule(refused_late, (TRUSTED, FAILED)),
        AttemptFailed: Rule(failed_late, (TRUSTED,)),
        AuditReported: Rule(audited, (TRUSTED, FAILED)),
        AuditFailed: Rule(audit_failed_late, (TRUSTED,)),
        RefereeComputed: _STAY_TRUSTED,
        RefereeFailed: _STAY_TRUSTED,
        ResultDiscarded: _STAY_TRUSTED,
        HomeRequested: _STAY_TRUSTED,
    },
    FAILED: {
        AttemptStarted: _STAY_FAILED,
        ResultValidated: _STAY_FAILED,
        ResultRefused: _STAY_FAILED,
        AttemptFailed: _STAY_FAILED,
        AuditReported: _STAY_FAILED,
        AuditFailed: _STAY_FAILED,
        RefereeComputed: _STAY_FAILED,
        RefereeFailed: _STAY_FAILED,
        ResultDiscarded: _STAY_FAILED,
        HomeRequested: _STAY_FAILED,
    },
}


def decide(records: Records, event: Event, policy: Policy) -> tuple[Records, tuple[Instruction, ...]]:
    """Apply ``event``.

    ``records`` must hold the event's unit and, if the event names one, its contributor (a new ``ContributorRecord`` if
    never seen). Returns only what changed (``unit`` None and no contributors: nothing did). Raises ``JobError`` when
    records and event do not fit together.
    """
    unit, who = _touched(records, event)
    rule = TRANSITIONS[unit.state].get(type(event))
    if rule is None:
        raise JobError(f"{unit.place}: no rule for {type(event).__name__} in state {unit.state}")
    step = rule.handler(unit, who, event, policy)
    if step.unit.state not in rule.to:
        raise JobError(f"{unit.place}: {type(event).__name__} must not lead from {unit.state} to {step.unit.state}")
    changed = {step.who.name: step.who} if step.who is not None and step.who is not who else {}
    return Records(step.unit if step.unit is not unit else None, changed), step.instructions


def resume(unit: UnitRecord, policy: Policy, seed: bytes | None = None) -> tuple[Instruction, ...]:
    """What a stored unit still needs after a restart. Repeats draws, never redraws.

    ``seed`` is ``sampling.in_flight_seed(key, unit.digest)``, needed while audits are pending. A standing result of a
    quarantined contributor needs a ``ResultDiscarded`` event as well, which only the dispatcher can see.
    """
    if unit.state is OPEN:
        return (IssueUnit(unit.unit_id, unit.issue),)
    if unit.state is HOME:
        return (ComputeAtHome(unit.unit_id),)
    if not unit.audits_pending or unit.attempt is None:
        return ()
    late = tuple(attempt for attempt in unit.compared if attempt in unit.audits_pending)
    if not late and not unit.audit_rows:  # the comparison's other report came before the crash
        late = unit.compared[-1:]
    again: list[Instruction] = [CompareOnly(unit.unit_id, unit.attempt, attempt) for attempt in late]
    if unit.attempt in unit.audits_pending and unit.audit_rows:
        if seed is None:
            raise JobError(f"{unit.place}: an audit is pending and its seed is missing")
        again.append(audit_rows(unit, seed, policy))
    return tuple(again)


def _touched(records: Records, event: Event) -> tuple[UnitRecord, ContributorRecord | None]:
    unit = records.unit
    if unit is None or unit.unit_id != event.unit:
        raise JobError(f"expected the record of unit {event.unit}, got {unit.unit_id if unit else 'none'}")
    name: str | None = getattr(event, "contributor", None)
    if name is None:
        return unit, None
    who = records.contributors.get(name)
    if who is None or who.name != name:
        raise JobError(f"{unit.place}: the record of contributor {name} is missing")
    return unit, who
