"""Everything that is open while a job runs, in one frozen bundle that the stages hand along.

Holds no behaviour beyond small look-ups. Made by ``flows.pipeline``; closed by whoever made it.

Invariants: ``job`` is the row as it was when the run began (keys and ids never change after that); ``work`` is what
referees get; nothing here is O(rows).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from muster.cluster.coordinator.jobs import JobStore
from muster.cluster.coordinator.rows import JobRow
from muster.cluster.pool import Pool
from muster.datasets.chunks import ChunkRef
from muster.datasets.sources import Source
from muster.kernels.recipe import Recipe
from muster.tasks.costs import Costs
from muster.tasks.job import PreprocessParams
from muster.tasks.progress import Reporter
from muster.tasks.recompute import Work
from muster.tasks.referees import Referees
from muster.trust.policy import Policy

if TYPE_CHECKING:
    from muster.tasks.plan import Prepared


@dataclass(frozen=True)
class Run:
    """One run of one job on a pool."""

    prepared: Prepared
    job: JobRow
    pool: Pool
    referees: Referees
    reporter: Reporter
    costs: Costs = field(default_factory=Costs)

    @property
    def params(self) -> PreprocessParams:
        """The user's parameters."""
        return self.prepared.params

    @property
    def source(self) -> Source:
        """The source."""
        return self.prepared.source

    @property
    def recipe(self) -> Recipe:
        """The recipe."""
        return self.prepared.recipe

    @property
    def policy(self) -> Policy:
        """The job's demands."""
        return self.prepared.policy

    @cached_property
    def work(self) -> Work:
        """What every referee task of the job needs."""
        return self.prepared.work

    @property
    def store(self) -> JobStore:
        """The flow's side of the registry."""
        return self.pool.jobs

    def place(self, chunk: str) -> str:
        """Name a chunk for messages: number, file, row range."""
        ref = ChunkRef.from_json(chunk)
        last = ref.first_row + ref.n_rows - 1
        return f"chunk {ref.index} ({self.source.files[ref.file].name}, rows {ref.first_row}-{last})"
