"""Arrow text columns as NumPy views of their own buffers: what compiled kernels read, without a copy.

It takes string and large_string arrays, sliced and chunked; dictionary-encoded strings and string views are cast. It
does NOT accept binary (its bytes need not be UTF-8) or any other type, and does NOT look at values under nulls.

Invariants: offsets are checked to be monotonic and inside the data, and the text to be valid UTF-8, before a compiled
loop (which checks no bounds) sees them; views are read-only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from muster.errors import KernelInputError

MAX_DOCUMENT_NBYTES = 1 << 28
"""Longest document that text kernels take (256 MiB): every counter then fits int32."""


@dataclass(frozen=True, slots=True)
class TextBuffers:
    """One contiguous run of rows: row ``i`` is ``data[offsets[i]:offsets[i + 1]]``.

    ``offsets`` is int64 of n + 1 values, ``data`` uint8, ``valid`` uint8 of n values (0 = null), or of none at all if
    no row is null.
    """

    offsets: npt.NDArray[np.int64]
    data: npt.NDArray[np.uint8]
    valid: npt.NDArray[np.uint8]

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self.offsets) - 1


_JOIN_UP_TO_NBYTES = 1 << 28  # well below the 2 GiB that 32-bit offsets reach


def text_chunks(table: pa.Table, column: str, kernel_id: str) -> Iterator[pa.Array]:
    """Yield the chunks of a text column as string or large_string arrays, in order; refuse any other type.

    Many small chunks (rows picked here and there) are joined first: a call has a cost of its own.
    """
    if table.column_names.count(column) != 1:
        found = ", ".join(map(repr, table.column_names[:20])) or "none"
        raise KernelInputError(f"kernel {kernel_id}: expected one column {column!r}, found columns: {found}")
    values = table.column(column)
    if values.num_chunks > 1 and values.nbytes <= _JOIN_UP_TO_NBYTES:
        values = pa.chunked_array([pa.concat_arrays([_as_string(c, column, kernel_id) for c in values.chunks])])
    for chunk in values.chunks:
        yield _as_string(chunk, column, kernel_id)


def _as_string(chunk: pa.Array, column: str, kernel_id: str) -> pa.Array:
    kind = chunk.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return chunk
    if pa.types.is_dictionary(kind) and (
        pa.types.is_string(kind.value_type) or pa.types.is_large_string(kind.value_type)
    ):
        return chunk.cast(pa.large_string())
    if pa.types.is_string_view(kind):
        return chunk.cast(pa.large_string())
    raise KernelInputError(f"kernel {kernel_id}: column {column!r} must hold text (string), found {kind}")


def text_buffers(chunk: pa.Array, column: str, kernel_id: str, first_row: int = 0) -> TextBuffers:
    """Return read-only views of a string or large_string array's buffers.

    ``first_row`` is the chunk's place in its table, for messages. Raises ``KernelInputError`` on broken offsets,
    invalid UTF-8 or a document longer than ``MAX_DOCUMENT_NBYTES``, naming the row.
    """
    try:
        chunk.validate(full=True)
    except pa.ArrowInvalid as error:
        row = first_row + _first_invalid(chunk)
        raise KernelInputError(f"kernel {kernel_id}: column {column!r}, row {row}: {str(error)[:200]}") from None
    validity, offsets_buffer, data_buffer = chunk.buffers()
    n_rows, start = len(chunk), chunk.offset
    if n_rows == 0:
        return TextBuffers(np.zeros(1, np.int64), np.zeros(0, np.uint8), np.zeros(0, np.uint8))
    width = np.int64 if pa.types.is_large_string(chunk.type) else np.int32
    offsets = np.frombuffer(offsets_buffer, width)[start : start + n_rows + 1].astype(np.int64)
    data = np.frombuffer(data_buffer, np.uint8) if data_buffer is not None else np.zeros(0, np.uint8)
    valid = np.zeros(0, np.uint8)
    if validity is not None and chunk.null_count:
        bits = np.frombuffer(validity, np.uint8)[start // 8 : (start + n_rows + 7) // 8]
        valid = np.unpackbits(bits, bitorder="little")[start % 8 : start % 8 + n_rows]
    lengths = np.diff(offsets)
    longest = int(lengths.max())
    if longest > MAX_DOCUMENT_NBYTES:
        row = first_row + int(lengths.argmax())
        raise KernelInputError(
            f"kernel {kernel_id}: column {column!r}, row {row}: {longest} bytes, at most {MAX_DOCUMENT_NBYTES} allowed"
        )
    for view in (offsets, data, valid):
        view.flags.writeable = False
    return TextBuffers(offsets, data, valid)


def _first_invalid(chunk: pa.Array) -> int:
    """Find the first row at which validation fails, by bisection over prefixes."""
    low, high = 0, len(chunk)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            chunk.slice(low, middle - low).validate(full=True)
        except pa.ArrowInvalid:
            high = middle
        else:
            low = middle
    return low


def flat_array(values: npt.NDArray[np.generic], kind: pa.DataType, validity: pa.Buffer | None) -> pa.Array:
    """Wrap a contiguous NumPy vector as an Arrow array of ``kind`` without a copy."""
    return pa.Array.from_buffers(kind, len(values), [validity, pa.py_buffer(values)])


def validity_buffer(valid: npt.NDArray[np.uint8]) -> pa.Buffer | None:
    """Pack one 0/1 byte a row into Arrow's validity bits; None if every row is valid."""
    if valid.all():
        return None
    return pa.py_buffer(np.packbits(valid, bitorder="little"))
