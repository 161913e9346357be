"""Chunk references: which rows of which file, and exactly which bytes of it must be fetched to read them.

A ``ChunkRef`` names rows; it never holds data, paths or credentials, so it can be sent to a volunteer. It does not
know how any format is decoded (``reading.py`` and the format modules do).

Invariants: ``ranges`` are sorted, disjoint and inside the origin; positions are
``first_row … first_row + n_rows - 1``; equal references have equal JSON. ``from_json`` accepts only what ``to_json``
writes, within the bounds below, because volunteers parse these from the network.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

import orjson
import pyarrow as pa
from blake3 import blake3

from muster.errors import SourceError

Format = Literal["parquet", "arrow", "jsonl", "text", "staged"]
Detail = Mapping[str, int | str | list[int] | list[str]]

MAX_JSON_NBYTES = 1 << 20
MAX_INPUT_NBYTES = 2 << 30  # one chunk is held in a volunteer's memory
MAX_ROWS = 1 << 26
MAX_RANGES = 8192
MAX_COLUMNS = 4096
MAX_OFFSET = 1 << 60

# What each format may say in ``detail``; anything else is refused on the wire.
_DETAIL: Mapping[str, Mapping[str, type]] = {
    "parquet": {"footer": int, "row_groups": list, "skip": int},
    "arrow": {"parts": list, "rows": list, "skip": int},
    "jsonl": {"json": list},
    "text": {"parts": list, "rows": list, "skip": int, "content": int, "content_nbytes": int},
    "staged": {"parts": list, "rows": list, "skip": int, "lines": int, "json": list},
}


@dataclass(frozen=True, slots=True)
class ChunkRef:
    """Rows ``[first_row, first_row + n_rows)`` of file ``file``, and the byte ranges that hold their ``columns``.

    ``index``: the chunk's place in the plan; ``fingerprint`` and ``origin_nbytes`` describe the bytes that ``ranges``
    (offset, length) point into: the file, its staged blob, or a folder's file list followed by the files.
    ``detail``: what the format's reader needs besides, e.g. row groups.
    """

    index: int
    file: int
    format: Format
    fingerprint: str
    origin_nbytes: int
    first_row: int
    n_rows: int
    ranges: tuple[tuple[int, int], ...]
    columns: tuple[str, ...]
    detail: Detail = field(default_factory=dict)

    @property
    def input_nbytes(self) -> int:
        """Bytes that a reader fetches."""
        return sum(length for _, length in self.ranges)

    @property
    def place(self) -> str:
        """File and row range, for an error."""
        return f"file {self.file}, rows {self.first_row} to {self.first_row + self.n_rows - 1}"

    @property
    def digest(self) -> str:
        """BLAKE3 (hex) of everything but ``index``."""
        return blake3(_encode(self._identity())).hexdigest()

    def _identity(self) -> dict[str, Any]:
        return {
            "file": self.file,
            "format": self.format,
            "fingerprint": self.fingerprint,
            "origin_nbytes": self.origin_nbytes,
            "first_row": self.first_row,
            "n_rows": self.n_rows,
            "ranges": [list(pair) for pair in self.ranges],
            "columns": list(self.columns),
            "detail": dict(self.detail),
        }

    def to_json(self) -> str:
        """Return the canonical JSON text."""
        return _encode({"v": 1, "index": self.index, **self._identity()}).decode()

    @staticmethod
    def from_json(text: str) -> ChunkRef:
        """Parse what ``to_json`` wrote; anything else raises ``SourceError``."""
        if len(text) > MAX_JSON_NBYTES:
            raise SourceError(f"chunk reference: expected at most {MAX_JSON_NBYTES} characters, found {len(text)}")
        try:
            raw = orjson.loads(text)
        except ValueError:
            raise SourceError("chunk reference: expected JSON, found something else") from None
        return _checked(raw)


def chunk_fingerprint(ref: ChunkRef, schema: pa.Schema, options: Mapping[str, int | str] | None = None) -> str:
    """BLAKE3 (hex) of a reference, the frozen schema it is read with, and the parse options."""
    from muster.datasets.digest import schema_digest

    # the number counts changes of what readers make of the same bytes, reasons of rejects included
    parts = ["muster.chunk@2", ref.digest, schema_digest(schema), dict(options or {})]
    return blake3(_encode(parts)).hexdigest()


def coalesce(ranges: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Sort (offset, length) ranges and join those that touch or overlap; empty ones are dropped."""
    out: list[tuple[int, int]] = []
    for offset, length in sorted(ranges):
        if length <= 0:
            continue
        if out and offset <= out[-1][0] + out[-1][1]:
            start = out[-1][0]
            out[-1] = (start, max(out[-1][0] + out[-1][1], offset + length) - start)
        else:
            out.append((offset, length))
    return tuple(out)


def _encode(value: object) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def _refuse(what: str) -> SourceError:
    return SourceError(f"chunk reference: {what}")


def _int(raw: Mapping[str, Any], key: str, low: int, high: int) -> int:
    value = raw.get(key)
    if type(value) is not int or not low <= value <= high:
        raise _refuse(f"{key}: expected an integer in [{low}, {high}]")
    return value


def _checked(raw: Any) -> ChunkRef:
    """Rebuild a reference field by field; nothing is taken over unchecked."""
    expected = {"v", "index", "file", "format", "fingerprint", "origin_nbytes", "first_row", "n_rows", "ranges",
                "columns", "detail"}  # fmt: skip
    if not isinstance(raw, dict) or set(raw) != expected or raw["v"] != 1:
        raise _refuse("expected exactly the fields of version 1")
    if raw["format"] not in get_args(Format):
        raise _refuse(f"format: expected one of {', '.join(get_args(Format))}")
    fingerprint = raw["fingerprint"]
    if not isinstance(fingerprint, str) or not 1 <= len(fingerprint) <= 128 or not fingerprint.isascii():
        raise _refuse("fingerprint: expected 1 to 128 ASCII characters")
    origin_nbytes = _int(raw, "origin_nbytes", 0, MAX_OFFSET)
    return ChunkRef(
        index=_int(raw, "index", 0, MAX_OFFSET),
        file=_int(raw, "file", 0, MAX_OFFSET),
        format=cast("Format", raw["format"]),
        fingerprint=fingerprint,
        origin_nbytes=origin_nbytes,
        first_row=_int(raw, "first_row", 0, MAX_OFFSET),
        n_rows=_int(raw, "n_rows", 1, MAX_ROWS),
        ranges=_checked_ranges(raw["ranges"], origin_nbytes),
        columns=_checked_columns(raw["columns"]),
        detail=_checked_detail(raw["format"], raw["detail"]),
    )


def _checked_ranges(raw: Any, origin_nbytes: int) -> tuple[tuple[int, int], ...]:
    if not isinstance(raw, list) or len(raw) > MAX_RANGES:
        raise _refuse(f"ranges: expected a list of at most {MAX_RANGES}")
    out: list[tuple[int, int]] = []
    end = 0
    total = 0
    for pair in raw:
        if not isinstance(pair, list) or len(pair) != 2 or type(pair[0]) is not int or type(pair[1]) is not int:
            raise _refuse("ranges: expected [offset, length] pairs")
        offset, length = pair
        if offset < end or length < 1 or offset + length > origin_nbytes:
            raise _refuse(f"ranges: [{offset}, {length}] is empty, out of order or outside the origin")
        end = offset + length
        total += length
        out.append((offset, length))
    if total > MAX_INPUT_NBYTES:
        raise _refuse(f"ranges: expected at most {MAX_INPUT_NBYTES} bytes, found {total}")
    return tuple(out)


def _checked_columns(raw: Any) -> tuple[str, ...]:
    if not isinstance(raw, list) or not 1 <= len(raw) <= MAX_COLUMNS or len(set(map(str, raw))) != len(raw):
        raise _refuse(f"columns: expected 1 to {MAX_COLUMNS} distinct names")
    if not all(isinstance(name, str) and len(name) <= 1024 for name in raw):
        raise _refuse("columns: expected names of at most 1024 characters")
    return tuple(raw)


def _checked_detail(fmt: str, raw: Any) -> Detail:
    allowed = _DETAIL[fmt]
    if not isinstance(raw, dict) or not set(raw) <= set(allowed):
        raise _refuse(f"detail: expected only {', '.join(allowed)}")
    for key, value in raw.items():
        if type(value) is not allowed[key]:
            raise _refuse(f"detail: {key}: expected {allowed[key].__name__}")
        if isinstance(value, list):
            text = key == "json"
            if not all((isinstance(v, str) and len(v) <= 1024) if text else _small(v) for v in value):
                raise _refuse(f"detail: {key}: expected {'names' if text else 'non-negative integers'}")
        elif not _small(value):
            raise _refuse(f"detail: {key}: expected a non-negative integer")
    return raw


def _small(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_OFFSET
