"""The rows that the flow's side of the registry hands out: plain frozen records, one class a kind.

Holds no query. ``record`` and ``outcome`` are JSON that ``trust`` and ``datasets`` understand; they are opaque here.
"""

from __future__ import annotations

from dataclasses import dataclass

HOME = "home"  # the volunteer and contributor name of trusted compute


@dataclass(frozen=True, slots=True)
class JobRow:
    """One job; the two keys are secrets until the job is certified."""

    job_id: str
    spec: str
    source: str
    recipe: str
    schema: str
    state: str
    created_s: float
    inflight_key: bytes
    final_key: bytes
    events_seq: int
    n_rows: int | None
    error: str | None


@dataclass(frozen=True, slots=True)
class NewUnit:
    """A unit as planned."""

    unit_id: str
    chunk_index: int
    chunk: str
    n_rows: int
    max_nbytes: int


@dataclass(frozen=True, slots=True)
class UnitRow:
    """One unit with its record (trust's, as JSON) and, if accepted, the attempt that stands."""

    unit_id: str
    chunk_index: int
    chunk: str
    n_rows: int
    state: str
    issue: int
    record: str
    attempt_id: str | None


@dataclass(frozen=True, slots=True)
class AcceptedRow:
    """One accepted unit with what intake recorded about its result (``outcome``: AcceptedInfo as JSON)."""

    unit_id: str
    chunk_index: int
    chunk: str
    n_rows: int
    attempt_id: str
    volunteer: str
    contributor: str
    outcome: str


@dataclass(frozen=True, slots=True)
class EventRow:
    """One thing that happened to an attempt."""

    seq: int
    unit_id: str
    attempt_id: str
    kind: str
    at_s: float
    issue: int
    volunteer: str
    contributor: str
    outcome: str | None


@dataclass(frozen=True, slots=True)
class RoundRow:
    """One stored audit round."""

    round: int
    root: str
    state: str
    outcome: str | None
