"""What a job demands: the error bound, the in-flight audits, and when to give up on volunteers.

A policy is numbers only; ``decide`` and ``final_audit`` apply it. It says what verification will cost in rows, and
refuses targets that can't be met, naming the nearest that can. It knows nothing of time, bytes or machines.

Invariants: there is no policy that checks nothing: zero rates, zero rows and empty ladders are refused (fail closed).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction

from muster.errors import ConfigError

MIN_MAX_ERROR = 1e-6  # below this the audit of a round draws tens of millions of rows; computing at home is simpler
MAX_CONFIDENCE = 1 - 1e-9


def rows_to_draw(alpha: float, max_error: float) -> int:
    """Rows of a stratum to draw so that > max_error bad rows survive unseen with probability <= alpha.

    Drawing n without replacement misses b > εN bad rows with probability <= (1 - ε)^n < exp(-ε n), hence
    n = ⌈ln(1/α)/ε⌉ (``docs/trust.md``).
    """
    return math.ceil(math.log(1 / alpha) / max_error)


def decimal_text(value: float) -> str:
    """The shortest decimal that reads back as ``value``, without an exponent (``0.000001``)."""
    return format(Decimal(repr(float(value))), "f")


@dataclass(frozen=True, slots=True)
class InFlight:
    """In-flight audits: early detection only, they never count for the bound.

    A contributor's first ``probation_units`` results are each sampled by ``probation_rows`` rows; later ones with
    probability ``later_rate`` by ``later_rows`` rows.
    """

    probation_units: int = 3
    probation_rows: int = 64
    later_rate: float = 0.05
    later_rows: int = 64

    def __post_init__(self) -> None:
        _at_least_one("in-flight probation_units", self.probation_units)
        _at_least_one("in-flight probation_rows", self.probation_rows)
        _at_least_one("in-flight later_rows", self.later_rows)
        if not 0 < self.later_rate <= 1:
            raise ConfigError(f"in-flight later_rate must lie in (0, 1], got {self.later_rate}; the least is 1e-6")


@dataclass(frozen=True, slots=True)
class Ladder:
    """What failed rounds of the final audit lead to, beyond the removal of those who were caught.

    After ``unproven_home_after`` failed rounds, work of contributors with fewer than ``proven_rows`` clean audited
    rows is recomputed at home; after ``all_home_after``, all of it; after ``max_rounds`` the job ends uncertified.
    """

    unproven_home_after: int = 3
    proven_rows: int = 1000
    all_home_after: int = 6
    max_rounds: int = 10

    def __post_init__(self) -> None:
        _at_least_one("ladder unproven_home_after", self.unproven_home_after)
        _at_least_one("ladder proven_rows", self.proven_rows)
        _at_least_one("ladder max_rounds", self.max_rounds)
        if self.all_home_after < self.unproven_home_after:
            raise ConfigError(
                f"ladder all_home_after must be at least unproven_home_after ({self.unproven_home_after}), "
                f"got {self.all_home_after}"
            )


@dataclass(frozen=True, slots=True)
class Overhead:
    """Predicted rows that referees recompute if nobody lies; ``share`` is relative to the job's rows."""

    final_rows: int
    in_flight_rows: int
    share: float


@dataclass(frozen=True, slots=True)
class Policy:
    """The demands of one job.

    ``max_attempts`` failures by different volunteers, or ``max_tries`` ended attempts of any kind, send a unit home;
    ``max_faults`` refused uploads end a contributor's part in the job. ``row_wise`` False: audits recompute whole
    units, and the unit is the thing that the final audit samples.
    """

    max_error: float = 1e-3
    confidence: float = 0.99
    in_flight: InFlight = field(default_factory=InFlight)
    ladder: Ladder = field(default_factory=Ladder)
    max_attempts: int = 3
    max_tries: int = 10
    max_faults: int = 3
    row_wise: bool = True

    def __post_init__(self) -> None:
        _check_target(self.max_error, self.confidence)
        _at_least_one("max_attempts", self.max_attempts)
        _at_least_one("max_faults", self.max_faults)
        if self.max_tries < self.max_attempts:
            raise ConfigError(f"max_tries must be at least max_attempts ({self.max_attempts}), got {self.max_tries}")

    @property
    def alpha(self) -> float:
        """1 - confidence, exact in decimals (0.01 for 0.99, not 0.010000000000000009)."""
        return float(1 - Decimal(repr(float(self.confidence))))

    def alpha_of_round(self, round_number: int) -> float:
        """α/2^k, so that all rounds together stay within α. Rounds count from 1."""
        _at_least_one("round", round_number)
        return float(Fraction(repr(self.alpha)) / 2**round_number)

    def round_rows(self, round_number: int, n_strata: int) -> int:
        """Rows that round k draws of each of ``n_strata`` non-empty strata (fewer where a stratum is smaller)."""
        _at_least_one("number of strata", n_strata)
        return rows_to_draw(self.alpha_of_round(round_number) / n_strata, self.max_error)

    def predict(self, n_rows: int, n_units: int, n_contributors: int, n_strata: int = 1) -> Overhead:
        """Rows to recompute in a job where nobody lies. ``n_strata`` 2 when rejects are expected."""
        if n_rows <= 0 or n_units <= 0:
            return Overhead(0, 0, 0.0)
        rows_per_unit = math.ceil(n_rows / n_units)
        final = min(n_rows, n_strata * self.round_rows(1, n_strata))
        probation = min(n_units, n_contributors * self.in_flight.probation_units)
        later = math.ceil((n_units - probation) * self.in_flight.later_rate)
        sizes = (self.in_flight.probation_rows, self.in_flight.later_rows)
        first, then = (min(n, rows_per_unit) if self.row_wise else rows_per_unit for n in sizes)
        in_flight = min(n_rows, probation * first + later * then)
        return Overhead(final, in_flight, (final + in_flight) / n_rows)

    @classmethod
    def from_target(
        cls,
        max_error: float = 1e-3,
        confidence: float = 0.99,
        *,
        n_rows: int | None = None,
        n_units: int = 1,
        n_contributors: int = 1,
        max_overhead: float | None = None,
    ) -> Policy:
        """The policy for a target; with ``max_overhead`` (share of rows) and ``n_rows``, refused if it can't be met.

        Raises ``ConfigError`` that names the nearest target which can be met.
        """
        policy = cls(max_error=max_error, confidence=confidence)
        if max_overhead is None:
            return policy
        if n_rows is None or n_rows <= 0 or max_overhead <= 0:
            raise ConfigError(f"max_overhead {max_overhead} needs a positive share and a positive number of rows")
        predicted = policy.predict(n_rows, n_units, n_contributors)
        if predicted.share > max_overhead:
            raise ConfigError(
                f"max_error {max_error:g} at confidence {confidence:g} means recomputing "
                f"{predicted.final_rows + predicted.in_flight_rows:,} of {n_rows:,} rows "
                f"({predicted.share:.2%}), more than the allowed {max_overhead:.2%}",
                hint=_nearest(policy, predicted, n_rows, max_overhead),
            )
        return policy


def _nearest(policy: Policy, predicted: Overhead, n_rows: int, max_overhead: float) -> str:
    budget = int(max_overhead * n_rows) - predicted.in_flight_rows
    if budget > 0:
        needed = math.log(1 / policy.alpha_of_round(1)) / budget
        nearest = math.ceil(needed * 1e6) / 1e6  # six decimals, rounded up so that the hint itself is accepted
        if nearest < 1:
            return f"the nearest possible is --max-error {nearest:g}, or allow an overhead of {predicted.share:.2%}"
    return f"the nearest possible is an overhead of {predicted.share:.2%}; a job this small is cheaper at home"


def _check_target(max_error: float, confidence: float) -> None:
    if not MIN_MAX_ERROR <= max_error < 1:
        nearest = MIN_MAX_ERROR if max_error < MIN_MAX_ERROR else 0.5
        raise ConfigError(
            f"max_error must lie in [{MIN_MAX_ERROR:g}, 1), got {max_error}; the nearest possible is {nearest:g}",
            hint="for no error at all compute the job on trusted machines (--pool local)",
        )
    if not 0.5 <= confidence <= MAX_CONFIDENCE:
        nearest = 0.5 if confidence < 0.5 else MAX_CONFIDENCE
        raise ConfigError(
            f"confidence must lie in [0.5, {MAX_CONFIDENCE}], got {confidence}; the nearest possible is {nearest}"
        )


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ConfigError(f"{name} must be at least 1, got {value}; the nearest possible is 1")
