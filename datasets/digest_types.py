"""Canonical names of Arrow types for the digest; ``digest`` states which representations are equal.

What it does: names a type so that representations of the same values share a name and different values don't.
What it does not do: hash anything.

Invariants: the names are part of the digest's version; they are built here and not taken from ``str(type)``, which may
change between Arrow releases.
"""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.types as pt

from muster.errors import SourceError

_SIMPLE: dict[pa.DataType, str] = {
    pa.null(): "null",
    pa.bool_(): "bool",
    **{
        kind: name
        for name, kind in (
            ("int8", pa.int8()),
            ("int16", pa.int16()),
            ("int32", pa.int32()),
            ("int64", pa.int64()),
            ("uint8", pa.uint8()),
            ("uint16", pa.uint16()),
            ("uint32", pa.uint32()),
            ("uint64", pa.uint64()),
            ("float16", pa.float16()),
            ("float32", pa.float32()),
            ("float64", pa.float64()),
            ("date32", pa.date32()),
            ("date64", pa.date64()),
            ("interval", pa.month_day_nano_interval()),
        )
    },
}


def canonical_type(kind: pa.DataType, name: str) -> str:
    """Canonical name of an Arrow type; ``name`` is the column, for the message of the SourceError if it has none."""
    if pt.is_dictionary(kind) or pt.is_run_end_encoded(kind):
        return canonical_type(kind.value_type, name)
    if is_string(kind):
        return "string"
    if is_binary(kind):
        return "binary"
    if pt.is_fixed_size_list(kind):
        return f"fixed_list<{canonical_type(kind.value_type, name)}>[{kind.list_size}]"
    if is_list(kind):
        return f"list<{canonical_type(kind.value_type, name)}>"
    if pt.is_struct(kind):
        return "struct<" + ",".join(f"{_quoted(f.name)}:{canonical_type(f.type, name)}" for f in kind) + ">"
    return _flat_type(kind, name)


def is_string(kind: pa.DataType) -> bool:
    """Any of Arrow's three layouts of UTF-8 strings."""
    return bool(pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind))


def is_binary(kind: pa.DataType) -> bool:
    """Any of Arrow's three layouts of variable-length binary."""
    return bool(pt.is_binary(kind) or pt.is_large_binary(kind) or pt.is_binary_view(kind))


def is_list(kind: pa.DataType) -> bool:
    """Any of Arrow's four layouts of variable-length lists (not maps)."""
    return bool(pt.is_list(kind) or pt.is_large_list(kind) or pt.is_list_view(kind) or pt.is_large_list_view(kind))


def _flat_type(kind: pa.DataType, name: str) -> str:
    if kind in _SIMPLE:
        return _SIMPLE[kind]
    if pt.is_timestamp(kind):
        return f"timestamp[{kind.unit}]" if kind.tz is None else f"timestamp[{kind.unit},{_quoted(kind.tz)}]"
    if pt.is_time(kind):
        return f"time[{kind.unit}]"
    if pt.is_duration(kind):
        return f"duration[{kind.unit}]"
    if pt.is_decimal(kind):
        return f"decimal{kind.bit_width}({kind.precision},{kind.scale})"
    if pt.is_fixed_size_binary(kind):
        return f"fixed_binary[{kind.byte_width}]"
    raise SourceError(f"column {name!r}: type {kind} has no canonical digest; cast it to a plain type first")


def _quoted(text: str) -> str:
    return json.dumps(text)
