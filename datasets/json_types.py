"""Guess column types from the first JSON lines of a source, once, when it is planned.

Rules: booleans → bool; integers → int64, uint64 if some are beyond int64 and none is negative, else float64; numbers
of which one has a fraction or exponent → float64; text → string; lists of these → list; objects, lists of lists and
lists of mixed values → string holding their JSON text. Where rows disagree, the commonest kind wins (the first seen
on a tie) and the others become rejects when that column is read. A column that is null throughout → string.

It reads no files and parses no text. Invariants: the answer depends on the rows and their order alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa


class _Numbers:
    """What the numbers of a column need."""

    def __init__(self) -> None:
        self.fraction = self.big = self.negative = False

    def add(self, value: float) -> None:
        self.fraction |= isinstance(value, float)
        self.big |= value >= 1 << 63
        self.negative |= value < 0

    def type(self) -> pa.DataType:
        if self.fraction or (self.big and self.negative):
            return pa.float64()
        return pa.uint64() if self.big else pa.int64()


class _Column:
    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.scalars = _Numbers()
        self.items = _Numbers()

    def add(self, value: Any) -> None:
        kind = _kind(value, self.scalars)
        if kind == "list":
            kinds = {_kind(item, self.items) for item in value} - {"null"}
            scalar = len(kinds) <= 1 and not kinds & {"list", "json"}
            kind = f"list {kinds.pop() if kinds else 'null'}" if scalar else "json"
        if kind != "null":
            self.kinds[kind] += 1

    def type(self) -> tuple[pa.DataType, bool]:
        """Return the column's type and whether it holds JSON text."""
        kinds = Counter({k: n for k, n in self.kinds.items() if k != "list null"})
        kind = kinds.most_common(1)[0][0] if kinds else "list string" if self.kinds else "string"
        if kind == "json":
            return pa.string(), True
        if kind.startswith("list "):
            return pa.list_(_type(kind.removeprefix("list "), self.items)), False
        return _type(kind, self.scalars), False


def _kind(value: Any, numbers: _Numbers) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        numbers.add(value)
        return "number"
    if isinstance(value, str):
        return "string"
    return "list" if isinstance(value, list) else "json"


def _type(kind: str, numbers: _Numbers) -> pa.DataType:
    return {"bool": pa.bool_(), "string": pa.string()}.get(kind) or numbers.type()


def infer(rows: Iterable[Mapping[str, Any]]) -> tuple[pa.Schema, list[str]]:
    """Return the schema in order of first appearance, and the columns kept as JSON text."""
    columns: dict[str, _Column] = {}
    for row in rows:
        for name, value in row.items():
            columns.setdefault(name, _Column()).add(value)
    types = {name: column.type() for name, column in columns.items()}
    schema = pa.schema([pa.field(name, kind) for name, (kind, _) in types.items()])
    return schema, [name for name, (_, as_json) in types.items() if as_json]
