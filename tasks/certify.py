"""Certify: the final audit of a commit (``docs/adr/0004-final-audit.md``).

A round is stored (number, manifest root) before anything is drawn, so that no restart can redraw; a bad row ends its
contributor's part in the job, reopens compute and leads to the next commit and round. What may be claimed afterwards is
``trust.certificate``'s business; this module recomputes the drawn rows and keeps the rounds.

Invariants: a round's draw depends on the final key, the root and its number only; a round counts as clean only when
every drawn row was recomputed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from muster.cluster.coordinator.rows import AcceptedRow
from muster.tasks import recompute
from muster.tasks.commit import Commit
from muster.tasks.dispatcher import Dispatcher
from muster.tasks.progress import Progress
from muster.tasks.run import Run
from muster.tasks.standing import manifest_rows
from muster.trust import events as ev
from muster.trust import ledger
from muster.trust.final_audit import KEPT, REJECTED, RoundOutcome, RoundPlan, RoundResult, conclude_round, plan_round

Ranks = npt.NDArray[np.int64]
_NONE = np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class Audited:
    """A concluded round and the plan it carried out; ``plan`` None when trusted workers computed every row."""

    commit: Commit
    plan: RoundPlan | None
    outcome: RoundOutcome | None

    stands: bool = True  # False: a late finding discarded results while the round was under way

    @property
    def clean(self) -> bool:
        """Whether the dataset may be certified."""
        return self.stands and (self.outcome is None or self.outcome.result is RoundResult.CLEAN)

    @property
    def given_up(self) -> bool:
        """Whether the ladder has no rung left."""
        return self.outcome is not None and self.outcome.result is RoundResult.UNCERTIFIED


def certify(run: Run, dispatcher: Dispatcher, commit: Commit) -> Audited:
    """Carry out the final audit's round of a commit and apply what it found."""
    if commit.volunteer_rows == 0:
        return Audited(commit, None, None)
    plan = plan_round(run.policy, run.job.final_key, commit.root, commit.round, commit.populations())
    if commit.state == "clean":  # an earlier run passed this round and was killed before it published
        return Audited(commit, plan, conclude_round(plan, plan.n_rows, (), run.policy))
    _store(run, commit.round, commit.root, "drawn", None, ledger.round_drawn_leaf(time.time(), run.job.job_id, plan))
    checked, bad, failed = _recompute(run, dispatcher, commit, plan)
    standing = [(name, who.rows_passed) for name, who in dispatcher.contributors.items() if not who.quarantined]
    outcome = conclude_round(plan, checked, bad, run.policy, standing, units_without_outcome=failed)
    leaf = ledger.round_concluded_leaf(time.time(), run.job.job_id, outcome)
    _store(run, commit.round, commit.root, outcome.result.value, json.dumps(asdict(outcome)), leaf)
    _send_home(run, dispatcher, outcome)
    return Audited(commit, plan, outcome, stands=_stands(run, commit))


def _stands(run: Run, commit: Commit) -> bool:
    """Whether what stands now is what was committed; a late finding may have replaced a result by a referee's."""
    counts = run.store.count_units(run.job.job_id)
    if counts.get("open") or counts.get("home"):
        return False
    now = manifest_rows(run.source, run.store.accepted(run.job.job_id))
    return all(row == committed for row, committed in zip(now, commit.manifest, strict=True))


def _recompute(run: Run, dispatcher: Dispatcher, commit: Commit, plan: RoundPlan) -> tuple[int, list[str], int]:
    """Have every drawn row recomputed.

    Return the number of rows checked, the contributors of bad ones, and how many chunks a referee could not recompute.
    """
    wanted = dict(plan.by_chunk())
    rows_of = {chunk: sum(len(ranks) for ranks in by_stratum.values()) for chunk, by_stratum in wanted.items()}
    chunk_of: dict[str, int] = {}
    for row in run.store.accepted(run.job.job_id):
        ranks = wanted.get(row.chunk_index)
        if ranks is not None:
            chunk_of[row.attempt_id] = row.chunk_index
            _submit(run, dispatcher, commit, row, ranks)
    checked, reported, bad = 0, 0, []

    def on_report(event: ev.AuditReported) -> None:
        nonlocal checked, reported
        if event.round == commit.round:
            reported += 1
            checked += rows_of[chunk_of[event.attempt]]
            if event.bad is not None:
                bad.append(event.contributor)

    dispatcher.on_report = on_report
    total = sum(rows_of.values())
    while run.referees.n_pending or not run.referees.outcomes.empty():
        dispatcher.window.wait(0.05)
        dispatcher.pump()
        run.reporter.update(Progress("certify", checked, total, "rows", f"round {commit.round}"))
    run.reporter.update(Progress("certify", checked, total, "rows", f"round {commit.round}"), force=True)
    return checked, bad, len(chunk_of) - reported


def _submit(
    run: Run, dispatcher: Dispatcher, commit: Commit, row: AcceptedRow, ranks: Mapping[str, npt.NDArray[np.int64]]
) -> None:
    if run.policy.row_wise:
        drawn = (ranks.get(KEPT, _NONE), ranks.get(REJECTED, _NONE))
        dispatcher.check(row.unit_id, row.attempt_id, commit.round, recompute.check_ranks, *drawn)
    else:
        dispatcher.check(row.unit_id, row.attempt_id, commit.round, recompute.check_offsets, None)


def _send_home(run: Run, dispatcher: Dispatcher, outcome: RoundOutcome) -> None:
    for contributor in outcome.to_home:
        for unit in run.store.accepted_by(run.job.job_id, contributor):
            dispatcher.apply(ev.HomeRequested(unit, f"round {outcome.round} of the final audit failed"))


def _store(run: Run, number: int, root: str, state: str, outcome: str | None, leaf: bytes) -> None:
    with run.store.step() as step:
        step.save_round(run.job.job_id, number, root=root, state=state, outcome=outcome)
        step.append_leaf(run.job.job_id, leaf)
