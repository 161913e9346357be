"""A folder of text files: one row for each file, with columns ``path``, ``text`` and ``nbytes``.

References point into the virtual file of ``file_lists.py``. A reader takes its slice of the list, cuts the contents
apart and compares each with its fingerprint, so content that changed is found even if size and time did not.

It does not list or hash folders. Invariants: a row's position is its place in the list; a file that is not UTF-8, or
is bigger than 256 MiB, is a reject; planning keeps 16 bytes for each file, never Python objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from blake3 import blake3

from muster.datasets import arrow_ipc
from muster.datasets.chunks import MAX_INPUT_NBYTES, ChunkRef, coalesce
from muster.datasets.cutting import Cut, Target
from muster.datasets.reading import ByteSource, ChunkRows, reject_array
from muster.datasets.schemas import conform
from muster.errors import SourceChangedError, SourceError, printable

if TYPE_CHECKING:
    from muster.datasets.sources import SourceFile

SCHEMA = pa.schema([("path", pa.string()), ("text", pa.string()), ("nbytes", pa.int64())])
BATCH_ROWS = 4096  # files in one batch of the list
MAX_TEXT_NBYTES = 256 << 20
_ROW_NBYTES = 128  # what a file weighs besides its text, so that a chunk of empty files ends too
_LIST_COLUMNS = ("path", "nbytes", "fingerprint")


def inspect(file: SourceFile, source: ByteSource) -> tuple[pa.Schema, dict[str, list[str]]]:  # noqa: ARG001
    """Return the schema that every folder of text files has."""
    return SCHEMA, {}


def served_nbytes(sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return how many bytes of each file the virtual file holds: none of those that are too big."""
    return np.where(sizes > MAX_TEXT_NBYTES, 0, sizes)


def plan(
    file: SourceFile,
    source: ByteSource,
    columns: Sequence[str],
    target: Target,
    limit: int | None,
    options: dict[str, list[str]],  # noqa: ARG001 - the signature of every format
) -> Iterator[ChunkRef]:
    """Yield references to consecutive files, about ``target.nbytes`` of text or exactly ``target.rows`` files each."""
    from muster.datasets.file_lists import FolderBytes

    if not isinstance(source, FolderBytes):
        raise SourceError(f"{file.name}: expected a folder of files")
    starts = source.files.starts
    layout = arrow_ipc.read_layout(source, file.blob_nbytes, file.name)
    total = len(starts) - 1 if limit is None else min(limit, len(starts) - 1)
    weights = starts + _ROW_NBYTES * np.arange(len(starts))
    first = 0
    while first < total:
        last = first + target.rows if target.rows else int(np.searchsorted(weights, weights[first] + target.nbytes))
        last = min(max(last, first + 1), total)
        n_batches = -(-last // BATCH_ROWS)
        piece = Cut(first, last - first, first // BATCH_ROWS, n_batches, first % BATCH_ROWS)
        found = arrow_ipc.ranges_and_detail(layout, piece, file.name)
        content = file.blob_nbytes + int(starts[first])
        ref = ChunkRef(
            index=0,
            file=file.index,
            format="text",
            fingerprint=file.fingerprint,
            origin_nbytes=file.blob_nbytes + int(starts[-1]),
            first_row=first,
            n_rows=last - first,
            ranges=found.ranges,
            columns=("path",),
            detail={**found.detail, "content": content, "content_nbytes": int(starts[last] - starts[first])},
        )
        yield recolumn(ref, source, columns, {})
        first = last


def recolumn(
    ref: ChunkRef,
    source: ByteSource,  # noqa: ARG001 - the signature of every format
    columns: Sequence[str],
    options: dict[str, list[str]],  # noqa: ARG001 - the signature of every format
) -> ChunkRef:
    """Return a reference to other columns of the same files; only ``text`` needs their contents."""
    parts = cast("list[int]", ref.detail["parts"])
    ranges = list(zip(parts[::2], parts[1::2], strict=True))
    if "text" in columns:
        ranges.append((_int(ref, "content"), _int(ref, "content_nbytes")))
    joined = coalesce(ranges)
    if sum(length for _, length in joined) > MAX_INPUT_NBYTES:
        raise SourceError(
            f"{ref.place}: more than {MAX_INPUT_NBYTES >> 30} GiB in one chunk",
            hint="ask for fewer rows per chunk",
        )
    return replace(ref, columns=tuple(columns), ranges=joined)


def read(ref: ChunkRef, schema: pa.Schema, source: ByteSource, positions: npt.NDArray[np.int64] | None) -> ChunkRows:
    """Read the list and, if ``text`` is wanted, the contents of the wanted files only."""
    where = ref.place
    listed = arrow_ipc.read_batches(ref, source, None, _LIST_COLUMNS)
    if listed.schema.names != list(_LIST_COLUMNS) or listed.column("nbytes").null_count:
        raise SourceError(f"{where}: expected a file list, found columns {printable(str(listed.schema.names))}")
    listed.validate(full=True)
    sizes = listed.column("nbytes").to_numpy()
    served = served_nbytes(sizes)
    if (sizes < 0).any() or int(served.sum()) != _int(ref, "content_nbytes"):
        raise SourceChangedError(f"{where}: the file list does not hold the sizes that were planned")
    starts = _int(ref, "content") + np.cumsum(served) - served
    wanted = np.arange(ref.n_rows) if positions is None else positions - ref.first_row
    listed = listed.take(pa.array(wanted, pa.int64()))
    columns = {"path": listed.column("path"), "nbytes": listed.column("nbytes")}
    reasons: dict[int, str] = {}
    if "text" in schema.names:
        texts = _contents(source, starts[wanted].tolist(), served[wanted].tolist(), listed)
        columns["text"] = pa.chunked_array([pa.array(texts, pa.large_binary())])
        reasons = {
            row: f"{size} bytes, larger than {MAX_TEXT_NBYTES >> 20} MiB"
            for row, size in enumerate(sizes[wanted].tolist())
            if size > MAX_TEXT_NBYTES
        }
    rows = conform(pa.table(columns), schema, where, reasons)
    return rows if rows.reject.null_count == len(rows.reject) else _naming_files(rows, listed.column("path"))


def _naming_files(rows: ChunkRows, paths: pa.ChunkedArray) -> ChunkRows:
    """Put the file's name before each reason: a place in the list means nothing to whoever has to mend it."""
    named = {
        row: f"{_name(paths[row].as_py())}: {reason}"
        for row, reason in enumerate(rows.reject.to_pylist())
        if reason is not None
    }
    return ChunkRows(rows.table, reject_array(len(rows.reject), named))


def _name(path: bytes) -> str:
    """Return a path in at most 100 printable characters; its end says more than its beginning."""
    name = path.decode("utf-8", "replace")
    return printable(name if len(name) <= 100 else f"…{name[-99:]}")


def _contents(source: ByteSource, starts: list[int], sizes: list[int], listed: pa.Table) -> list[bytes]:
    """Return each file's bytes, compared with its fingerprint where that is a hash of the content."""
    out = []
    names, fingerprints = listed.column("path").to_pylist(), listed.column("fingerprint").to_pylist()
    full = listed.column("nbytes").to_pylist()
    for row, (start, size) in enumerate(zip(starts, sizes, strict=True)):
        data = bytes(source.read(start, size)) if size else b""
        hashed = size == full[row] and not fingerprints[row].startswith("etag:")
        if hashed and blake3(data).hexdigest() != fingerprints[row]:
            name = printable(names[row].decode("utf-8", "replace"))
            raise SourceChangedError(f"{name}: the source changed under the running job: other content than was listed")
        out.append(data)
    return out


def _int(ref: ChunkRef, key: str) -> int:
    return int(cast("int", ref.detail[key]))
