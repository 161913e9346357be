"""What is known: one record for each unit of a job and one for each contributor.

Frozen values: ``decide`` returns changed copies and the dispatcher stores them. Nothing here decides or stores.

Invariants: a record holds scalars and short tuples only (the dispatcher may store it as JSON); its size is bounded by
the number of attempts on the unit, never by rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class UnitState(StrEnum):
    """Where a unit stands. ``accepted`` is a volunteer's result, ``trusted`` a referee's."""

    OPEN = "open"
    HOME = "home"
    ACCEPTED = "accepted"
    TRUSTED = "trusted"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class UnitRecord:
    """One unit of a job. A new record is OPEN at issue 1, which the dispatcher sends out without asking ``decide``.

    ``place`` names chunk, file and row range for messages. ``failed_attempts`` are distinct attempts that failed or
    were lost since the unit was last opened, ``failures_by`` the distinct volunteers whose failure counts.
    ``audits_pending`` are attempts whose in-flight audit is under way, ``compared`` late attempts sent to a referee.
    ``audit_rows`` is the size of the accepted result's in-flight draw (0: none drawn).
    """

    unit_id: str
    n_rows: int
    place: str
    state: UnitState = UnitState.OPEN
    issue: int = 1
    failures_by: tuple[str, ...] = ()
    failed_attempts: tuple[str, ...] = ()
    refused_attempts: tuple[str, ...] = ()
    attempt: str | None = None
    volunteer: str | None = None
    contributor: str | None = None
    digest: str | None = None
    audit_rows: int = 0
    audits_pending: tuple[str, ...] = ()
    compared: tuple[str, ...] = ()
    rows_audited: int = 0
    round_passed: int = 0

    @property
    def settled(self) -> bool:
        """True once a result stands (it can still be discarded by a later audit)."""
        return self.state in (UnitState.ACCEPTED, UnitState.TRUSTED)

    @property
    def quiet(self) -> bool:
        """True when commit need not wait for this unit: a result stands and no audit of it is under way."""
        return self.settled and not self.audits_pending


@dataclass(frozen=True, slots=True)
class ContributorRecord:
    """What a job (later: a pool, for each kernel) knows about one contributor.

    ``validated`` results passed intake; ``audits_started``/``_passed`` and ``rows_passed`` count recomputed samples;
    ``faults`` are structural refusals; ``failures`` attempts that failed.
    """

    name: str
    attempts: int = 0
    validated: int = 0
    audits_started: int = 0
    audits_passed: int = 0
    rows_passed: int = 0
    faults: int = 0
    failures: int = 0
    quarantined: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Records:
    """The touched records: given to ``decide`` whole, returned with only what changed (``unit`` None: unchanged)."""

    unit: UnitRecord | None
    contributors: Mapping[str, ContributorRecord] = field(default_factory=dict)
