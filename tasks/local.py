"""``--pool local``: the same job on this machine's own processes: no pool, no Dask, no Prefect, no audit.

What leverage is measured against, and what ``muster plan`` recommends for small or cheap jobs. Results are files of
the same form as a pool's, so that a killed run resumes and publication is the same code.

Invariants: needs the base install only; the certificate says "trusted, unaudited"; memory is O(processes × chunk).
"""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import islice
from multiprocessing.connection import Connection
from operator import itemgetter
from pathlib import Path
from typing import Any

from muster.cluster.coordinator.rows import HOME, AcceptedRow
from muster.cluster.service import bare_main, start_method
from muster.datasets.chunks import ChunkRef
from muster.datasets.exchange import Exchange
from muster.datasets.manifest import Manifest
from muster.errors import BadRowError, KernelError, MusterError, SourceError
from muster.tasks import bad_rows, recompute
from muster.tasks.costs import Costs
from muster.tasks.job import local_attempt_id
from muster.tasks.plan import Prepared
from muster.tasks.progress import Progress, Reporter
from muster.tasks.publish import Publishable, publish_dataset
from muster.tasks.recompute import Work
from muster.tasks.report import JobReport
from muster.tasks.standing import manifest_rows
from muster.trust.certificate import Run as CertifiedRun
from muster.trust.certificate import claims


def run_local(prepared: Prepared, pool_dir: Path, reporter: Reporter, started_s: float) -> JobReport:
    """Compute every chunk here, publish, and return the report; raises MusterError."""
    costs = Costs()
    folder = pool_dir / "jobs" / prepared.job_id
    folder.mkdir(parents=True, exist_ok=True)
    resumed = sum(1 for _ in folder.glob("*.json"))
    with costs.stage("dispatch"):
        chunks = _compute(prepared, folder, reporter)
    if chunks == 0:
        raise SourceError(f"{prepared.params.source}: the source has no rows")
    manifest = Manifest(manifest_rows(prepared.source, _accepted(prepared, folder)))
    run = CertifiedRun(
        job=prepared.job_id,
        manifest_root=manifest.root(),
        recipe=prepared.recipe.identity,
        kernels=tuple(step.kernel for step in prepared.recipe.steps),
        trusted_rows=int(manifest.column("n_rows").sum()),
        volunteer_rows=0,
    )
    claimed = claims(run, prepared.policy, None, None).to_dict()
    with costs.stage("publish"):
        accepted = _accepted(prepared, folder)
        certificate = publish_dataset(Publishable(prepared, manifest, claimed, accepted), reporter)
    for path in folder.glob("*.json"):
        path.unlink()
    return JobReport(
        out=prepared.params.out,
        job_id=prepared.job_id,
        rows=int(manifest.column("n_rows").sum()),
        kept=int(manifest.column("kept").sum()),
        rejected=int(manifest.column("rejected").sum()),
        chunks=chunks,
        resumed_chunks=resumed,
        input_nbytes=sum(file.nbytes for file in prepared.source.files),
        wall_s=time.monotonic() - started_s,
        stage_s=costs.wall_s,
        attempts={(HOME, "validated"): chunks - resumed},
        certificate=certificate,
        next_command=f"muster verify {prepared.params.out}",
    )


def _compute(prepared: Prepared, folder: Path, reporter: Reporter) -> int:
    """Compute the chunks that have no result yet; return the number of all chunks."""
    n_workers = os.cpu_count() or 1
    if start_method() == "spawn":
        prepared.recipe.warm()  # once, into the compile cache; a fork server has compiled already
    context = multiprocessing.get_context(start_method())
    job = (prepared.work, str(folder), prepared.params.on_bad_row == "fail")
    bad: list[tuple[int, BadRowError]] = []
    chunks = _Chunks(prepared, folder)
    missing = chunks.missing()
    watched, held = context.Pipe(duplex=False)
    with bare_main(), ProcessPoolExecutor(n_workers, context, _end_with, (watched,)) as pool:
        running: dict[Future[tuple[int, str] | None], ChunkRef] = {}
        try:
            while True:
                # after a bad row, only what runs is finished: of several bad rows the first one is named
                for ref, unit in islice(missing, 0 if bad else 2 * n_workers - len(running)):
                    running[pool.submit(_compute_one, *job, ref.to_json(), unit)] = ref
                if not running and bad:
                    raise min(bad, key=itemgetter(0))[1]
                if not running:
                    return chunks.total
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    ref = running.pop(future)
                    found = _found(prepared, ref, future)
                    bad += [] if found is None else [(ref.index, bad_rows.error(prepared.source, ref, *found))]
                    chunks.done += 1
                reporter.update(Progress("compute", chunks.done, chunks.total, "chunks", note="on this machine"))
        except BaseException:
            held.close()  # ends the workers: nobody waits for their chunks
            raise


class _Chunks:
    """A job's chunks, counted as they are looked at; those with a result are done already."""

    def __init__(self, prepared: Prepared, folder: Path) -> None:
        self._prepared, self._folder = prepared, folder
        self.done = self.total = 0

    def missing(self) -> Iterator[tuple[ChunkRef, str]]:
        """Yield the chunks that have no result yet, each with its unit's id."""
        for ref, unit in _chunks(self._prepared):
            self.total += 1
            if (self._folder / f"{unit}.json").exists():
                self.done += 1
            else:
                yield ref, unit


def _end_with(watched: Connection) -> None:
    """End this worker when the other end of the pipe is closed: by a run that gives up, or by its death."""
    threading.Thread(target=lambda: (watched.poll(None), os._exit(1)), name="parent-watch", daemon=True).start()


def _compute_one(work: Work, folder: str, fail_on_bad_row: bool, chunk: str, unit: str) -> tuple[int, str] | None:
    """Compute a chunk and note its result; return the first bad row instead if that is to fail the job."""
    outcome = recompute.compute_unit(work, chunk, unit)
    if fail_on_bad_row and outcome["rejected"]:
        return bad_rows.first_reject(str(Exchange(Path(work.exchange_dir)).accepted_paths(unit)[1]))
    row = {"chunk": chunk, "outcome": json.dumps(outcome)}
    path = Path(folder, f"{unit}.json")
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(row))
    temporary.replace(path)
    return None


def _found(prepared: Prepared, ref: ChunkRef, future: Future[tuple[int, str] | None]) -> tuple[int, str] | None:
    """Return the bad row that ended a chunk, if one did; raise what failed it."""
    error = future.exception()
    name = prepared.source.files[ref.file].name
    if isinstance(error, MusterError):
        raise error
    if error is not None:
        last = ref.first_row + ref.n_rows - 1
        raise KernelError(f"{name}, rows {ref.first_row}-{last}: {type(error).__name__}: {error}") from error
    return future.result()


def _chunks(prepared: Prepared) -> Iterator[tuple[ChunkRef, str]]:
    """Yield each chunk with the name of its result here; results hold the job's file names, so jobs share none."""
    return ((ref, local_attempt_id(prepared.job_id, unit)) for ref, unit in prepared.chunks())


def _accepted(prepared: Prepared, folder: Path) -> Iterator[AcceptedRow]:
    for ref, unit in _chunks(prepared):
        row: dict[str, Any] = json.loads((folder / f"{unit}.json").read_text())
        yield AcceptedRow(unit, ref.index, row["chunk"], ref.n_rows, unit, HOME, HOME, row["outcome"])
