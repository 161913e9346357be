"""The few fields of Arrow IPC metadata that are needed before pyarrow decodes a message.

A small reader of FlatBuffers tables (flatbuffers.dev, "FlatBuffers internals") for the fields of ``File.fbs`` and
``Message.fbs`` (arrow.apache.org/docs/format/Columnar.html). Planning asks where messages lie and how many rows a batch
has, ``result_ipc`` what a stranger's message would make the decoder allocate; pyarrow tells neither. It reads no data.

Invariants: every access is checked against the buffer; broken metadata raises ``ValueError``.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

# Message.fbs: union MessageHeader
_RECORD_BATCH = 3
_BLOCK = struct.Struct("<qi4xq")  # File.fbs: struct Block: offset, metaDataLength, padding, bodyLength
CONTINUATION = 0xFFFFFFFF
MAX_STRUCTS = 1 << 24


@dataclass(frozen=True, slots=True)
class Block:
    """A message of a file: the bytes ``[offset, offset + nbytes)``, of which the first ``meta_nbytes`` are metadata."""

    offset: int
    meta_nbytes: int
    nbytes: int


class FlatTable:
    """A FlatBuffers table at ``at`` in ``data``; fields go by their number in the schema."""

    def __init__(self, data: memoryview, at: int) -> None:
        self._data = data
        self._at = at
        self._vtable = at - _int(data, at, "<i")
        self._n_vtable = _int(data, self._vtable, "<H")

    def _field(self, number: int) -> int | None:
        slot = 4 + 2 * number
        if slot + 2 > self._n_vtable:
            return None
        offset = _int(self._data, self._vtable + slot, "<H")
        return self._at + offset if offset else None

    def has(self, number: int) -> bool:
        """Say whether a field is there."""
        return self._field(number) is not None

    def scalar(self, number: int, kind: str) -> int:
        """Return an integer of the ``struct`` format ``kind``; FlatBuffers leaves out fields that are 0."""
        at = self._field(number)
        return 0 if at is None else _int(self._data, at, kind)

    def table(self, number: int) -> FlatTable:
        """Return a table that must be there."""
        at = self._field(number)
        if at is None:
            raise ValueError(f"field {number} is missing")
        return FlatTable(self._data, at + _int(self._data, at, "<I"))

    def structs(self, number: int, layout: struct.Struct) -> list[tuple[int, ...]]:
        """Return a vector of structs of integers, empty if it is not there."""
        at = self._field(number)
        if at is None:
            return []
        start = at + _int(self._data, at, "<I")
        count = _int(self._data, start, "<I")
        if count > MAX_STRUCTS or start + 4 + count * layout.size > len(self._data):
            raise ValueError(f"a vector of {count} structs does not fit")
        return list(layout.iter_unpack(self._data[start + 4 : start + 4 + count * layout.size]))


def root_table(data: memoryview) -> FlatTable:
    """Return the table that a FlatBuffers message begins with."""
    return FlatTable(data, _int(data, 0, "<I"))


def _int(data: memoryview, at: int, kind: str) -> int:
    size = struct.calcsize(kind)
    if at < 0 or at + size > len(data):
        raise ValueError(f"offset {at} lies outside {len(data)} bytes")
    value: int = struct.unpack_from(kind, data, at)[0]
    return value


def footer_blocks(footer: bytes) -> tuple[list[Block], list[Block]]:
    """Return the dictionary and the record batch blocks of a file's footer (without length and magic)."""
    table = root_table(memoryview(footer))
    dictionaries, batches = (table.structs(number, _BLOCK) for number in (2, 3))
    return [_block(*fields) for fields in dictionaries], [_block(*fields) for fields in batches]


def _block(offset: int, meta_nbytes: int, body_nbytes: int) -> Block:
    return Block(offset, meta_nbytes, meta_nbytes + body_nbytes)


def batch_rows(metadata: bytes) -> int:
    """Return the row count of a record batch message; ``metadata`` begins with its continuation marker."""
    data = memoryview(metadata)
    body = data[8:] if _int(data, 0, "<I") == CONTINUATION else data[4:]  # before 0.15 there was no marker
    message = root_table(body)
    if message.scalar(1, "<B") != _RECORD_BATCH:
        raise ValueError("expected a record batch")
    rows = message.table(2).scalar(0, "<q")
    if rows < 0:
        raise ValueError(f"{rows} rows")
    return rows


def message_nbytes(head: bytes) -> int:
    """Return the size of a schema message, whose first 8 bytes are ``head``: marker, length, metadata (no body)."""
    data = memoryview(head)
    marker = _int(data, 0, "<I")
    return 8 + _int(data, 4, "<I") if marker == CONTINUATION else 4 + marker
