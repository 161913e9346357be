"""What ``preprocess`` does, stage by stage, readable top to bottom; with Prefect around it or without.

Each stage is a plain function of ``tasks``; ``stage`` says how one is called (directly, or as a Prefect task). Decides
nothing about data, trust or volunteers.

Invariants: what was started is stopped, however the job ends; a published OUT is never touched; Prefect is not
imported.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from muster.cluster.service import start_fork_server
from muster.errors import PoolError
from muster.settings import Settings, prepare_environment
from muster.tasks.job import PreprocessParams
from muster.tasks.plan import Prepared, prepare
from muster.tasks.progress import Listener, Progress, Reporter
from muster.tasks.publish import already_published
from muster.tasks.report import JobReport

Stage = Callable[..., Any]
_DYING_S = 0.3  # a process counts as ended a moment after its connections broke


def call(_name: str, function: Callable[..., Any], *args: Any) -> Any:
    """Call a stage directly."""
    return function(*args)


def run(
    params: PreprocessParams,
    *,
    on_progress: Listener | None = None,
    stage: Stage = call,
    volunteers: Sequence[Any] | None = None,
    pool_name: str | None = None,
    on_open: Callable[[Any], None] | None = None,
) -> JobReport:
    """Run the job, or resume it, and return its report; raises MusterError.

    ``volunteers`` (``EmbeddedVolunteer``s) replace the default ones of an embedded pool and ``pool_name`` its folder's
    name; ``on_open`` is told of the open ``Run``, so that a demo or a test can meddle with its processes.
    """
    started_s = time.monotonic()
    settings = prepare_environment()
    if "://" in params.out or not Path(params.out).exists():  # otherwise the job is done, or refused
        start_fork_server()  # its imports overlap with planning
    reporter = Reporter(on_progress)
    pool_dir = _pool_dir(params, settings, pool_name or params.pool)
    prepared: Prepared = stage("plan", prepare, params, pool_dir / "exchange", reporter)
    if (done := already_published(prepared)) is not None:
        _close_job(pool_dir, prepared)
        return done
    if params.pool == "local":
        from muster.tasks.local import run_local

        return run_local(prepared, pool_dir, reporter, started_s)
    with _open_run(prepared, pool_dir, reporter, volunteers) as job:
        if on_open is not None:
            on_open(job)
        return _stages(job, stage, started_s)


def _stages(job: Any, stage: Stage, started_s: float) -> JobReport:
    from muster.tasks.certify import certify
    from muster.tasks.commit import commit
    from muster.tasks.compute import compute, settle
    from muster.tasks.conclude import conclude
    from muster.tasks.enter import enter

    with job.costs.stage("plan"):
        stage("stage", enter, job)
    with job.costs.stage("dispatch"):
        dispatcher = stage("compute", compute, job)
    while True:
        with job.costs.stage("commit"):
            committed = stage("commit", commit, job)
        with job.costs.stage("audit"):
            audited = stage("certify", certify, job, dispatcher, committed)
        if audited.clean or audited.given_up:
            break
        with job.costs.stage("dispatch"):
            stage("compute", settle, job, dispatcher)
    report: JobReport = stage("publish", conclude, job, dispatcher, audited, started_s)
    return report


@contextmanager
def _open_run(
    prepared: Prepared, pool_dir: Path, reporter: Reporter, volunteers: Sequence[Any] | None
) -> Iterator[Any]:
    from muster.tasks.compute import drop_lease, take_lease
    from muster.tasks.referees import Referees
    from muster.tasks.run import Run

    reporter.update(Progress("start", note="starting the pool" if prepared.params.pool == "embedded" else "connecting"))
    pool = _open_pool(prepared.params, pool_dir, volunteers)
    try:
        with Referees() as referees:
            referees.start()
            row = pool.jobs.open_job(
                prepared.job_id,
                spec=prepared.params.model_dump_json(),
                source=prepared.work.source,
                recipe=prepared.work.recipe,
                schema=prepared.work.schema,
            )
            job = Run(prepared, row, pool, referees, reporter)
            take_lease(job)
            job.costs.watch(pool)
            try:
                yield job
            except PoolError:
                pool.check(_DYING_S)  # name the service that died, if that is why
                raise
            finally:
                drop_lease(job)
    finally:
        pool.close()


def _close_job(pool_dir: Path, prepared: Prepared) -> None:
    """Close the job of a dataset that is there: its run may have been killed before it could."""
    if (pool_dir / "registry.sqlite").exists():
        from muster.tasks.conclude import close_published

        close_published(pool_dir, prepared.job_id)


def _open_pool(params: PreprocessParams, pool_dir: Path, volunteers: Sequence[Any] | None) -> Any:
    if params.pool == "embedded":
        from muster.cluster.embedded import default_volunteers, open_embedded

        return open_embedded(pool_dir, volunteers or default_volunteers(params.volunteers))
    from muster.cluster.pool import connect

    return connect(params.pool, prepare_environment().operator_bundle_path)


def _pool_dir(params: PreprocessParams, settings: Settings, name: str) -> Path:
    if params.pool in ("embedded", "local"):
        return settings.pool_dir(name)
    from muster.cluster.pool import bundle_pool_dir

    return bundle_pool_dir(params.pool, settings.operator_bundle_path)
