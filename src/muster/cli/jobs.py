"""``muster preprocess`` and ``muster plan``: run a job, or say what running it would cost.

Chooses the way in (through Prefect or not) and prints; what a job does is ``muster.flows.pipeline``.

Invariant: without ``--prefect`` and without PREFECT_API_URL, Prefect is never imported.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from muster.cli import job_arguments as arguments
from muster.cli.outcome import show
from muster.errors import ConfigError

if TYPE_CHECKING:
    from muster.tasks.job import PreprocessParams
    from muster.tasks.report import JobReport

PREPROCESS_EXAMPLES = """[bold]Examples[/bold]

muster preprocess corpus/ scored --recipe text.quality@1

muster preprocess 'data/*.parquet' out -r text.quality@1 -r text.minhash@1:ngram=5 --with-columns path,text

muster preprocess data.jsonl.zst out -r text.minhash@1 --pool https://127.0.0.1:8440 --on-bad-row quarantine
"""

PLAN_EXAMPLES = """[bold]Example[/bold]

muster plan 'data/*.parquet' out -r text.quality@1 -r text.minhash@1 --max-error 1e-4
"""


def preprocess(
    source: arguments.Source,
    out: arguments.Out,
    recipe: arguments.RecipeSteps,
    pool: arguments.Pool = "embedded",
    volunteers: arguments.Volunteers = 2,
    max_error: arguments.MaxError = 1e-3,
    confidence: arguments.Confidence = 0.99,
    rows_per_chunk: arguments.RowsPerChunk = None,
    chunk_mib: arguments.ChunkMib = None,
    key: arguments.Key = None,
    with_columns: arguments.WithColumns = None,
    limit: arguments.Limit = None,
    on_bad_row: arguments.OnBadRow = arguments.BadRow.fail,
    storage_option: arguments.StorageOption = None,
    prefect: Annotated[
        bool, typer.Option("--prefect", help="Run as a Prefect flow (always, when PREFECT_API_URL is set).")
    ] = False,
) -> None:
    """Run a recipe over a dataset on a pool, check the results, and publish them with a certificate.

    Running it again after an interruption resumes the job; over a finished OUT it says so and does nothing.
    """
    from muster.settings import prepare_environment

    prepare_environment()
    job = arguments.params(
        source=source,
        out=out,
        recipe=recipe,
        pool=pool,
        volunteers=volunteers,
        max_error=max_error,
        confidence=confidence,
        rows_per_chunk=rows_per_chunk,
        chunk_mib=chunk_mib,
        key=key,
        with_columns=with_columns,
        limit=limit,
        on_bad_row=on_bad_row,
        storage_option=storage_option,
    )
    report = _through_prefect(job) if prefect or os.environ.get("PREFECT_API_URL") else _directly(job)
    show(report)


def plan(
    source: arguments.Source,
    out: arguments.Out,
    recipe: arguments.RecipeSteps,
    pool: arguments.Pool = "embedded",
    volunteers: arguments.Volunteers = 2,
    max_error: arguments.MaxError = 1e-3,
    confidence: arguments.Confidence = 0.99,
    rows_per_chunk: arguments.RowsPerChunk = None,
    chunk_mib: arguments.ChunkMib = None,
    key: arguments.Key = None,
    with_columns: arguments.WithColumns = None,
    limit: arguments.Limit = None,
    on_bad_row: arguments.OnBadRow = arguments.BadRow.fail,
    storage_option: arguments.StorageOption = None,
) -> None:
    """Say what a job would be: chunks, bytes on the wire, rows audited, leverage, and whether to do it at home."""
    from muster.settings import prepare_environment

    prepare_environment()
    job = arguments.params(
        source=source,
        out=out,
        recipe=recipe,
        pool=pool,
        volunteers=volunteers,
        max_error=max_error,
        confidence=confidence,
        rows_per_chunk=rows_per_chunk,
        chunk_mib=chunk_mib,
        key=key,
        with_columns=with_columns,
        limit=limit,
        on_bad_row=on_bad_row,
        storage_option=storage_option,
    )
    from muster.tasks.predict import predict

    show(predict(job))


def _directly(job: PreprocessParams) -> JobReport:
    from muster.cli.progress import ProgressView
    from muster.flows.pipeline import run

    with ProgressView() as progress:
        return run(job, on_progress=progress)


def _through_prefect(job: PreprocessParams) -> JobReport:
    from muster.settings import prepare_prefect

    prepare_prefect()
    try:
        import prefect  # noqa: F401 - only to say clearly what is missing
    except ModuleNotFoundError as error:
        raise ConfigError(
            "running as a Prefect flow needs Prefect, which is not installed here",
            hint="pip install 'muster-compute[flows]', or leave out --prefect and unset PREFECT_API_URL",
        ) from error
    from muster.flows.ephemeral_server import start_ephemeral_server
    from muster.flows.preprocess import preprocess as flow

    start_ephemeral_server()
    return flow(job)
