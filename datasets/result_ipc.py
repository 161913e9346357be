"""Result tables as bytes: how a volunteer encodes them and how intake decodes what a stranger sent.

What it does: one Arrow IPC stream, zstd level 1, batches of ``BATCH_ROWS`` rows (the last one shorter), written with
the given schema; decoding refuses everything else *before* anything is inflated.
What it does not do: check positions, reasons or values (``result_format.validate_result`` and audits do), or limit
the process: intake runs this under resource limits and without credentials, as a second wall.

How the inflated size is bounded. Arrow allocates, for each compressed buffer, the length that its 8-byte prefix claims
and inflates into exactly that space: a buffer that would inflate further is an error in the codec. So the sum of the
claims is a bound known before the first allocation. It is read here, from the messages' flatbuffers, by a reader
(``arrow_messages``) that checks every access; a counting memory pool would see the same numbers only as they are
allocated, and Arrow's Python interface has none with a limit.

Invariants: one schema message, then exactly the expected record batches, then the end mark, then nothing; no dictionary
batches; the number of buffers of every batch is that of the schema; total inflated bytes <= ``max_nbytes``; only
``ResultFault`` is raised for what the bytes contain.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import pyarrow as pa

from muster.datasets.arrow_messages import CONTINUATION, root_table
from muster.datasets.result_format import BATCH_ROWS, ResultFault, buffer_count

_MAX_METADATA_NBYTES = 1 << 20
_SCHEMA_HEADER, _BATCH_HEADER = 1, 3
_METADATA_V5 = 4
_BUFFER = struct.Struct("<qq")  # Schema.fbs: struct Buffer: offset, length
_END = struct.pack("<II", CONTINUATION, 0)


def encode_ipc(table: pa.Table, schema: pa.Schema | None = None) -> pa.Buffer:
    """Encode a result table; with ``schema``, the table must have it already.

    Raises:
        ValueError: the table's schema is not ``schema``.
    """
    if schema is not None and not table.schema.equals(schema):
        raise ValueError(f"result table has schema {table.schema}, expected {schema}")
    plain = table.schema.remove_metadata()
    options = pa.ipc.IpcWriteOptions(compression=pa.Codec("zstd", compression_level=1), use_threads=False)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, plain, options=options) as writer:
        for start in range(0, table.num_rows, BATCH_ROWS):
            piece = table.slice(start, BATCH_ROWS).combine_chunks()
            arrays = [_first(column) for column in piece.columns]
            writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=plain))
    return sink.getvalue()


def decode_ipc_bounded(
    buffer: bytes | memoryview | pa.Buffer, schema: pa.Schema, n_rows: int, max_nbytes: int
) -> pa.Table:
    """Decode an upload into a table of ``n_rows`` rows with exactly ``schema``, fully validated.

    Args:
        buffer: the uploaded bytes (may be a memory map).
        schema: the result schema, without metadata.
        n_rows: rows of the chunk.
        max_nbytes: most bytes that all buffers together may have after inflation.

    Raises:
        ResultFault: kinds ``too-big``, ``undecodable``, ``wrong-schema``, ``wrong-rows``.
    """
    data = buffer if isinstance(buffer, pa.Buffer) else pa.py_buffer(buffer)
    _check_stream(memoryview(data), schema, n_rows, max_nbytes)
    try:
        options = pa.ipc.IpcReadOptions(use_threads=False)
        with pa.ipc.open_stream(data, options=options) as reader:
            if not reader.schema.equals(schema, check_metadata=True):
                raise ResultFault("wrong-schema", f"expected {schema.names}, found {reader.schema}")
            table = reader.read_all()
        table.validate(full=True)
    except MemoryError:
        raise ResultFault("too-big", "decoding ran out of the memory that intake may use") from None
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, OverflowError) as err:
        raise ResultFault("undecodable", str(err)) from None
    if table.num_rows != n_rows:
        raise ResultFault("wrong-rows", f"expected {n_rows} rows, found {table.num_rows}")
    if table.nbytes > max_nbytes:
        raise ResultFault("too-big", f"{table.nbytes} bytes decoded, at most {max_nbytes} allowed")
    return table


def _first(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def _check_stream(data: memoryview, schema: pa.Schema, n_rows: int, max_nbytes: int) -> None:
    """Walk the messages of the stream; everything that can be known without decoding is checked here."""
    n_buffers = sum(_buffers_of(field) for field in schema)
    expected = [min(BATCH_ROWS, n_rows - start) for start in range(0, n_rows, BATCH_ROWS)]
    try:
        at, _ = _message(data, 0, _SCHEMA_HEADER)
        inflated = 0
        for n in expected:
            at, batch = _message(data, at, _BATCH_HEADER)
            if batch.length != n:
                raise ResultFault("wrong-rows", f"expected a batch of {n} rows, found {batch.length}")
            if len(batch.buffers) != n_buffers:
                text = f"expected {n_buffers} buffers in a batch, found {len(batch.buffers)}"
                raise ResultFault("wrong-schema", text)
            inflated += batch.inflated_nbytes()
            if inflated > max_nbytes:
                text = f"inflates to {inflated} bytes or more, at most {max_nbytes} allowed"
                raise ResultFault("too-big", text)
    except (struct.error, IndexError, ValueError) as err:
        raise ResultFault("undecodable", f"broken message: {err}") from None
    if len(data) - at != len(_END) or bytes(data[at:]) != _END:
        raise ResultFault(
            "wrong-rows", f"expected the end of the stream after {len(expected)} batches, found more or less"
        )


def _buffers_of(field: pa.Field) -> int:
    count = buffer_count(field.type)
    if count is None:
        raise ValueError(f"column {field.name!r}: type {field.type} is not allowed in a result")
    return count


@dataclass(frozen=True, slots=True)
class _Batch:
    """The parts of a record batch message that bound what decoding it allocates."""

    length: int
    buffers: list[tuple[int, ...]]  # (offset, length) in the body
    compressed: bool
    body: memoryview

    def inflated_nbytes(self) -> int:
        """Bytes that the buffers claim to have once inflated."""
        total = 0
        for offset, length in self.buffers:
            if offset < 0 or length < 0 or offset + length > len(self.body):
                raise ValueError("a buffer lies outside its message")
            if not self.compressed or length == 0:
                total += length
                continue
            claim = int(struct.unpack_from("<q", self.body[offset : offset + length])[0])
            if claim < -1:
                raise ValueError("a buffer claims a negative length")
            total += length - 8 if claim == -1 else claim
        return total


def _message(data: memoryview, at: int, expected: int) -> tuple[int, _Batch]:
    """Read the frame and header of the message at ``at``; returns where the next one begins."""
    mark, n_meta = struct.unpack_from("<II", data, at)
    if mark != CONTINUATION or n_meta == 0 or n_meta > _MAX_METADATA_NBYTES:
        raise ValueError("no message where one was expected")
    meta = data[at + 8 : at + 8 + n_meta]
    table = root_table(meta)
    header, n_body = table.scalar(1, "<B"), table.scalar(3, "<q")
    if table.scalar(0, "<h") != _METADATA_V5 or table.has(4):
        # Before V5, compression was announced in custom metadata, out of sight of the bound on inflated bytes.
        raise ValueError("only metadata version 5 without custom metadata is allowed")
    body_at = at + 8 + n_meta
    if header != expected or n_body < 0 or body_at + n_body > len(data):
        raise ValueError(f"header type {header} or body length {n_body} not allowed here")
    body = data[body_at : body_at + n_body]
    if expected == _SCHEMA_HEADER:
        return body_at + n_body, _Batch(0, [], False, body)
    batch = table.table(2)
    return body_at + n_body, _Batch(batch.scalar(0, "<q"), batch.structs(2, _BUFFER), batch.has(3), body)
