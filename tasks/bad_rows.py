"""``--on-bad-row``: what a row that can't be read means for the job, and the words in which it is named.

A row is bad if the recipe's input columns can't be read from it; then it is a reject, published as such (quarantine),
only counted (skip), or the end of the job (fail). A value of a *carried* column that can't be read, in a row that the
recipe could read, ends the job too with fail, and is null in that column otherwise: the row's results stand.

Decides nothing about volunteers: whether a claimed reject is true is the dispatcher's to find out.

Invariants: a message names file, row (0-based position; the line too where rows are lines, 1-based as editors count)
and reason; input rows = published rows + rejects, whatever the choice.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from muster.cluster.coordinator.rows import AcceptedRow
from muster.datasets.chunks import ChunkRef
from muster.datasets.exchange import Exchange
from muster.datasets.reading import read_chunk
from muster.datasets.result_format import POSITION_COLUMN, REASON
from muster.datasets.sources import Source
from muster.errors import BadRowError
from muster.tasks.plan import Prepared

if TYPE_CHECKING:
    from muster.tasks.run import Run  # needs a database, which the base install has not

_ROW_HINT = "mend the row, or run again with --on-bad-row skip or --on-bad-row quarantine"
_CARRIED_HINT = "mend the value, leave the column out of --with-columns, or let --on-bad-row skip make it null"


def error(source: Source, ref: ChunkRef, position: int, reason: str, hint: str = _ROW_HINT) -> BadRowError:
    """Return the error that ends a job because of one row."""
    lines = ref.format == "jsonl" or "lines" in ref.detail
    where = f"row {position} (line {position + 1})" if lines else f"row {position}"
    return BadRowError(f"{source.files[ref.file].name}: {where}: {reason}", hint=hint)


def of_result(run: Run, unit: str, attempt: str) -> BadRowError:
    """Return the error that ends a job because of the first reject of a result."""
    ref = ChunkRef.from_json(run.store.unit(run.job.job_id, unit).chunk)
    _, rejects = run.pool.exchange.accepted_paths(attempt)
    return error(run.source, ref, *first_reject(str(rejects)))


def standing(run: Run) -> Iterator[tuple[str, str]]:
    """Yield unit and attempt of each accepted result that holds rejects."""
    rows = run.store.accepted(run.job.job_id)
    return ((row.unit_id, row.attempt_id) for row in rows if json.loads(row.outcome)["rejected"])


def first_reject(rejects_path: str | Path) -> tuple[int, str]:
    """Return position and reason of a result's first rejected row."""
    first = pq.read_table(rejects_path).slice(0, 1).to_pylist()[0]
    return int(first[POSITION_COLUMN]), str(first[REASON])


def carried_columns(prepared: Prepared, accepted: AcceptedRow) -> tuple[pa.Table, int]:
    """Read the columns to carry along for all rows of a chunk.

    Returns them in the order the user gave, and how many values of published rows could not be read and are null.
    Raises BadRowError for the first of these with ``--on-bad-row fail``, SourceChangedError.
    """
    source, names = prepared.source, list(prepared.params.passthrough)
    ref = source.with_columns(ChunkRef.from_json(accepted.chunk), names)
    rows = read_chunk(ref, source.schema, source.byte_source(ref.file))
    source.check_unchanged(ref.file)
    kept = _kept(source, ref, accepted)
    bad = np.flatnonzero(kept & rows.reject.is_valid().to_numpy(zero_copy_only=False))
    if not len(bad):
        return rows.table.select(names), 0
    if prepared.params.on_bad_row == "fail":
        at = int(bad[0])
        raise error(source, ref, ref.first_row + at, rows.reject[at].as_py(), _CARRIED_HINT)
    return _one_by_one(source, ref, names, kept)


def _kept(source: Source, ref: ChunkRef, accepted: AcceptedRow) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Return for each row of the chunk whether it is published."""
    kept = np.ones(ref.n_rows, dtype=np.bool_)
    _, rejects = Exchange(source.exchange_dir).accepted_paths(accepted.attempt_id)
    if rejects is not None:
        kept[pq.read_table(rejects, columns=[POSITION_COLUMN])[0].to_numpy() - ref.first_row] = False
    return kept


def _one_by_one(
    source: Source, ref: ChunkRef, names: list[str], kept: np.ndarray[tuple[int], np.dtype[np.bool_]]
) -> tuple[pa.Table, int]:
    """Read each column alone, so that a bad value is null in its own column and nowhere else."""
    columns, n_bad = [], 0
    for name in names:
        rows = read_chunk(source.with_columns(ref, [name]), source.schema, source.byte_source(ref.file))
        columns.append(rows.table.column(name))
        n_bad += int((kept & rows.reject.is_valid().to_numpy(zero_copy_only=False)).sum())
    return pa.table(columns, names=names), n_bad
