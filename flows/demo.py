"""``muster demo``: the whole of Muster on the text that every machine has, with a liar and a ``kill -9`` on the way.

Builds a corpus from the interpreter's own files, runs the flow ``preprocess`` on an embedded pool of which one
volunteer lies and one is killed in mid-run, verifies what was published, and compares it with a plain run of the same
recipe in this process. Adds nothing to the product that the flow itself does not do.

Invariants: a result that is not byte-identical to the plain run is an error; everything is under the state folder.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from muster.cluster.embedded import EmbeddedVolunteer
from muster.datasets.digest import table_digest
from muster.datasets.result_format import POSITION_COLUMN
from muster.errors import VerificationError
from muster.flows.demo_corpus import build_corpus
from muster.flows.demo_report import DemoReport, find_duplicates, low_quality
from muster.kernels.recipe import Recipe
from muster.settings import settings
from muster.tasks.job import PreprocessParams
from muster.tasks.progress import Listener, Progress
from muster.tasks.report import JobReport
from muster.tasks.verify_dataset import verify

RECIPE = ["text.quality@1", "text.minhash@1"]
LIAR, VICTIM = "mallory", "dave"
_KILL_AT_SHARE = 0.3


def run(
    *, out: Path | None = None, volunteers: int = 4, limit: int | None = None, on_progress: Listener | None = None
) -> DemoReport:
    """Run the demo and return its report; raises MusterError, VerificationError if the output is not right."""
    started_s = time.monotonic()
    home = settings().home
    folder = home / "demo"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(settings().pool_dir("demo"), ignore_errors=True)
    folder.mkdir(parents=True)
    tell = on_progress or (lambda _: None)
    tell(Progress("corpus", note="reading the interpreter's text files"))
    corpus = folder / "corpus.parquet"
    rows = build_corpus(corpus, limit)
    tell(Progress("corpus", rows, rows, "files"))
    target = out or folder / "scored"
    params = PreprocessParams(source=str(corpus), out=str(target), recipe=RECIPE, key="id", chunk_mib=2.0)
    killing = _Killing()
    job = _through_prefect(params, _machines(volunteers), killing, tell)
    verified = verify(str(target), keystore=settings().keystore_path)
    tell(Progress("compare", note="the same recipe in this process"))
    plain, plain_cpu_s = _plain_run(corpus)
    _compare(plain, target)
    tell(Progress("compare", rows, rows, "rows"))
    return DemoReport(
        job=job,
        verified=str(verified),
        victim=VICTIM,
        taken_over=killing.outcome(),
        plain_cpu_s=plain_cpu_s,
        duplicates=find_duplicates(target),
        low_quality=low_quality(target, corpus),
        corpus=str(corpus),
        wall_s=time.monotonic() - started_s,
    )


def _machines(n: int) -> list[EmbeddedVolunteer]:
    honest = [f"alice-{i}" if i else "alice" for i in range(n - 2)]
    machines = [EmbeddedVolunteer(name, name) for name in (*honest, VICTIM)]
    return [*machines, EmbeddedVolunteer(LIAR, LIAR, module="muster.flows.demo_liar")]


def _through_prefect(params: PreprocessParams, machines: Any, killing: _Killing, tell: Listener) -> JobReport:
    """Run the flow on the Prefect server of PREFECT_API_URL, or on an ephemeral one."""
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
    tell(Progress("prefect", note="starting a Prefect server" if "PREFECT_API_URL" not in os.environ else ""))
    from prefect import flow

    from muster.flows.ephemeral_server import start_ephemeral_server
    from muster.flows.preprocess import run_with_artifacts

    start_ephemeral_server()

    @flow(name="preprocess", log_prints=False, persist_result=False)
    def preprocess(params: PreprocessParams) -> JobReport:
        tell(Progress("prefect", 1, 1, "server"))
        return run_with_artifacts(params, tell, volunteers=machines, pool_name="demo", on_open=killing.start)

    return preprocess(params)


@dataclass
class _Killing:
    """Kills one volunteer with SIGKILL in mid-run, while it has work in hand."""

    job: Any = None
    taken_over: list[tuple[str, str]] = field(default_factory=list)

    def start(self, job: Any) -> None:
        """Begin to watch the job."""
        self.job = job
        threading.Thread(target=self._watch, name="demo-kill", daemon=True).start()

    def _watch(self) -> None:
        store, job_id = self.job.store, self.job.job.job_id
        service = self.job.pool.services.volunteers[VICTIM]
        while service.alive():
            counts = store.count_units(job_id)
            attempts = store.attempts.counts(job_id)
            enough = counts.get("accepted", 0) >= _KILL_AT_SHARE * max(1, sum(counts.values()))
            if enough and attempts.get((VICTIM, "started"), 0):
                os.kill(service.pid, signal.SIGKILL)
                return
            time.sleep(0.02)

    def outcome(self) -> list[tuple[str, str]]:
        """Return (unit, who computed it in the end) for what the victim had in hand."""
        from muster.cluster.coordinator.jobs import JobStore

        store = JobStore(settings().pool_dir("demo"))
        try:
            return store.attempts.abandoned(self.job.job.job_id, VICTIM)
        finally:
            store.close()


def _plain_run(corpus: Path) -> tuple[pa.Table, float]:
    """Run the recipe over the corpus in this process; return the new columns and the CPU seconds."""
    recipe = Recipe.parse(RECIPE)
    recipe.warm()
    cpu_s = time.process_time()
    with pq.ParquetFile(corpus) as file:
        parts = [recipe.run(pa.Table.from_batches([batch])) for batch in file.iter_batches(400, columns=["text"])]
    return pa.concat_tables(parts), time.process_time() - cpu_s


def _compare(plain: pa.Table, out: Path) -> None:
    published = pq.read_table(out).sort_by(POSITION_COLUMN).select(plain.column_names)
    for name in plain.column_names:
        if table_digest(plain.select([name])) != table_digest(published.select([name])):
            raise VerificationError(f"{out}: column {name} is not byte-identical to a plain run of the same recipe")
