"""JSON lines to columns: each line is parsed on its own, so a row's outcome never depends on its neighbours.

It does not find lines in files (``jsonl.py``) or guess types (``json_types.py``).

Invariants: reasons are our own words, never a parser's (see ``json_fault.py``); a value is taken as it is or the row
is rejected, nothing is coerced but integers to float64 where the column is float64, and any value to its JSON text
where the column is listed as JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.types as pt

from muster.datasets.json_fault import json_fault
from muster.datasets.reading import ChunkRows, reject_array
from muster.datasets.schemas import utf8_fault
from muster.errors import SourceError

MAX_LINE_NBYTES = 256 << 20
_GROUP = 4096  # lines parsed at a time: a bad line sends only its group down the slow path
_BOM = b"\xef\xbb\xbf"
_NAMES = {str: "a string", bool: "a boolean", int: "an integer", float: "a number", list: "an array", dict: "an object"}

Check = Callable[[Any], "tuple[Any, bool]"]


def _scalar_check(kind: pa.DataType) -> Check:
    if pt.is_string(kind):
        return lambda v: (v, type(v) is str)
    if pt.is_boolean(kind):
        return lambda v: (v, type(v) is bool)
    if pt.is_float64(kind):
        return lambda v: (float(v), True) if type(v) in {int, float} else (v, False)
    if pt.is_int64(kind):
        return lambda v: (v, type(v) is int and -(1 << 63) <= v < 1 << 63)
    if pt.is_uint64(kind):
        return lambda v: (v, type(v) is int and 0 <= v < 1 << 64)
    raise SourceError(f"JSON lines can't be read as {kind}")


def _check_of(kind: pa.DataType) -> Check:
    if not pt.is_list(kind):
        return _scalar_check(kind)
    item = _scalar_check(kind.value_type)

    def check(value: Any) -> tuple[Any, bool]:
        if type(value) is not list:
            return value, False
        pairs = [(None, True) if v is None else item(v) for v in value]
        return [v for v, _ in pairs], all(ok for _, ok in pairs)

    return check


def _fast_types(kind: pa.DataType) -> set[type]:
    """Types whose values need no look one by one; pyarrow checks the range of integers."""
    if pt.is_string(kind):
        return {str, type(None)}
    if pt.is_boolean(kind):
        return {bool, type(None)}
    if pt.is_float64(kind):
        return {float, type(None)}
    return {int, type(None)} if pt.is_integer(kind) else set()


class JsonRows:
    """Collects parsed lines into the columns of ``schema``; ``json_columns`` are kept as JSON text."""

    def __init__(self, schema: pa.Schema, json_columns: Collection[str]) -> None:
        self._schema = schema
        self._json = set(json_columns)
        self._checks = {f.name: _check_of(f.type) for f in schema}
        self._pieces: list[list[pa.Array]] = [[] for _ in schema]
        self._reasons: dict[int, str] = {}
        self._n_rows = 0

    def add(self, lines: Sequence[bytes], *, at_start: bool) -> None:
        """Parse lines; ``at_start``: they begin with the file's first line, where a byte order mark is allowed."""
        if at_start and lines and lines[0].startswith(_BOM):
            lines = [lines[0][len(_BOM) :], *lines[1:]]
        for start in range(0, len(lines), _GROUP):
            self._add_group(lines[start : start + _GROUP])

    def finish(self) -> ChunkRows:
        """Return all rows added."""
        columns = [
            pa.chunked_array(pieces, field.type) for pieces, field in zip(self._pieces, self._schema, strict=True)
        ]
        table = pa.table(columns, schema=self._schema).combine_chunks()
        return ChunkRows(table, reject_array(self._n_rows, self._reasons))

    def _add_group(self, lines: Sequence[bytes]) -> None:
        reasons: dict[int, str] = {}
        rows = parse(lines, reasons)
        columns = [self._column(field, rows, reasons) for field in self._schema]
        for field, values, pieces in zip(self._schema, columns, self._pieces, strict=True):
            for row in reasons:
                values[row] = None
            pieces.append(pa.array(values, field.type))
        for row, reason in reasons.items():
            self._reasons[self._n_rows + row] = reason
        self._n_rows += len(lines)

    def _column(self, field: pa.Field, rows: list[dict[str, Any]], reasons: dict[int, str]) -> list[Any]:
        name = field.name
        values = [row.get(name) for row in rows]
        if name in self._json:
            return _json_texts(name, values, reasons)
        if set(map(type, values)) <= _fast_types(field.type) and not _out_of_range(values, field.type):
            return values
        check = self._checks[name]
        for row, value in enumerate(values):
            if value is None:
                continue
            values[row], ok = check(value)
            if not ok:
                reasons.setdefault(row, f"column {name}: expected {field.type}, found {_found(value)}")
        return values


def _json_texts(name: str, values: list[Any], reasons: dict[int, str]) -> list[str | None]:
    texts: list[str | None] = []
    for row, value in enumerate(values):
        try:
            texts.append(None if value is None else orjson.dumps(value).decode())
        except orjson.JSONEncodeError:  # it writes 254 levels, though it reads 1,024
            texts.append(None)
            reasons.setdefault(row, f"column {name}: nested too deeply")
    return texts


def _out_of_range(values: list[Any], kind: pa.DataType) -> bool:
    if not pt.is_integer(kind):
        return False
    try:
        pa.array(values, kind)
    except (OverflowError, pa.ArrowException):
        return True
    return False


def _found(value: Any) -> str:
    if type(value) is int and not -(1 << 63) <= value < 1 << 63:
        return "an integer beyond 64 bits"
    if type(value) is list:
        return "an array with other items" if value else "an array"
    return _NAMES.get(type(value), "something else")


def parse(lines: Sequence[bytes], reasons: dict[int, str]) -> list[dict[str, Any]]:
    """Return one object for each line; a bad line gives an empty object and an entry in ``reasons``."""
    loads = orjson.loads
    try:
        rows = [loads(line) for line in lines]
    except orjson.JSONDecodeError:
        rows = [_parse_one(line, row, reasons) for row, line in enumerate(lines)]
    if set(map(type, rows)) == {dict} and max(map(len, lines)) <= MAX_LINE_NBYTES:
        return rows
    for row, value in enumerate(rows):
        if len(lines[row]) > MAX_LINE_NBYTES:
            reasons[row] = f"line longer than {MAX_LINE_NBYTES >> 20} MiB"
        elif type(value) is not dict:
            reasons[row] = f"expected a JSON object, found {_NAMES.get(type(value), 'null')}"
        else:
            continue
        rows[row] = {}
    return rows


def _parse_one(line: bytes, row: int, reasons: dict[int, str]) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        pass
    if not line.strip(b" \t\r\n"):
        reasons[row] = "blank line"
    elif (at := utf8_fault(line)) is not None:
        reasons[row] = f"invalid UTF-8 at byte {at}"
    else:
        reasons[row] = json_fault(line)
    return {}
