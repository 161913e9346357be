"""Credit: verified rows times the kernels' calibrated cost, in whole reference-core milliseconds.

Never claimed time, never before the final audit has passed, nothing for discarded work. Muster moves no money: any
settlement happens elsewhere, on these numbers. Costs are arguments; calibration is not done here.

Invariants: integers only, so that sums are exact; nobody in quarantine is credited.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from muster.errors import JobError
from muster.trust.records import ContributorRecord, UnitRecord, UnitState


@dataclass(frozen=True, slots=True)
class Credit:
    """What one contributor earned in one job; ``core_ms`` are reference-core milliseconds."""

    contributor: str
    units: int
    rows: int
    core_ms: int


def credits_of(
    units: Iterable[tuple[UnitRecord, float]], contributors: Iterable[ContributorRecord]
) -> tuple[Credit, ...]:
    """Credits of a certified job, by contributor name.

    ``units`` pairs each settled unit with its calibrated cost in reference-core seconds. Raises ``JobError`` for a
    unit that is not settled, or that stands by somebody in quarantine.
    """
    quarantined = {who.name for who in contributors if who.quarantined}
    sums: dict[str, list[int]] = {}
    for unit, cost_s in units:
        if not unit.settled:
            raise JobError(f"{unit.place}: credit is given for settled units only, this one is {unit.state}")
        if unit.state is UnitState.TRUSTED or unit.contributor is None:
            continue
        if unit.contributor in quarantined:
            raise JobError(f"{unit.place}: stands by {unit.contributor}, who is in quarantine")
        total = sums.setdefault(unit.contributor, [0, 0, 0])
        for i, gain in enumerate((1, unit.n_rows, round(cost_s * 1000))):
            total[i] += gain
    return tuple(Credit(name, *sums[name]) for name in sorted(sums))
