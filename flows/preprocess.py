"""The Prefect flow ``preprocess``: ``pipeline.run`` with each stage as a Prefect task and artifacts for operators.

What a job does is in ``pipeline``; this file only shows it in Prefect. Chunks are never task runs (2,000 of them
already break the UI's graph); their states are one table.

Invariants: artifacts are updated at most once a second; nothing of Prefect, its credentials least of all, reaches a
volunteer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

from prefect import flow, task
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE

from muster.flows.pipeline import run
from muster.tasks.job import PreprocessParams
from muster.tasks.progress import Listener, Progress
from muster.tasks.report import JobReport


@flow(name="preprocess", description=__doc__, log_prints=False, persist_result=False)
def preprocess(params: PreprocessParams) -> JobReport:
    """Run a recipe over a dataset on a pool of volunteers, verify the results, publish them with a certificate."""
    return run_with_artifacts(params)


def run_with_artifacts(params: PreprocessParams, listener: Listener | None = None, **how: Any) -> JobReport:
    """Run the pipeline inside a flow run: stages as tasks, progress as artifacts and to ``listener``."""
    artifacts = Artifacts()

    def show(progress: Progress) -> None:
        if listener is not None:
            listener(progress)
        artifacts(progress)

    report = run(params, on_progress=show, stage=as_task, **how)
    artifacts.finish(report)
    return report


def as_task(name: str, function: Callable[..., Any], *args: Any) -> Any:
    """Call a stage as a Prefect task; its arguments hold open connections: nothing is cached, hashed or persisted."""
    return task(name=name, cache_policy=NO_CACHE, persist_result=False)(function)(*args)


class Artifacts:
    """A progress listener that keeps one progress bar and one table current, and writes the report at the end."""

    def __init__(self) -> None:
        self._bar: UUID | None = None
        self._last: Progress | None = None

    def __call__(self, progress: Progress) -> None:
        """Show one snapshot."""
        share = 100.0 * progress.done / progress.total if progress.total else 0.0
        text = f"{progress.stage}: {progress.done:,} of {progress.total:,} {progress.noun} {progress.note}".rstrip()
        if self._bar is None:
            self._bar = create_progress_artifact(progress=share, key="muster-progress", description=text)  # type: ignore[assignment]
        else:
            update_progress_artifact(self._bar, progress=share, description=text)
        if progress.by_state:
            self._last = progress
        if progress.by_state and progress.done >= progress.total:
            self._table(progress)

    def _table(self, progress: Progress) -> None:
        rows = [{"volunteer": "all", "state": state, "chunks": n} for state, n in sorted(progress.by_state.items())]
        rows += [{"volunteer": v, "state": s, "chunks": n} for (v, s), n in sorted(progress.by_volunteer.items())]
        create_table_artifact(rows, key="muster-chunks", description="Chunks by state, and attempts by volunteer")

    def finish(self, report: JobReport) -> None:
        """Write the report with the certificate."""
        lines = "\n".join(f"| {label} | {text} |" for label, text in report.lines())
        markdown = f"## {report.out}\n\n| | |\n|---|---|\n{lines}\n"
        create_markdown_artifact(markdown, key="muster-report", description="Result and certificate")
