"""What a referee does: recompute rows, or a whole unit, from the source, and compare with what intake accepted.

Runs in trusted worker processes. Reads the source itself (never through a volunteer), and of a volunteer's result only
the files that intake re-encoded. Decides nothing: it reports the first row that differs.

Invariants: rows are compared by the canonical digest, so that "equal" means the same as everywhere else; a report is
small and holds no more than one row's text; the source is checked again before a difference is reported.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from muster.datasets import results
from muster.datasets.chunks import ChunkRef
from muster.datasets.digest import table_digest
from muster.datasets.exchange import Exchange, UploadRefusedError, file_blake3
from muster.datasets.reading import ChunkRows, read_chunk
from muster.datasets.result_format import POSITION_COLUMN
from muster.datasets.sources import Source
from muster.errors import JobError, SourceChangedError, SourceError, printable
from muster.kernels.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Work:
    """What every referee task of a job needs; all text, so that it travels as it is stored."""

    source: str
    recipe: str
    schema: str  # base64 of the frozen input schema
    exchange_dir: str
    storage_options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Claim:
    """An accepted result on disk: the Parquet of kept rows and, if there are rejects, that of the rejects.

    ``digests`` are the files' blake3 as publication will ask for them ("" for no rejects).
    """

    chunk: str
    kept_path: str
    rejects_path: str | None
    digests: tuple[str, str]


@dataclass(frozen=True, slots=True)
class Difference:
    """The first row that differs: absolute position, and one column's value on both sides, printable and bounded."""

    position: int
    column: str
    expected: str
    found: str


@dataclass(frozen=True, slots=True)
class Check:
    """What a check found; ``source_unchanged`` False means that nothing can be concluded."""

    n_rows: int
    difference: Difference | None
    source_unchanged: bool


def check_offsets(work: Work, claim: Claim, offsets: Sequence[int] | None) -> Check:
    """Recompute the rows at ``offsets`` (from the chunk's first row; None: all) and compare them with the claim."""
    ref = ChunkRef.from_json(claim.chunk)
    wanted = np.arange(ref.n_rows, dtype=np.int64) if offsets is None else np.asarray(offsets, dtype=np.int64)
    return _check(work, claim, ref, wanted + ref.first_row)


def check_ranks(work: Work, claim: Claim, kept: npt.NDArray[np.int64], rejected: npt.NDArray[np.int64]) -> Check:
    """Recompute the rows with these ranks among the claim's kept and rejected rows, and compare them with the claim.

    Raises JobError if the claim's files are not, byte for byte, those that publication will take.
    """
    _require_what_is_published(claim)
    ref = ChunkRef.from_json(claim.chunk)
    rejects = _reject_positions(claim.rejects_path)
    everything = np.arange(ref.first_row, ref.first_row + ref.n_rows, dtype=np.int64)
    keeps = np.setdiff1d(everything, rejects, assume_unique=True) if len(rejects) else everything
    return _check(work, claim, ref, np.sort(np.concatenate([keeps[kept], rejects[rejected]])))


def compare_claims(work: Work, standing: Claim, late: Claim) -> tuple[Check, Check]:
    """Two results of one unit that differ: recompute the first row that differs and check both claims on it."""
    ref = ChunkRef.from_json(standing.chunk)
    everything = np.arange(ref.first_row, ref.first_row + ref.n_rows, dtype=np.int64)
    schema = compute_rows(work, ref, everything[:0]).schema
    both = [_claimed(claim, everything, schema) for claim in (standing, late)]
    row = _first_difference(*both)
    positions = everything[:1] if row is None else everything[row : row + 1]
    return _check(work, standing, ref, positions), _check(work, late, ref, positions)


def compute_rows(work: Work, ref: ChunkRef, positions: npt.NDArray[np.int64] | None) -> pa.Table:
    """Return the result table of ``positions`` (None: the whole chunk), computed here from the source."""
    source, recipe, schema = _opened(work)
    rows = _read(source, ref, schema, None if positions is None else positions.tolist())
    where = np.arange(ref.first_row, ref.first_row + ref.n_rows, dtype=np.int64) if positions is None else positions
    return results.build_result(where, rows.reject, recipe.run(rows.table))


def _read(source: Source, ref: ChunkRef, schema: pa.Schema, positions: list[int] | None) -> ChunkRows:
    """Read rows; an error names the file, which a reader of byte ranges does not know."""
    try:
        return read_chunk(ref, schema, source.byte_source(ref.file), positions)
    except SourceError as error:
        source.check_unchanged(ref.file)
        name = source.files[ref.file].name
        if name in error.message:
            raise
        rest = error.message.removeprefix(f"file {ref.file}, ")
        raise type(error)(f"{name}: {rest}", hint=error.hint) from error


def compute_unit(work: Work, chunk: str, attempt: str) -> dict[str, Any]:
    """Compute a whole unit and put it among the accepted results as ``attempt``; return AcceptedInfo as a dict."""
    ref = ChunkRef.from_json(chunk)
    table = compute_rows(work, ref, None)
    source = _opened(work)[0]
    source.check_unchanged(ref.file)
    exchange = Exchange(Path(work.exchange_dir))
    with exchange.begin_accepted(attempt) as pending:
        with pending.kept.open("wb") as kept, pending.rejects.open("wb") as rejects:
            info = results.write_accepted(table, ref, source.files[ref.file].name, kept, rejects)
        try:
            exchange.commit_accepted(attempt, pending)
        except UploadRefusedError:
            _require_same(exchange, attempt, info)
    return asdict(info)


def _require_same(exchange: Exchange, attempt: str, info: results.AcceptedInfo) -> None:
    """A run killed after its files were named is repeated: the same work must have given the same files."""
    kept, rejects = exchange.accepted_paths(attempt)
    found = (file_blake3(kept), file_blake3(rejects) if rejects is not None else "")
    if found != (info.kept_blake3, info.rejects_blake3):
        raise JobError(
            f"{kept}: expected the same rows as were computed just now, found others from an earlier run",
            hint="kernels or readers have changed without a new version; remove that folder and run the job again",
        )


def _require_what_is_published(claim: Claim) -> None:
    paths = (claim.kept_path, claim.rejects_path)
    found = tuple("" if path is None else file_blake3(Path(path)) for path in paths)
    if found != claim.digests:
        raise JobError(f"{Path(claim.kept_path).name}: the accepted files are not those that intake reported")


def _check(work: Work, claim: Claim, ref: ChunkRef, positions: npt.NDArray[np.int64]) -> Check:
    expected = compute_rows(work, ref, positions)
    found = _claimed(claim, positions, expected.schema)
    row = _first_difference(expected, found)
    if row is None:
        return Check(len(positions), None, source_unchanged=True)
    difference = _describe(int(positions[row]), expected.slice(row, 1), found.slice(row, 1))
    return Check(len(positions), difference, source_unchanged(work, ref))


def source_unchanged(work: Work, ref: ChunkRef) -> bool:
    """Whether the chunk's file is still the one that was planned."""
    source, _, _ = _opened(work)
    try:
        source.check_unchanged(ref.file)
    except SourceChangedError:
        return False
    return True


def _claimed(claim: Claim, positions: npt.NDArray[np.int64], schema: pa.Schema) -> pa.Table:
    rejects = None if claim.rejects_path is None else Path(claim.rejects_path)
    return results.read_rows(Path(claim.kept_path), rejects, positions.tolist(), schema)


def _reject_positions(rejects_path: str | None) -> npt.NDArray[np.int64]:
    if rejects_path is None:
        return np.empty(0, dtype=np.int64)
    return np.asarray(pq.read_table(rejects_path, columns=[POSITION_COLUMN])[0].to_numpy())


def _first_difference(expected: pa.Table, found: pa.Table) -> int | None:
    """Return the index of the first row that differs, by bisection over digests of slices; None if none does."""
    if table_digest(expected) == table_digest(found):
        return None
    low, high = 0, expected.num_rows  # the first difference lies in [low, high)
    while high - low > 1:
        middle = (low + high) // 2
        same = table_digest(expected.slice(low, middle - low)) == table_digest(found.slice(low, middle - low))
        low, high = (middle, high) if same else (low, middle)
    return low


def _describe(position: int, expected: pa.Table, found: pa.Table) -> Difference:
    for name in expected.column_names:
        if table_digest(expected.select([name])) != table_digest(found.select([name])):
            return Difference(position, name, _cell(expected, name), _cell(found, name))
    return Difference(position, "(row)", "present", "missing")


def _cell(row: pa.Table, name: str) -> str:
    return printable(repr(row[name][0].as_py()))


@lru_cache(maxsize=4)
def _opened(work: Work) -> tuple[Source, Recipe, pa.Schema]:
    schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(work.schema)))
    options = dict(work.storage_options) or None
    source = Source.from_json(work.source, exchange_dir=Path(work.exchange_dir), storage_options=options)
    return source, Recipe.from_json(work.recipe), schema
