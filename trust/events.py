"""What happened (events) and what to do about it (instructions); what is known is in ``records``.

The dispatcher and the simulator load the touched records, build one event, call ``decide`` and carry out the
instructions in the order given, after storing the changed records. Nothing here decides, does I/O, reads a clock or
draws a random number: draws arrive as ``seed`` (a PRF output of the job's in-flight key, see ``sampling``).

Invariants: everything is frozen; an attempt id names one execution by one volunteer and is never reused; free text
(errors, cell values) is for the operator's report and never goes into a ``RecordVerdict``, which is published.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

HOME_ATTEMPT = "home"  # attempt id of what a referee computed itself
MAX_TEXT = 500  # characters of volunteers' text that are kept; everything longer is cut by ``decide``


@dataclass(frozen=True, slots=True)
class BadRow:
    """The first sampled row that differs: absolute ``position`` in its file, printable ``expected`` and ``found``."""

    position: int
    expected: str
    found: str


FailureKind = Literal["kernel", "source", "input", "no-upload", "transfer", "lost", "settled"]


@dataclass(frozen=True, slots=True)
class AttemptStarted:
    """A volunteer redeemed the unit's ticket."""

    unit: str
    issue: int
    attempt: str
    volunteer: str
    contributor: str


@dataclass(frozen=True, slots=True)
class ResultValidated:
    """Intake found the upload well formed; ``seed`` is ``sampling.in_flight_seed(in-flight key, digest)``."""

    unit: str
    issue: int
    attempt: str
    volunteer: str
    contributor: str
    digest: str
    n_rows: int
    seed: bytes


@dataclass(frozen=True, slots=True)
class ResultRefused:
    """Intake refused the upload (``kind``: ``wrong-schema``, ``wrong-rows`` …); the source was checked again."""

    unit: str
    issue: int
    attempt: str
    volunteer: str
    contributor: str
    kind: str
    text: str
    source_unchanged: bool


@dataclass(frozen=True, slots=True)
class AttemptFailed:
    """An attempt ended without an upload.

    ``issue_over`` is False while Dask itself runs the same key elsewhere (a lost worker); then nothing is reissued.
    Reporting an attempt twice (first by the volunteer, then by Dask) is fine. When the Dask key ended before anybody
    redeemed its ticket, ``attempt`` is the Dask key, volunteer and contributor are None.
    """

    unit: str
    issue: int
    attempt: str
    volunteer: str | None
    contributor: str | None
    kind: FailureKind
    text: str
    issue_over: bool = True


@dataclass(frozen=True, slots=True)
class AuditReported:
    """A referee recomputed ``rows_checked`` rows of ``attempt``; ``bad`` is the first that differs.

    ``source_unchanged`` False: nothing can be concluded, and the job ends.
    ``round`` is None for in-flight audits and comparisons, else the number of the final audit's round.
    """

    unit: str
    attempt: str
    contributor: str
    round: int | None
    rows_checked: int
    bad: BadRow | None
    source_unchanged: bool


@dataclass(frozen=True, slots=True)
class AuditFailed:
    """The referee's kernel failed on rows for which ``attempt`` has values: the unit is to be computed at home."""

    unit: str
    attempt: str
    text: str


@dataclass(frozen=True, slots=True)
class RefereeComputed:
    """A referee computed the unit itself."""

    unit: str
    digest: str
    attempt: str = HOME_ATTEMPT


@dataclass(frozen=True, slots=True)
class RefereeFailed:
    """The kernel failed on trusted compute too."""

    unit: str
    text: str


@dataclass(frozen=True, slots=True)
class ResultDiscarded:
    """Sent for each unit that stands by ``contributor`` after ``DiscardContributor`` (again after a restart)."""

    unit: str
    contributor: str


@dataclass(frozen=True, slots=True)
class HomeRequested:
    """The ladder, or a pool without eligible volunteers, wants this unit computed at home."""

    unit: str
    reason: str


Event = (
    AttemptStarted
    | ResultValidated
    | ResultRefused
    | AttemptFailed
    | AuditReported
    | AuditFailed
    | RefereeComputed
    | RefereeFailed
    | ResultDiscarded
    | HomeRequested
)


@dataclass(frozen=True, slots=True)
class IssueUnit:
    """Put the unit back into the window under this issue; futures of earlier issues are released."""

    unit: str
    issue: int


@dataclass(frozen=True, slots=True)
class AcceptResult:
    """Make ``attempt`` the unit's result (compare-and-set on job and unit); release the unit's futures."""

    unit: str
    attempt: str
    contributor: str | None
    digest: str


@dataclass(frozen=True, slots=True)
class AuditRows:
    """Recompute these rows (offsets from the unit's first row, ascending; None: all) and report on ``attempt``."""

    unit: str
    attempt: str
    offsets: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class CompareOnly:
    """Two results of one unit differ: recompute the first row that differs and report on ``late`` …

    … and on ``attempt`` as well, unless that is a referee's (``HOME_ATTEMPT`` or any attempt of a trusted unit).
    """

    unit: str
    attempt: str
    late: str


@dataclass(frozen=True, slots=True)
class ComputeAtHome:
    """Let a referee compute the unit; report ``RefereeComputed`` or ``RefereeFailed``."""

    unit: str


@dataclass(frozen=True, slots=True)
class DiscardContributor:
    """Cut the contributor off and send ``ResultDiscarded`` for every unit of the job that stands by them."""

    contributor: str
    reason: str


@dataclass(frozen=True, slots=True)
class FailJob:
    """End the job with this text."""

    text: str


@dataclass(frozen=True, slots=True)
class RecordVerdict:
    """Append a ledger leaf; ``fields`` hold only str, int, bool and None, and no data of the job."""

    kind: str
    fields: Mapping[str, str | int | bool | None]


Instruction = (
    IssueUnit | AcceptResult | AuditRows | CompareOnly | ComputeAtHome | DiscardContributor | FailJob | RecordVerdict
)
