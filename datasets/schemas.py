"""The frozen schema: normal forms of types, one schema for all files, and bringing decoded columns to it.

It reads no files. Invariants: the frozen schema has no metadata, no dictionary, view, large or extension types at
the top level and every field is nullable; ``conform`` never changes a value, it casts without loss or raises, and
turns text that is not UTF-8 into a reject of that row.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from muster.datasets.reading import ChunkRows, rows_of
from muster.errors import SourceError, printable


def normalise(schema: pa.Schema, file: str) -> pa.Schema:
    """Return the schema in normal form; two columns of one name raise ``SourceError`` naming ``file``."""
    names = schema.names
    if len(set(names)) != len(names):
        double = next(name for name in names if names.count(name) > 1)
        raise SourceError(f"{file}: column {printable(double)}: expected one, found {names.count(double)} of this name")
    return pa.schema([pa.field(f.name, plain(f.type)) for f in schema])


def plain(kind: pa.DataType) -> pa.DataType:
    """Return the type without dictionary, view, large or extension encodings (lists recursively, no field names)."""
    if isinstance(kind, pa.BaseExtensionType):
        return plain(kind.storage_type)
    if pt.is_dictionary(kind) or pt.is_run_end_encoded(kind):
        return plain(kind.value_type)
    if pt.is_large_string(kind) or pt.is_string_view(kind):
        return pa.string()
    if pt.is_large_binary(kind) or pt.is_binary_view(kind):
        return pa.binary()
    if pt.is_list(kind) or pt.is_large_list(kind) or pt.is_list_view(kind) or pt.is_large_list_view(kind):
        return pa.list_(plain(kind.value_type))
    if pt.is_struct(kind):
        return pa.struct([pa.field(f.name, plain(f.type)) for f in kind])
    return kind


def merge(frozen: pa.Schema | None, found: pa.Schema, file: str, first: str) -> pa.Schema:
    """Return the schema that holds both; integer and float widths widen, all else must agree.

    Raises ``SourceError`` naming ``file``, the column, what ``first`` (the earlier file) has and what was found.
    """
    if frozen is None:
        return found
    extra = next((name for name in found.names if name not in set(frozen.names)), None)
    if extra is not None:
        raise SourceError(f"{file}: column {printable(extra)}: expected no such column (as in {first}), found one")
    fields = []
    for have in frozen:
        index = found.get_field_index(have.name)
        if index < 0:
            raise SourceError(
                f"{file}: column {printable(have.name)}: expected {have.type} (as in {first}), found none"
            )
        kind = _wider(have.type, found.field(index).type)
        if kind is None:
            raise SourceError(
                f"{file}: column {printable(have.name)}: expected {have.type} (as in {first}), "
                f"found {found.field(index).type}"
            )
        fields.append(pa.field(have.name, kind))
    return pa.schema(fields)


def _wider(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    if a == b or pt.is_null(b):
        return a
    if pt.is_null(a):
        return b
    if {str(a), str(b)} == {"string", "binary"}:
        return pa.string()
    if pt.is_binary(a) or pt.is_binary(b):
        return None
    if converts(a, b):
        return b
    return a if converts(b, a) else None


def converts(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Say whether every value of ``found`` (normal form) is a value of ``wanted``, or a reject (bytes as text)."""
    if found == wanted:
        return True
    if pt.is_string(wanted) or pt.is_binary(wanted):
        return bool(pt.is_string(found) or pt.is_binary(found) or pt.is_fixed_size_binary(found))
    if pt.is_integer(found) and pt.is_integer(wanted):
        room = wanted.bit_width - int(pt.is_signed_integer(wanted))
        need = found.bit_width - int(pt.is_signed_integer(found))
        return room >= need and not (pt.is_signed_integer(found) and pt.is_unsigned_integer(wanted))
    if pt.is_floating(wanted):
        exact_bits = {16: 11, 32: 24, 64: 53}[wanted.bit_width]
        if pt.is_integer(found):
            return bool(found.bit_width <= exact_bits)
        return bool(pt.is_floating(found) and found.bit_width <= wanted.bit_width)
    return False


def check_columns(source: str, schema: pa.Schema, wanted: pa.Schema) -> pa.Schema:
    """Return the schema to read with: ``wanted``'s columns and types, in ``schema``'s order.

    Raises ``SourceError`` naming ``source``, the column, the expected and the found type, and the columns that exist.
    """
    exist = ", ".join(f"{printable(f.name)} ({f.type})" for f in list(schema)[:50])
    for field in wanted:
        index = schema.get_field_index(field.name)
        if index < 0:
            raise SourceError(
                f"{source}: column {field.name}: expected {field.type}, found no such column",
                hint=f"the columns are: {exist}",
            )
        if not converts(schema.field(index).type, plain(field.type)):
            raise SourceError(
                f"{source}: column {field.name}: expected {field.type}, found {schema.field(index).type}",
                hint=f"the columns are: {exist}",
            )
    return pa.schema(
        [pa.field(f.name, plain(wanted.field(f.name).type)) for f in schema if wanted.get_field_index(f.name) >= 0]
    )


def conform(table: pa.Table, schema: pa.Schema, context: str, known: Mapping[int, str] | None = None) -> ChunkRows:
    """Bring decoded columns to the frozen types; rows whose text is not UTF-8 become rejects, as the ``known`` ones.

    ``context`` names file and rows for the ``SourceError`` of a missing column, a lossy cast or broken buffers.
    """
    columns = []
    reasons: dict[int, str] = dict(known or {})
    for field in schema:
        index = table.schema.get_field_index(field.name)
        if index < 0:
            raise SourceError(f"{context}: column {field.name}: expected {field.type}, found no such column")
        column = _cast(table.column(index), field, context)
        at = 0
        for piece in column.chunks:
            for row, reason in _bad_text(piece, field.name, context).items():
                reasons.setdefault(at + row, reason)
            at += len(piece)
        columns.append(column)
    return rows_of(pa.table(columns, schema=schema), reasons)


def _cast(column: pa.ChunkedArray, field: pa.Field, context: str) -> pa.ChunkedArray:
    """Cast without loss; text is not checked here, so that one bad row does not fail its neighbours."""
    if isinstance(column.type, pa.BaseExtensionType):
        column = pa.chunked_array([c.storage for c in column.chunks], column.type.storage_type)
    if column.type == field.type:
        return column
    if not converts(plain(column.type), field.type):
        raise SourceError(f"{context}: column {field.name}: expected {field.type}, found {column.type}")
    try:
        for piece in column.chunks:
            check_structure(piece)
        if pt.is_dictionary(column.type) or pt.is_run_end_encoded(column.type):
            column = column.cast(column.type.value_type)
        if pt.is_string_view(column.type) or pt.is_binary_view(column.type):
            # Arrow's cast follows views under nulls, which validate() does not check: copy the values instead
            column = pa.chunked_array(
                [pa.array(as_bytes(c).to_pylist(), pa.binary()) for c in column.chunks], pa.binary()
            )
        options = pc.CastOptions.safe(field.type)
        options.allow_invalid_utf8 = True
        return pc.cast(column, options=options)
    except pa.ArrowException as error:
        raise SourceError(
            f"{context}: column {field.name}: expected {field.type}, found {column.type}: {printable(str(error))}"
        ) from None


def pick(table: pa.Table, rows: npt.NDArray[np.int64]) -> pa.Table:
    """Return these rows (ascending) as slices: no copy, so nothing is followed before it is validated."""
    if not len(rows):
        return table.slice(0, 0)
    starts = np.flatnonzero(np.diff(rows, prepend=rows[0] - 2) != 1)
    lengths = np.diff(starts, append=len(rows))
    firsts = rows[starts]
    return pa.concat_tables([table.slice(int(a), int(n)) for a, n in zip(firsts, lengths, strict=True)])


def check_structure(array: pa.Array) -> None:
    """Raise ``ArrowInvalid`` for lengths, offsets, views or indices that a copy would follow out of bounds."""
    if pt.is_dictionary(array.type):
        check_structure(array.dictionary)
        bounds = pc.min_max(array.indices)
        low, high = bounds["min"].as_py(), bounds["max"].as_py()
        if low is not None and (low < 0 or high >= len(array.dictionary)):
            raise pa.ArrowInvalid(f"index {low if low < 0 else high} in a dictionary of {len(array.dictionary)}")
    else:
        as_bytes(array).validate(full=True)


def _bad_text(piece: pa.Array, name: str, context: str) -> dict[int, str]:
    """Return reasons by row for text that is not UTF-8; the whole array is checked first, at SIMD speed."""
    try:
        piece.validate(full=True)
    except pa.ArrowInvalid as error:
        try:
            reasons = _locate(piece, name)
        except pa.ArrowInvalid:
            reasons = {}
        if not reasons:
            raise SourceError(f"{context}: column {name}: broken Arrow buffers: {printable(str(error))}") from None
        return reasons
    return {}


def _locate(piece: pa.Array, name: str) -> dict[int, str]:
    raw = as_bytes(piece)
    raw.validate(full=True)
    reasons: dict[int, str] = {}
    for row, (value, data) in enumerate(zip(piece, raw, strict=True)):
        if pt.is_string(piece.type):
            held = data.as_py()
            if held is not None and (at := utf8_fault(held)) is not None:
                reasons[row] = f"column {name}: invalid UTF-8 at byte {at}"
            continue
        try:
            value.as_py()
        except UnicodeDecodeError:
            reasons[row] = f"column {name}: invalid UTF-8 inside a nested value"
    return reasons


# The same buffers read as bytes
_BINARY = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary(), pa.string_view(): pa.binary_view()}


def as_bytes(array: pa.Array) -> pa.Array:
    """Return the same buffers with text as binary, so that the structure can be validated apart from the text."""
    if (binary := _BINARY.get(array.type)) is not None:
        return pa.Array.from_buffers(binary, len(array), array.buffers(), offset=array.offset)
    if pt.is_list(array.type) or pt.is_large_list(array.type):
        values = as_bytes(array.values)
        kind = pa.list_(values.type) if pt.is_list(array.type) else pa.large_list(values.type)
        children, own = [values], 2
    elif pt.is_struct(array.type):
        children = [as_bytes(array.field(k)) for k in range(array.type.num_fields)]
        kind = pa.struct([pa.field(f.name, c.type) for f, c in zip(array.type, children, strict=True)])
        own = 1
    else:
        return array
    return pa.Array.from_buffers(kind, len(array), array.buffers()[:own], offset=array.offset, children=children)


def utf8_fault(data: bytes) -> int | None:
    """Return the offset of the first byte that is not UTF-8, or None."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return error.start
    return None
