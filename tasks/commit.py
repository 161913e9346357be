"""Commit: fix what a round of the final audit will be about: the manifest of every standing result, and its root.

Runs when no unit and no audit is pending. Draws nothing and writes no dataset.

Invariants: the same standing results give the same root; a root that was committed before keeps its round, so that a
restart repeats a draw and never makes a new one; memory is the manifest's (about 140 bytes a chunk).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from muster.datasets.manifest import Manifest
from muster.errors import JobError
from muster.tasks.progress import Progress
from muster.tasks.run import Run
from muster.tasks.standing import TRUSTED, manifest_rows
from muster.trust.final_audit import KEPT, REJECTED


@dataclass(frozen=True)
class Commit:
    """Round ``round``'s manifest and root; ``state`` is ``clean`` if that round has been passed already."""

    round: int
    root: str
    state: str
    manifest: Manifest
    by_volunteers: npt.NDArray[np.bool_]
    row_wise: bool

    @property
    def kept(self) -> int:
        """Rows to publish."""
        return int(self.manifest.column("kept").sum())

    @property
    def rejected(self) -> int:
        """Rows that could not be read."""
        return int(self.manifest.column("rejected").sum())

    @property
    def volunteer_rows(self) -> int:
        """Rows that volunteers computed."""
        return int(self.manifest.column("n_rows")[self.by_volunteers].sum())

    @property
    def trusted_rows(self) -> int:
        """Rows that trusted workers computed."""
        return int(self.manifest.column("n_rows")[~self.by_volunteers].sum())

    def populations(self) -> dict[str, npt.NDArray[np.int64]]:
        """Return how many sampled things each chunk has in each stratum; trusted chunks have none."""
        if not self.row_wise:
            return {KEPT: self.by_volunteers.astype(np.int64), REJECTED: np.zeros(len(self.manifest), np.int64)}
        columns = {KEPT: self.manifest.column("kept"), REJECTED: self.manifest.column("rejected")}
        return {name: np.where(self.by_volunteers, counts, 0) for name, counts in columns.items()}


def commit(run: Run) -> Commit:
    """Make the manifest of every standing result and say which round of the audit it belongs to."""
    job = run.store.job(run.job.job_id)
    manifest = Manifest()
    volunteers: list[bool] = []
    for row in manifest_rows(run.source, run.store.accepted(job.job_id)):
        manifest.append(row)
        volunteers.append(row.computed_by != TRUSTED)
        run.reporter.update(Progress("commit", done=len(manifest), noun="chunks"))
    if int(manifest.column("n_rows").sum()) != job.n_rows:
        found = int(manifest.column("n_rows").sum())
        raise JobError(f"job {job.job_id}: expected results for {job.n_rows} rows, found {found}")
    root = manifest.root()
    number, state = _round_of(run, root)
    return Commit(number, root, state, manifest, np.array(volunteers, dtype=np.bool_), run.policy.row_wise)


def _round_of(run: Run, root: str) -> tuple[int, str]:
    rounds = run.store.rounds(run.job.job_id)
    if rounds and rounds[-1].root == root and rounds[-1].state in ("committed", "drawn", "clean"):
        return rounds[-1].round, rounds[-1].state
    if run.store.job(run.job.job_id).state == "published":
        raise JobError(
            f"job {run.job.job_id}: was published before, and its audit key revealed; results that changed since can't "
            "be audited with it",
            hint="run it again with another OUT",
        )
    number = len(rounds) + 1
    with run.store.step() as step:
        step.save_round(run.job.job_id, number, root=root, state="committed", outcome=None)
    return number, "committed"
