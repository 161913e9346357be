"""Plan: what the job is, before anything runs: source, recipe, frozen schema, id, units.

``prepare`` needs no pool and costs little, so that wrong input is refused before a process starts; ``plan`` streams the
chunks into the registry as units. Computes nothing and reads no row.

Invariants: the same files, recipe and parameters give the same units in the same order; both audit keys are committed
to the ledger before the job's state lets a unit go out.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from muster.cluster.coordinator.rows import JobRow, NewUnit
from muster.datasets.chunks import ChunkRef, chunk_fingerprint
from muster.datasets.sources import Source, open_source
from muster.errors import JobError, SourceError
from muster.kernels.recipe import Recipe
from muster.tasks.job import PreprocessParams, job_id, unit_id
from muster.tasks.ledger_clock import now_ms
from muster.tasks.progress import Progress, Reporter
from muster.tasks.recompute import Work
from muster.tasks.run import Run
from muster.trust import ledger
from muster.trust.policy import Policy


@dataclass(frozen=True)
class Prepared:
    """A job that could start: everything that its id depends on."""

    params: PreprocessParams
    source: Source
    recipe: Recipe
    schema: pa.Schema  # the frozen schema of the recipe's input columns
    policy: Policy
    job_id: str

    @property
    def work(self) -> Work:
        """What referees get."""
        encoded = base64.b64encode(self.schema.serialize().to_pybytes()).decode()
        return Work(self.source.to_json(), self.recipe.to_json(), encoded)

    def chunks(self) -> Iterator[tuple[ChunkRef, str]]:
        """Yield each chunk with its unit's id, in order."""
        params, seen = self.params, Counter[str]()
        refs = self.source.chunks(
            self.schema.names,
            rows_per_chunk=params.rows_per_chunk,
            chunk_nbytes=params.chunk_nbytes,
            limit=params.limit,
        )
        for ref in refs:
            fingerprint = chunk_fingerprint(ref, self.schema)
            yield ref, unit_id(self.recipe.identity, fingerprint, seen[fingerprint])
            seen[fingerprint] += 1


def prepare(params: PreprocessParams, exchange_dir: Path, reporter: Reporter) -> Prepared:
    """Open source and recipe, check that they fit together, and name the job.

    Raises SourceError, KernelError or ConfigError; nothing has been started or written by then.
    """
    recipe = Recipe.parse(params.recipe)
    policy = Policy(max_error=params.max_error, confidence=params.confidence, row_wise=recipe.row_wise)
    reporter.update(Progress("plan", note="opening the source"))
    source = open_source(params.source, exchange_dir=exchange_dir, storage_options=params.storage_options or None)
    source.require(recipe.input_schema)
    for name in params.passthrough:
        if name not in source.schema.names:
            there = ", ".join(source.schema.names)
            raise SourceError(f"{params.source}: there is no column {name!r} to carry along; the columns are {there}")
        if name in recipe.output_schema.names or name.startswith("_muster"):
            raise SourceError(f"{params.source}: column {name!r} would clash with a column that the job adds")
    identity = job_id(params, source.fingerprint(), recipe.identity)
    return Prepared(params, source, recipe, recipe.input_schema, policy, identity)


def plan(run: Run) -> JobRow:
    """Enter the job's units, unless that is done already, and open the job; return its row as it is now."""
    job = run.store.job(run.job.job_id)
    if job.state == "planning":
        n_rows = _enter_units(run)
        if n_rows == 0:
            raise SourceError(f"{run.params.source}: the source has no rows")
        leaf = ledger.job_opened(
            job.job_id, now_ms(), run.policy, final_key=job.final_key, in_flight_key=job.inflight_key
        )
        with run.store.step() as step:
            step.append_leaf(job.job_id, leaf.encode())
        run.store.set_job(job.job_id, "open", n_rows=n_rows)
    elif job.state == "failed":
        run.store.reopen_failed(job.job_id)
    return run.store.job(job.job_id)


def _enter_units(run: Run) -> int:
    n_rows = 0

    def units() -> Iterator[NewUnit]:
        nonlocal n_rows
        for ref, identity in run.prepared.chunks():
            n_rows += ref.n_rows
            run.reporter.update(Progress("plan", done=ref.index + 1, noun="chunks", note=f"{n_rows:,} rows"))
            yield NewUnit(identity, ref.index, ref.to_json(), ref.n_rows, run.recipe.max_result_nbytes(ref.n_rows))

    run.store.add_units(run.job.job_id, units())
    return n_rows


def check_planned(job: JobRow) -> int:
    """Return the number of rows of a planned job; raises JobError before planning is complete."""
    if job.n_rows is None:
        raise JobError(f"job {job.job_id} has not been planned")
    return job.n_rows
