"""Staging: what can't be cut by byte range is decoded once at home into an Arrow IPC blob that can.

Compressed JSON lines become a column ``line`` (raw bytes, so that bad lines reject on the volunteer as they would
from the plain file); Arrow streams become the same batches with a footer. It parses no values.

Invariants: streaming, memory bounded by one batch; row k of the blob is position k of the origin; blank lines after
the last row are dropped; a line longer than the reader accepts is cut just above that limit, where it is rejected all
the same; a staged blob is found again by its origin's fingerprint.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from muster.datasets import arrow_ipc
from muster.datasets.blobs import blob_path, new_blob
from muster.datasets.chunks import ChunkRef
from muster.datasets.cutting import Target, cut
from muster.datasets.json_rows import MAX_LINE_NBYTES, JsonRows
from muster.datasets.jsonl import INFER_ROWS, SPACE, infer_lines, json_columns
from muster.datasets.origins import Origin
from muster.datasets.reading import ByteSource, ChunkRows
from muster.datasets.schemas import conform
from muster.errors import SourceError, printable

if TYPE_CHECKING:
    from muster.datasets.sources import SourceFile

LINES = pa.schema([pa.field("line", pa.binary())])
_BATCH_NBYTES = 1 << 20
_BATCH_ROWS = 1 << 16
_READ_NBYTES = 1 << 20
_INFER = Target(None, 16 << 20)  # bounds what is decoded to guess types, however long the lines are


def stage_lines(file: SourceFile, exchange_dir: Path, origin: Origin) -> SourceFile:
    """Stage JSON lines, gzip, zstd or plain; truncated or damaged input raises ``SourceError`` with the row reached."""
    return _stage(file, exchange_dir, lambda out: _write_lines(file, origin, out))


def stage_stream(file: SourceFile, exchange_dir: Path, origin: Origin) -> SourceFile:
    """Stage an Arrow stream (or file); truncated or damaged input raises ``SourceError`` with the row reached."""
    return _stage(file, exchange_dir, lambda out: _write_stream(file, origin, out))


def _stage(file: SourceFile, exchange_dir: Path, write: Callable[[IO[bytes]], int]) -> SourceFile:
    """Return the file with its blob, made now or found by the origin's fingerprint."""
    kept = exchange_dir / "staged" / f"{file.fingerprint.replace(':', '-')}-1.json"
    if kept.exists():
        blob, blob_nbytes, plan_nbytes = orjson.loads(kept.read_bytes())
        path = blob_path(exchange_dir, blob)
        if path.exists() and path.stat().st_size == blob_nbytes:
            return replace(file, blob=blob, blob_nbytes=blob_nbytes, plan_nbytes=plan_nbytes)
    with new_blob(exchange_dir) as new:
        plan_nbytes = write(new.file)
    kept.parent.mkdir(parents=True, exist_ok=True)
    aside = kept.with_suffix(f".{new.digest[:16]}")
    aside.write_bytes(orjson.dumps([new.digest, new.nbytes, plan_nbytes]))
    aside.replace(kept)
    return replace(file, blob=new.digest, blob_nbytes=new.nbytes, plan_nbytes=plan_nbytes)


def _write_lines(file: SourceFile, origin: Origin, out: IO[bytes]) -> int:
    """Write the lines as bounded batches; return their bytes."""
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    n_rows = nbytes = held = n_blank = 0
    batch: list[bytes] = []
    with origin.open(file.path) as raw, pa.ipc.new_file(out, LINES, options=options) as writer:
        try:
            for line in _lines(_decoded(file.name, raw)):
                if not line.strip(SPACE):
                    n_blank += 1  # written only if a row follows
                    continue
                for _ in range(n_blank):
                    batch.append(b"")
                    if len(batch) >= _BATCH_ROWS:
                        n_rows += _flush(writer, batch)
                n_blank = 0
                batch.append(line)
                held += len(line) + 1
                if held >= _BATCH_NBYTES or len(batch) >= _BATCH_ROWS:
                    n_rows, nbytes, held = n_rows + _flush(writer, batch), nbytes + held, 0
        except (EOFError, OSError, zlib.error, pa.ArrowException) as error:
            reached = n_rows + len(batch) + n_blank
            raise SourceError(
                f"{file.name}: row {reached}: the compressed file is truncated or damaged: {printable(str(error))}"
            ) from None
        _flush(writer, batch)
    return max(1, nbytes + held)


def _flush(writer: Any, batch: list[bytes]) -> int:
    n_rows = len(batch)
    if n_rows:
        writer.write_batch(pa.record_batch([pa.array(batch, pa.binary())], schema=LINES))
    batch.clear()
    return n_rows


def _decoded(name: str, raw: IO[bytes]) -> Any:
    if name.lower().endswith(".gz"):
        return gzip.GzipFile(fileobj=raw, mode="rb")
    if name.lower().endswith(".zst"):
        return pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd")
    return raw


def _lines(stream: Any) -> Iterator[bytes]:
    """Split a stream into lines; of an over-long one only its first bytes are kept."""
    # read1 hands out what was decoded before damage is met, so that the error can name the row
    read = getattr(stream, "read1", stream.read)
    rest: list[bytes] = []
    size = 0
    while block := read(_READ_NBYTES):
        first, *others = block.split(b"\n")
        if size <= MAX_LINE_NBYTES:
            rest.append(first)
            size += len(first)
        if others:
            yield b"".join(rest)[: MAX_LINE_NBYTES + 1]
            yield from others[:-1]
            rest, size = [others[-1]], len(others[-1])
    if size:
        yield b"".join(rest)[: MAX_LINE_NBYTES + 1]


def _write_stream(file: SourceFile, origin: Origin, out: IO[bytes]) -> int:
    """Write the stream's batches, big ones in slices; return 0: the planner goes by stored sizes."""
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    n_rows = 0
    with origin.open(file.path) as raw:
        try:
            head = raw.read(len(arrow_ipc.MAGIC))
            raw.seek(0)
            opened = pa.ipc.open_file(raw) if head == arrow_ipc.MAGIC else pa.ipc.open_stream(raw)
            with (
                opened as reader,
                pa.ipc.new_file(out, _without_dictionaries(reader.schema), options=options) as writer,
            ):
                for batch in _batches(reader):
                    columns = [c.dictionary_decode() if pa.types.is_dictionary(c.type) else c for c in batch.columns]
                    table = pa.table(columns, schema=_without_dictionaries(batch.schema))
                    writer.write_table(table, max_chunksize=_rows_for(batch))
                    n_rows += batch.num_rows
        except (EOFError, OSError, pa.ArrowException) as error:
            raise SourceError(
                f"{file.name}: row {n_rows}: the Arrow stream is truncated or damaged: {printable(str(error))}"
            ) from None
    return 0


def _batches(reader: Any) -> Iterator[pa.RecordBatch]:
    if hasattr(reader, "get_batch"):
        yield from (reader.get_batch(k) for k in range(reader.num_record_batches))
    else:
        yield from reader


def _without_dictionaries(schema: pa.Schema) -> pa.Schema:
    """Batches of a stream may replace a dictionary, those of a file may not."""
    fields = [pa.field(f.name, f.type.value_type if pa.types.is_dictionary(f.type) else f.type) for f in schema]
    return pa.schema(fields)


def _rows_for(batch: pa.RecordBatch) -> int:
    """Rows for each batch of about ``_BATCH_NBYTES``."""
    return int(max(1, min(_BATCH_ROWS, batch.num_rows * _BATCH_NBYTES // max(1, batch.nbytes))))


def inspect(file: SourceFile, source: ByteSource) -> tuple[pa.Schema, dict[str, list[str]]]:
    """Return the stream's schema, or guess it from the first lines (option ``json``: kept as JSON text)."""
    schema, _ = arrow_ipc.inspect(file, source)
    if not file.plan_nbytes:
        return schema, {}
    lines: list[bytes] = []
    layout = arrow_ipc.read_layout(source, file.blob_nbytes, file.name)
    for piece in cut(layout.rows, [block.nbytes for block in layout.batches], _INFER, INFER_ROWS):
        part = ChunkRef(
            index=0, file=0, format="staged", fingerprint=file.blob, origin_nbytes=file.blob_nbytes,
            first_row=piece.first_row, n_rows=piece.n_rows, columns=("line",),
            **arrow_ipc.ranges_and_detail(layout, piece, file.name)._asdict(),
        )  # fmt: skip
        lines += arrow_ipc.read_batches(part, source, None, ["line"]).column(0).to_pylist()
        break
    return infer_lines(file.name, lines)


def plan(
    file: SourceFile,
    source: ByteSource,
    columns: Sequence[str],
    target: Target,
    limit: int | None,
    options: dict[str, list[str]],
) -> Iterator[ChunkRef]:
    """Yield references into the blob; sizes of staged lines are their plain bytes, spread evenly over the blob."""
    layout = arrow_ipc.read_layout(source, file.blob_nbytes, file.name)
    scale = max(1.0, file.plan_nbytes / file.blob_nbytes)
    sizes = [int(block.nbytes * scale) for block in layout.batches]
    lines: dict[str, int | str | list[int] | list[str]] = {}
    if file.plan_nbytes:
        lines = {"lines": 1, "json": json_columns(columns, options)}
    for piece in cut(layout.rows, sizes, target, limit):
        found = arrow_ipc.ranges_and_detail(layout, piece, file.name)
        yield ChunkRef(
            index=0,
            file=file.index,
            format="staged",
            fingerprint=file.blob,
            origin_nbytes=file.blob_nbytes,
            first_row=piece.first_row,
            n_rows=piece.n_rows,
            ranges=found.ranges,
            columns=tuple(columns),
            detail={**found.detail, **lines},
        )


def recolumn(
    ref: ChunkRef,
    source: ByteSource,  # noqa: ARG001 - the signature of every format
    columns: Sequence[str],
    options: dict[str, list[str]],
) -> ChunkRef:
    """Return a reference to other columns of the same rows."""
    json = {"json": json_columns(columns, options)} if "lines" in ref.detail else {}
    return replace(ref, columns=tuple(columns), detail={**ref.detail, **json})


def read(ref: ChunkRef, schema: pa.Schema, source: ByteSource, positions: npt.NDArray[np.int64] | None) -> ChunkRows:
    """Decode the wanted rows: parse staged lines, or take staged columns."""
    where = ref.place
    if "lines" not in ref.detail:
        return conform(arrow_ipc.read_batches(ref, source, positions, schema.names), schema, where)
    lines = arrow_ipc.read_batches(ref, source, positions, ["line"])
    if lines.schema != LINES:
        raise SourceError(f"{where}: expected a column of lines, found {lines.schema}")
    lines.validate(full=True)
    first = ref.first_row if positions is None or not len(positions) else int(positions[0])
    rows = JsonRows(schema, cast("list[str]", ref.detail.get("json", [])))
    rows.add(lines.column(0).to_pylist(), at_start=first == 0)
    return rows.finish()
