"""What a certificate claims, as data and as one sentence. Pure: signing and files are done in ``datasets``.

Grades, strongest statement that is true of the run:

- ``trusted``: trusted workers computed every row; nobody audited them.
- ``recomputed``: a referee recomputed every row that volunteers computed, and none differed.
- ``audited``: the last round of the final audit was clean; the error bound holds for the sampled strata.
- ``uncertified``: no bound holds.

Invariants: a grade can't be claimed without its evidence (``JobError``); rows of trusted workers are counted apart;
the dictionary holds no floats, so that it has one canonical form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from muster.errors import JobError
from muster.trust.final_audit import RoundOutcome, RoundPlan, RoundResult
from muster.trust.policy import Policy, decimal_text


class Grade(StrEnum):
    """How much is claimed."""

    TRUSTED = "trusted"
    RECOMPUTED = "recomputed"
    AUDITED = "audited"
    UNCERTIFIED = "uncertified"


@dataclass(frozen=True, slots=True)
class Stratum:
    """Rows of one kind that volunteers computed, and how many of them the certifying round recomputed."""

    name: str
    population: int
    recomputed: int

    @property
    def whole(self) -> bool:
        """Every row was recomputed: exact, no bound needed."""
        return self.recomputed == self.population


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far a tolerant kernel's values may differ and still count as equal (decimal texts)."""

    kernel: str
    rtol: str
    atol: str


@dataclass(frozen=True, slots=True)
class Run:
    """What the claims are about. ``thing`` is what was sampled: rows, or chunks for kernels that are not row-wise."""

    job: str
    manifest_root: str
    recipe: str
    kernels: tuple[str, ...]
    trusted_rows: int
    volunteer_rows: int
    tolerances: tuple[Tolerance, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    thing: str = "rows"


@dataclass(frozen=True, slots=True)
class Claims:
    """The claims about one published dataset; build them with ``claims``."""

    grade: Grade
    run: Run
    max_error: float
    confidence: float
    alpha: float
    rounds: int
    strata: tuple[Stratum, ...]
    rows_recomputed: int

    def to_dict(self) -> dict[str, Any]:
        """The claims as canonical JSON material: strings, integers, lists, objects."""
        run = self.run
        return {
            "grade": self.grade.value,
            "statement": self.sentence(),
            "job": run.job,
            "manifest_root": run.manifest_root,
            "recipe": run.recipe,
            "kernels": list(run.kernels),
            "tolerances": [{"kernel": t.kernel, "rtol": t.rtol, "atol": t.atol} for t in run.tolerances],
            "environment": dict(run.environment),
            "max_error": decimal_text(self.max_error),
            "confidence": decimal_text(self.confidence),
            "rounds": self.rounds,
            "sampled": run.thing,
            "strata": [{"name": s.name, "population": s.population, "recomputed": s.recomputed} for s in self.strata],
            "rows_recomputed": self.rows_recomputed,
            "volunteer_rows": run.volunteer_rows,
            "trusted_rows": run.trusted_rows,
        }

    def sentence(self) -> str:
        """The one sentence that may be quoted (``docs/trust.md``), with the numbers of this run."""
        return _SENTENCES[self.grade](self)


def claims(
    run: Run, policy: Policy, plan: RoundPlan | None, outcome: RoundOutcome | None, rows_recomputed: int = 0
) -> Claims:
    """What may be claimed after the last round (``plan`` and ``outcome`` None: no round was needed or possible).

    ``rows_recomputed`` counts all rows that referees recomputed for audits, all rounds and in flight. Raises
    ``JobError`` when the round does not belong to the run's manifest or does not cover its volunteers' rows.
    """
    strata = _strata(run, plan, outcome)
    if run.volunteer_rows == 0:
        grade = Grade.TRUSTED
    elif outcome is None or outcome.result is not RoundResult.CLEAN:
        grade = Grade.UNCERTIFIED
    else:
        grade = Grade.RECOMPUTED if all(s.whole for s in strata) else Grade.AUDITED
    rounds = outcome.round if outcome else 0
    return Claims(grade, run, policy.max_error, policy.confidence, policy.alpha, rounds, strata, rows_recomputed)


def _strata(run: Run, plan: RoundPlan | None, outcome: RoundOutcome | None) -> tuple[Stratum, ...]:
    if plan is None or outcome is None:
        return ()
    if plan.root != run.manifest_root:
        raise JobError(f"round {plan.round} was drawn over the manifest {plan.root}, not over {run.manifest_root}")
    is_whole = outcome.result is not RoundResult.CLEAN or plan.n_rows == outcome.rows_recomputed
    if plan.round != outcome.round or not is_whole:
        raise JobError(f"the outcome of round {outcome.round} is not that of the plan of round {plan.round}")
    strata = tuple(Stratum(s.name, s.population, s.n_rows) for s in plan.strata)
    covered = sum(s.population for s in strata)
    if run.thing == "rows" and covered != run.volunteer_rows:
        raise JobError(f"round {plan.round} covers {covered} rows; volunteers computed {run.volunteer_rows}")
    return strata


def _audited(claims: Claims) -> str:
    sampled = [s for s in claims.strata if not s.whole]
    population = " or of ".join(f"the {s.population:,} {s.name} {claims.run.thing}" for s in sampled)
    whole = "".join(
        f"; all {s.population:,} {s.name} {claims.run.thing} computed by volunteers were recomputed and none differs"
        for s in claims.strata
        if s.whole
    )
    return (
        f"the procedure certifies a dataset in which more than {decimal_text(claims.max_error)} of {population} "
        f"computed by volunteers differs from the referee's recomputation{_within(claims)} with probability at most "
        f"{decimal_text(claims.alpha)}{whole}; {_trusted_rows(claims)}"
    )


def _recomputed(claims: Claims) -> str:
    parts = ", ".join(f"{s.population:,} {s.name}" for s in claims.strata)
    total = sum(s.population for s in claims.strata)
    return (
        f"a referee recomputed all {total:,} {claims.run.thing} computed by volunteers ({parts}) and none "
        f"differs{_within(claims)}; {_trusted_rows(claims)}"
    )


def _trusted(claims: Claims) -> str:
    return f"trusted, unaudited: {_trusted_rows(claims)}, none by volunteers"


def _uncertified(claims: Claims) -> str:
    return (
        f"uncertified: no error bound holds for the {claims.run.volunteer_rows:,} rows computed by volunteers; "
        f"{_trusted_rows(claims)}"
    )


_SENTENCES = {
    Grade.AUDITED: _audited,
    Grade.RECOMPUTED: _recomputed,
    Grade.TRUSTED: _trusted,
    Grade.UNCERTIFIED: _uncertified,
}


def _within(claims: Claims) -> str:
    parts = " and ".join(f"rtol {t.rtol}, atol {t.atol} for kernel {t.kernel}" for t in claims.run.tolerances)
    return f" within {parts}" if parts else ""


def _trusted_rows(claims: Claims) -> str:
    n = claims.run.trusted_rows
    return f"{n:,} {'row was' if n == 1 else 'rows were'} computed by trusted workers"
