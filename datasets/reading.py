"""Read the rows of a chunk from a source of bytes; runs on volunteers and referees alike.

It does no network or file access of its own (a ``ByteSource`` is handed in) and never decides what a reject means.

Invariants: a row's values and reject reason depend on that row's own bytes and the frozen schema alone, never on its
neighbours, the batch it is read in or the library versions; so a subset read equals the same rows of a full read.
Nothing outside the reference's ``ranges`` is read.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from muster.datasets import formats
from muster.datasets.chunks import ChunkRef
from muster.errors import SourceError, printable

MAX_REASON_CHARS = 200


class ByteSource(Protocol):
    """Random access to the bytes that a reference's ranges point into."""

    def read(self, offset: int, length: int) -> bytes | memoryview:
        """Return exactly ``length`` bytes at ``offset``; raise ``SourceError`` if that is impossible."""


class RangeBuffer:
    """A ``ByteSource`` over fetched ranges; touching pieces may be read across."""

    def __init__(self, pieces: Mapping[tuple[int, int], bytes | memoryview]) -> None:
        self._offsets: list[int] = []
        self._data: list[memoryview] = []
        for (offset, length), data in sorted(pieces.items(), key=lambda item: item[0]):
            if len(data) != length:
                raise SourceError(f"range at byte {offset}: expected {length} bytes, found {len(data)}")
            self._offsets.append(offset)
            self._data.append(memoryview(data))

    def read(self, offset: int, length: int) -> bytes | memoryview:
        """Return ``length`` bytes at ``offset``; ``SourceError`` if any of them was not fetched."""
        parts: list[memoryview] = []
        at, end = offset, offset + length
        while at < end:
            k = bisect_right(self._offsets, at) - 1
            start = at - self._offsets[k] if k >= 0 else 0
            if k < 0 or start >= len(self._data[k]):
                raise SourceError(f"bytes [{offset}, {end}): byte {at} is outside the fetched ranges")
            piece = self._data[k][start : start + end - at]
            parts.append(piece)
            at += len(piece)
        return parts[0] if len(parts) == 1 else b"".join(parts)


@dataclass(frozen=True, slots=True)
class ChunkRows:
    """The rows that were read, in position order.

    ``table``: one column for each of ``ref.columns``, of the frozen type, bad rows all null; ``reject``: string,
    null where the row is fine, else why it is not (printable, at most 200 characters).
    """

    table: pa.Table
    reject: pa.Array


def read_chunk(
    ref: ChunkRef, schema: pa.Schema, source: ByteSource, positions: Sequence[int] | None = None
) -> ChunkRows:
    """Decode the rows of ``ref`` (all, or those at the absolute ``positions``, ascending) with the frozen ``schema``.

    Raises ``SourceError`` if the bytes are not what the plan saw. ``schema`` may hold more columns than ``ref``.
    """
    missing = [name for name in ref.columns if schema.get_field_index(name) < 0]
    if missing:
        raise SourceError(f"chunk {ref.index}: column {missing[0]}: not in the frozen schema")
    wanted = pa.schema([schema.field(name) for name in ref.columns])
    rows = None if positions is None else _checked_positions(ref, positions)
    try:
        return formats.load(ref.format).read(ref, wanted, source, rows)
    except (pa.ArrowException, OSError, EOFError, ValueError, LookupError, OverflowError) as error:
        # what Arrow and the message readers raise on damaged bytes
        raise SourceError(f"{ref.place}: can't be decoded: {printable(str(error))}") from error


def _checked_positions(ref: ChunkRef, positions: Sequence[int]) -> npt.NDArray[np.int64]:
    rows = np.asarray(positions, dtype=np.int64).reshape(-1)
    inside = len(rows) == 0 or (rows[0] >= ref.first_row and rows[-1] < ref.first_row + ref.n_rows)
    if not inside or (np.diff(rows) <= 0).any():
        last = ref.first_row + ref.n_rows - 1
        raise SourceError(f"positions: expected ascending numbers in [{ref.first_row}, {last}]")
    return rows


def reject_array(n_rows: int, reasons: Mapping[int, str]) -> pa.Array:
    """Return the ``reject`` column for reasons by row index."""
    if not reasons:
        return pa.nulls(n_rows, pa.string())
    column: list[str | None] = [None] * n_rows
    for row, reason in reasons.items():
        column[row] = printable(reason, MAX_REASON_CHARS)
    return pa.array(column, pa.string())


def rows_of(table: pa.Table, reasons: Mapping[int, str]) -> ChunkRows:
    """Blank the rejected rows of ``table`` and add the ``reject`` column; pieces are joined (kernels pay for each)."""
    table = table.combine_chunks()
    if reasons:
        take = np.arange(table.num_rows, dtype=np.int64)
        bad = np.zeros(table.num_rows, dtype=np.bool_)
        bad[list(reasons)] = True
        table = table.take(pa.array(take, mask=bad))
    return ChunkRows(table, reject_array(table.num_rows, reasons))
