"""The final audit: which rows a round recomputes, what its outcome is, and what a failed round leads to.

After commit k the manifest root is fixed; round k then draws n_k = ⌈ln(m/α_k)/ε⌉ rows, α_k = α/2^k, uniformly and
without replacement from each of the m non-empty strata of volunteers' rows: *kept* rows and *rejected* rows (a
rejection is a claim like any other). A stratum of at most n_k rows is recomputed whole. Rows that trusted workers
computed are in no stratum, so that they can't dilute the sample. Only a round without a bad row certifies.

It does not read rows, store rounds or hold keys: the task stores (k, root) before it asks for the plan, so that no
restart can redraw; the same arguments always give the same plan.

Invariants: nothing here is O(rows of the job); arrays over chunks are int64, one element for each chunk.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from muster.errors import JobError
from muster.trust.policy import Policy
from muster.trust.sampling import final_draw

Counts = npt.NDArray[np.int64]

KEPT = "kept"
REJECTED = "rejected"
STRATA = (KEPT, REJECTED)


@dataclass(frozen=True, slots=True, eq=False)
class StratumPlan:
    """Rows to recompute of one stratum: ``chunks`` and ``ranks``, shape (n_rows,), int64, in ascending order.

    ``ranks[i]`` counts rows of this stratum within chunk ``chunks[i]``, from 0, in position order. ``whole`` is True
    when every row of the stratum is drawn.
    """

    name: str
    population: int
    n_rows: int
    whole: bool
    chunks: Counts
    ranks: Counts


@dataclass(frozen=True, slots=True, eq=False)
class RoundPlan:
    """What round ``round`` recomputes; ``strata`` holds the non-empty ones (none: only trusted rows)."""

    round: int
    root: str
    alpha: float
    strata: tuple[StratumPlan, ...]

    @property
    def n_rows(self) -> int:
        """Rows to recompute, all strata."""
        return sum(stratum.n_rows for stratum in self.strata)

    def by_chunk(self) -> Iterator[tuple[int, Mapping[str, Counts]]]:
        """Each touched chunk once, ascending, with the ranks to recompute for each stratum (absent: none)."""
        slices = [_slices(stratum) for stratum in self.strata]
        for chunk in sorted(set().union(*slices)):
            ranks = {
                s.name: s.ranks[found[chunk]] for s, found in zip(self.strata, slices, strict=True) if chunk in found
            }
            yield chunk, ranks


def plan_round(
    policy: Policy, key: bytes, root: str, round_number: int, populations: Mapping[str, npt.ArrayLike]
) -> RoundPlan:
    """The plan of round ``round_number`` (from 1) over a manifest.

    ``populations`` maps ``kept`` and ``rejected`` to the volunteer-computed rows of each chunk (0 for chunks computed
    by trusted workers), shape (n_chunks,); for kernels that are not row-wise, to 1 for each chunk. Raises ``JobError``
    for an unknown stratum, negative counts or differing lengths.
    """
    counts = _checked(populations)
    totals = {name: int(array.sum()) for name, array in counts.items()}
    filled = [name for name in STRATA if totals[name] > 0]
    n = policy.round_rows(round_number, len(filled)) if filled else 0
    strata = tuple(_draw_stratum(key, root, round_number, name, counts[name], totals[name], n) for name in filled)
    return RoundPlan(round_number, root, policy.alpha_of_round(round_number), strata)


def _draw_stratum(
    key: bytes, root: str, round_number: int, name: str, counts: Counts, population: int, n: int
) -> StratumPlan:
    drawn = final_draw(key, root, round_number, name, population, n)
    ends = np.cumsum(counts)
    chunks = np.searchsorted(ends, drawn, side="right").astype(np.int64, copy=False)
    ranks = drawn - (ends[chunks] - counts[chunks])
    return StratumPlan(name, population, len(drawn), population <= n, chunks, ranks)


def _checked(populations: Mapping[str, npt.ArrayLike]) -> dict[str, Counts]:
    if set(populations) != set(STRATA):
        raise JobError(f"expected the strata {sorted(STRATA)}, got {sorted(populations)}")
    counts = {name: np.asarray(populations[name], dtype=np.int64) for name in STRATA}
    shapes = {array.shape for array in counts.values()}
    if len(shapes) != 1 or any(array.ndim != 1 for array in counts.values()):
        raise JobError(f"expected one count for each chunk in every stratum, got the shapes {sorted(shapes)}")
    if any((array < 0).any() for array in counts.values()):
        raise JobError("expected row counts >= 0, got a negative one")
    return counts


def _slices(stratum: StratumPlan) -> dict[int, slice]:
    chunks, starts = np.unique(stratum.chunks, return_index=True)
    ends = [*starts[1:].tolist(), len(stratum.chunks)]
    return {c: slice(a, b) for c, a, b in zip(chunks.tolist(), starts.tolist(), ends, strict=True)}


class RoundResult(StrEnum):
    """``uncertified``: the ladder has no rung left."""

    CLEAN = "clean"
    FAILED = "failed"
    UNCERTIFIED = "uncertified"


@dataclass(frozen=True, slots=True)
class RoundOutcome:
    """``contributors`` were caught (all their work goes); the work of those in ``to_home`` is recomputed at home."""

    round: int
    result: RoundResult
    rows_recomputed: int
    contributors: tuple[str, ...] = ()
    to_home: tuple[str, ...] = ()


def conclude_round(
    plan: RoundPlan,
    rows_checked: int,
    bad: Collection[str],
    policy: Policy,
    contributors: Iterable[tuple[str, int]] = (),
    units_without_outcome: int = 0,
) -> RoundOutcome:
    """The outcome of a round.

    ``rows_checked`` counts rows whose recomputation was compared; ``bad`` names the contributor of every bad row;
    ``contributors`` gives (name, clean audited rows) of everybody whose work stands in the job, for the ladder.
    ``units_without_outcome`` counts units whose rows the referee could not recompute (``AuditFailed``: they are at home
    now); they fail the round without anybody being caught. Raises ``JobError`` if a drawn row is otherwise unaccounted
    for: a round that is not complete can't be clean.
    """
    is_short = rows_checked < plan.n_rows and not bad and not units_without_outcome
    if is_short or rows_checked > plan.n_rows:
        raise JobError(f"round {plan.round}: expected {plan.n_rows} recomputed rows, got {rows_checked}")
    if not bad and not units_without_outcome:
        return RoundOutcome(plan.round, RoundResult.CLEAN, rows_checked)
    caught = tuple(sorted(set(bad)))
    if plan.round >= policy.ladder.max_rounds:
        return RoundOutcome(plan.round, RoundResult.UNCERTIFIED, rows_checked, caught)
    rest = [(name, rows) for name, rows in contributors if name not in caught]
    return RoundOutcome(plan.round, RoundResult.FAILED, rows_checked, caught, _sent_home(plan.round, rest, policy))


def _sent_home(failed_rounds: int, contributors: list[tuple[str, int]], policy: Policy) -> tuple[str, ...]:
    ladder = policy.ladder
    if failed_rounds >= ladder.all_home_after:
        return tuple(sorted(name for name, _ in contributors))
    if failed_rounds >= ladder.unproven_home_after:
        return tuple(sorted(name for name, rows in contributors if rows < ladder.proven_rows))
    return ()
