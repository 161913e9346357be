"""The few fields of Arrow IPC metadata that planning needs: where messages lie and how many rows a batch has.

A small reader of FlatBuffers tables (flatbuffers.dev, "FlatBuffers internals") for the fields of ``File.fbs`` and
``Message.fbs`` (arrow.apache.org/docs/format/Columnar.html); pyarrow decodes the messages themselves but does not
say where they lie. It reads no data.

Invariants: every access is checked against the buffer; broken metadata raises ``ValueError``.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

# Message.fbs: union MessageHeader
_RECORD_BATCH = 3
_BLOCK = struct.Struct("<qi4xq")  # File.fbs: struct Block: offset, metaDataLength, padding, bodyLength
_CONTINUATION = 0xFFFFFFFF
MAX_BLOCKS = 1 << 24


@dataclass(frozen=True, slots=True)
class Block:
    """A message of a file: the bytes ``[offset, offset + nbytes)``, of which the first ``meta_nbytes`` are metadata."""

    offset: int
    meta_nbytes: int
    nbytes: int


class _Table:
    """A FlatBuffers table at ``at`` in ``data``."""

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

    def scalar(self, number: int, kind: str) -> int:
        at = self._field(number)
        return 0 if at is None else _int(self._data, at, kind)

    def table(self, number: int) -> _Table:
        at = self._field(number)
        if at is None:
            raise ValueError(f"field {number} is missing")
        return _Table(self._data, at + _int(self._data, at, "<I"))

    def blocks(self, number: int) -> list[Block]:
        at = self._field(number)
        if at is None:
            return []
        start = at + _int(self._data, at, "<I")
        count = _int(self._data, start, "<I")
        if count > MAX_BLOCKS or start + 4 + count * _BLOCK.size > len(self._data):
            raise ValueError(f"{count} blocks do not fit")
        body = self._data[start + 4 : start + 4 + count * _BLOCK.size]
        return [Block(offset, meta, meta + size) for offset, meta, size in _BLOCK.iter_unpack(body)]


def _int(data: memoryview, at: int, kind: str) -> int:
    size = struct.calcsize(kind)
    if at < 0 or at + size > len(data):
        raise ValueError(f"offset {at} lies outside {len(data)} bytes")
    value: int = struct.unpack_from(kind, data, at)[0]
    return value


def footer_blocks(footer: bytes) -> tuple[list[Block], list[Block]]:
    """Return the dictionary and the record batch blocks of a file's footer (without length and magic)."""
    data = memoryview(footer)
    table = _Table(data, _int(data, 0, "<I"))
    return table.blocks(2), table.blocks(3)


def batch_rows(metadata: bytes) -> int:
    """Return the row count of a record batch message; ``metadata`` begins with its continuation marker."""
    data = memoryview(metadata)
    body = data[8:] if _int(data, 0, "<I") == _CONTINUATION else data[4:]  # before 0.15 there was no marker
    message = _Table(body, _int(body, 0, "<I"))
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
    return 8 + _int(data, 4, "<I") if marker == _CONTINUATION else 4 + marker
