"""Enter: put a planned job's units where volunteers can reach them, and open the job.

Streams the chunks into the registry, a page at a time. Reads no row and computes nothing.

Invariants: a killed ``enter`` continues where it stopped (units are found by id); both audit keys are committed to the
ledger before the job's state lets a unit go out.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from muster.cluster.coordinator.rows import NewUnit
from muster.errors import SourceError
from muster.tasks.progress import Progress
from muster.tasks.run import Run
from muster.trust import ledger


def enter(run: Run) -> int:
    """Enter the job's units, unless that is done already; return the number of rows."""
    job = run.store.job(run.job.job_id)
    if job.state == "failed" or run.store.count_units(job.job_id).get("failed"):  # killed before it said so
        run.store.reopen_failed(job.job_id)
    if job.state != "planning":
        return job.n_rows or 0
    n_rows = _enter_units(run)
    if n_rows == 0:
        raise SourceError(f"{run.params.source}: the source has no rows")
    leaf = ledger.job_opened_leaf(
        time.time(), job.job_id, run.policy, final_key=job.final_key, in_flight_key=job.inflight_key
    )
    with run.store.step() as step:
        step.append_leaf(job.job_id, leaf)
    run.store.set_job(job.job_id, "open", n_rows=n_rows)
    return n_rows


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
