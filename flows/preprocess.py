"""The Prefect flow ``preprocess``: ``pipeline.run`` with each stage as a Prefect task.

What a job does is in ``pipeline``, what operators see of it in ``artifacts``; this file is where Prefect calls. Chunks
are never task runs (2,000 of them already break the UI's graph); their states are one table.

Invariants: Prefect's files lie where the environment says before Prefect is imported; nothing of Prefect, its
credentials least of all, reaches a volunteer; SIGTERM (a cancelled run) ends every process of the job.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from muster.settings import prepare_prefect

prepare_prefect()  # Prefect makes its folder when it is imported

from prefect import flow, task  # noqa: E402
from prefect.cache_policies import NO_CACHE  # noqa: E402
from prefect.runtime import flow_run  # noqa: E402

from muster.flows.artifacts import Artifacts  # noqa: E402
from muster.flows.pipeline import run  # noqa: E402
from muster.tasks.job import PreprocessParams  # noqa: E402
from muster.tasks.progress import Listener, Progress  # noqa: E402
from muster.tasks.report import JobReport  # noqa: E402

DESCRIPTION = """Runs a *recipe* (a list of kernels) over a dataset on a pool of machines that nobody has to trust,
audits what they return, and publishes the result with a signed certificate.

A run that was interrupted goes on where it stopped when it is started again with the same parameters; over an output
that is complete it does nothing. `{date}` in the output stands for the day that the run was scheduled for (UTC).
`muster kernels` lists the kernels.
"""


@flow(name="preprocess", description=DESCRIPTION, log_prints=False, persist_result=False)
def preprocess(params: PreprocessParams) -> JobReport:
    """Run a recipe over a dataset on a pool of volunteers, verify the results, publish them with a certificate.

    Args:
        params: What to compute, from where to where, and how sure to be.
    """
    return run_with_artifacts(dated(params))


def dated(params: PreprocessParams) -> PreprocessParams:
    """Return ``params`` with ``{date}`` in OUT replaced by the day (UTC) that the flow run was scheduled for.

    A schedule has fixed parameters and a dataset is published once; a retried run keeps its day, and so resumes.
    """
    day = f"{flow_run.get_scheduled_start_time():%Y-%m-%d}"
    return params.model_copy(update={"out": params.out.replace("{date}", day)})


def run_with_artifacts(params: PreprocessParams, listener: Listener | None = None, **how: Any) -> JobReport:
    """Run the pipeline inside a flow run: stages as tasks, progress as artifacts and to ``listener``."""
    with Artifacts() as artifacts:

        def show(progress: Progress) -> None:
            if listener is not None:
                listener(progress)
            artifacts.update(progress)

        report = run(params, on_progress=show, stage=as_task, **how)
        artifacts.finish(report)
    return report


def as_task(name: str, function: Callable[..., Any], *args: Any) -> Any:
    """Call a stage as a Prefect task; its arguments hold open connections: nothing is cached, hashed or persisted."""
    stage = task(name=name, task_run_name=name, cache_policy=NO_CACHE, persist_result=False)
    return stage(function)(*args)
