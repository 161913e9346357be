"""Conclude: publish a pool's job with what its final audit allows to claim, and close it in registry and ledger.

Publication itself is ``publish``, claims are ``trust.certificate``. Runs once a round is clean (or the ladder has no
rung left, which publishes nothing).

Invariants: the final key is revealed only after the dataset is visible, and once; a killed ``conclude`` is repeated
from the same commit; the report's numbers come from the registry and the processes' clocks.
"""

from __future__ import annotations

import platform
import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from muster.cluster.coordinator.jobs import JobStore
from muster.cluster.coordinator.rows import HOME, JobRow
from muster.errors import JobError
from muster.tasks.certify import Audited
from muster.tasks.dispatcher import Dispatcher
from muster.tasks.publish import Publishable, publish_dataset
from muster.tasks.report import Caught, JobReport
from muster.tasks.run import Run
from muster.trust import ledger
from muster.trust.certificate import Claims, claims
from muster.trust.certificate import Run as CertifiedRun


def conclude(run: Run, dispatcher: Dispatcher, audited: Audited, started_s: float) -> JobReport:
    """Publish, close the job, and report."""
    job_id = run.job.job_id
    if audited.given_up:
        run.store.set_job(job_id, "failed", error="the final audit's ladder has no rung left")
        raise JobError(
            f"job {job_id}: round {audited.commit.round} of the final audit failed and was the last; nothing published",
            hint="most volunteers lie, or the kernel is not exact on their machines; run the job with --pool local",
        )
    with run.costs.stage("publish"):
        claimed = _claims(run, dispatcher, audited)
        accepted = run.store.accepted(job_id)
        with run.store.step() as step:
            step.append_leaf(job_id, ledger.certified_leaf(time.time(), job_id, claimed.to_dict()))
        fields = claimed.to_dict() | {"ledger_leaves": len(run.store.ledger_leaves(job_id))}
        certificate = publish_dataset(
            Publishable(run.prepared, audited.commit.manifest, fields, accepted), run.reporter
        )
        _close(run.store, run.job)
    run.costs.collect(run.pool, run.referees.cpu_s())
    return _report(run, dispatcher, audited, certificate, claimed, time.monotonic() - started_s)


def close_published(pool_dir: Path, job_id: str) -> None:
    """Close a job whose run was killed after its dataset had become visible; anything else is left alone."""
    store = JobStore(pool_dir)
    try:
        with suppress(KeyError):  # published from another state folder
            _close(store, store.job(job_id))
    finally:
        store.close()


def _close(store: JobStore, job: JobRow) -> None:
    with store.step() as step:
        if step.close_job(job.job_id):
            step.append_leaf(job.job_id, ledger.key_revealed_leaf(time.time(), job.job_id, "final", job.final_key))


def _claims(run: Run, dispatcher: Dispatcher, audited: Audited) -> Claims:
    environment = {name: version(name) for name in ("muster-compute", "pyarrow", "numba", "numpy")}
    certified = CertifiedRun(
        job=run.job.job_id,
        manifest_root=audited.commit.root,
        recipe=run.recipe.identity,
        kernels=tuple(step.kernel for step in run.recipe.steps),
        trusted_rows=audited.commit.trusted_rows,
        volunteer_rows=audited.commit.volunteer_rows,
        environment=environment | {"python": platform.python_version()},
        thing="rows" if run.policy.row_wise else "chunks",
    )
    recomputed = sum(who.rows_passed for who in dispatcher.contributors.values())
    return claims(certified, run.policy, audited.plan, audited.outcome, recomputed)


def _report(
    run: Run, dispatcher: Dispatcher, audited: Audited, certificate: dict[str, object], claimed: Claims, wall_s: float
) -> JobReport:
    manifest = audited.commit.manifest
    services = run.pool.services
    attempts = run.store.attempts.counts(run.job.job_id)
    return JobReport(
        out=run.params.out,
        job_id=run.job.job_id,
        rows=int(manifest.column("n_rows").sum()),
        kept=audited.commit.kept,
        rejected=audited.commit.rejected,
        chunks=len(manifest),
        resumed_chunks=dispatcher.resumed,
        input_nbytes=sum(file.nbytes for file in run.source.files),
        wall_s=wall_s,
        stage_s=dict(run.costs.wall_s),
        attempts=attempts,
        caught=tuple(Caught(name, who.reason) for name, who in dispatcher.contributors.items() if who.quarantined),
        rounds=audited.commit.round if audited.plan is not None else 0,
        rows_recomputed=claimed.rows_recomputed,
        chunks_at_home=attempts.get((HOME, "validated"), 0),
        trusted_cpu_s=dict(run.costs.cpu_s),
        volunteer_cpu_s=None if services is None else sum(services.volunteer_cpu_s().values()),
        certificate=certificate,
        next_command=f"muster verify {run.params.out}",
    )
