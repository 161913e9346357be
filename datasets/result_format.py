"""The result table: what a volunteer uploads and a referee recomputes for one chunk.

What it does: states its columns and types, names what can be wrong with it, and checks a decoded table.
What it does not do: read or write bytes (``result_ipc``, ``parts``), or judge the values (audits do).

One row for each input row of the chunk, in position order: ``position`` (int64, the row's position in its file),
``reject`` (string; null = fine, else the reason, 1 to 200 printable characters, and then every kernel column is null),
then the recipe's output columns.

Invariants: every fault found here is a ``ResultFault`` with a short stable kind and bounded text, safe to record.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from muster.datasets.reading import MAX_REASON_CHARS
from muster.errors import KernelError, VolunteerFault

POSITION = "position"
REJECT = "reject"
FILE_COLUMN = "_muster_file"
POSITION_COLUMN = "_muster_position"
REASON = "reason"
BATCH_ROWS = 1 << 16


class RowRange(Protocol):
    """What is needed of a ``ChunkRef`` here: the rows that it covers."""

    @property
    def first_row(self) -> int:
        """Position of the first row in its file."""
        ...

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        ...


class ResultFault(VolunteerFault):
    """An upload that is not a result of its chunk.

    Kinds: ``too-big``, ``undecodable``, ``wrong-schema``, ``wrong-rows``, ``wrong-positions``, ``bad-reason``,
    ``reject-not-null``.
    """


def result_schema(output_schema: pa.Schema) -> pa.Schema:
    """Schema of the result table for a recipe's output columns: position, reject, then those, all nullable.

    Raises:
        KernelError: an output column has a reserved or repeated name, or a type that may not cross the trust border
            (dictionary, view, run-end, map, union, null or extension, at any depth).
    """
    fields = [pa.field(POSITION, pa.int64()), pa.field(REJECT, pa.string())]
    names = {POSITION, REJECT, REASON}
    for field in output_schema:
        if field.name in names or field.name.startswith("_muster"):
            raise KernelError(f"output column {field.name!r}: the name is reserved or used twice")
        if buffer_count(field.type) is None:
            raise KernelError(f"output column {field.name!r}: type {field.type} can't be returned by a volunteer")
        names.add(field.name)
        fields.append(pa.field(field.name, field.type))
    return pa.schema(fields)


def build_result(positions: Sequence[int] | npt.NDArray[np.int64], reject: pa.Array, new: pa.Table) -> pa.Table:
    """Return the result table of rows at ``positions`` with these reasons (null: fine) and the kernels' new columns.

    A rejected row's kernel columns become null, whatever the kernels made of its blank input.
    """
    schema = result_schema(new.schema)
    columns = new.columns
    if reject.null_count < len(reject):
        fine = pc.is_null(reject)
        columns = [pc.if_else(fine, column.combine_chunks(), pa.scalar(None, column.type)) for column in columns]
    return pa.Table.from_arrays([pa.array(positions, pa.int64()), reject.cast(pa.string()), *columns], schema=schema)


def output_schema_of(schema: pa.Schema) -> pa.Schema:
    """The kernel columns of a result schema."""
    return pa.schema(list(schema)[2:])


def buffer_count(kind: pa.DataType) -> int | None:
    """Buffers of an array of ``kind`` in Arrow IPC, children included; None for types that are not allowed."""
    if isinstance(kind, pa.BaseExtensionType) or pt.is_map(kind) or pt.is_null(kind):
        return None
    if pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind) or pt.is_struct(kind):
        total = 2 if pt.is_list(kind) or pt.is_large_list(kind) else 1
        for i in range(kind.num_fields):
            inner = buffer_count(kind.field(i).type)
            if inner is None:
                return None
            total += inner
        return total
    if pt.is_string(kind) or pt.is_large_string(kind) or pt.is_binary(kind) or pt.is_large_binary(kind):
        return 3
    plain = pt.is_primitive(kind) or pt.is_decimal(kind) or pt.is_fixed_size_binary(kind)
    return 2 if plain else None


def validate_result(table: pa.Table, ref: RowRange, schema: pa.Schema) -> None:
    """Check that ``table`` is a well-formed result for the rows of ``ref``; ``schema`` is the result schema.

    Raises:
        ResultFault: with the column, row and what was expected and found.
    """
    if not table.schema.equals(schema, check_metadata=True):
        raise ResultFault("wrong-schema", f"expected {_names(schema)}, found {_names(table.schema)}")
    if table.num_rows != ref.n_rows:
        raise ResultFault("wrong-rows", f"expected {ref.n_rows} rows, found {table.num_rows}")
    try:
        table.validate(full=True)
    except (pa.ArrowException, ValueError) as err:
        raise ResultFault("undecodable", f"invalid arrays: {err}") from None
    _check_positions(table, ref)
    if table[REJECT].null_count < table.num_rows:
        _check_rejects(table)


def _check_positions(table: pa.Table, ref: RowRange) -> None:
    column = table[POSITION]
    if column.null_count:
        raise ResultFault("wrong-positions", f"{column.null_count} positions are null")
    at = ref.first_row
    for chunk in column.chunks:
        found = chunk.to_numpy(zero_copy_only=True)
        expected = np.arange(at, at + len(found), dtype=np.int64)
        if not np.array_equal(found, expected):
            i = int(np.argmax(found != expected))
            raise ResultFault("wrong-positions", f"expected position {expected[i]}, found {found[i]}")
        at += len(found)


def _check_rejects(table: pa.Table) -> None:
    for reason in pc.unique(table[REJECT].drop_null()):
        text = reason.as_py()
        if not text or len(text) > MAX_REASON_CHARS or not text.isprintable():
            raise ResultFault("bad-reason", f"a reason must be 1 to {MAX_REASON_CHARS} printable characters: {text!r}")
    rejected = table.filter(pc.is_valid(table[REJECT]))
    for name in table.column_names[2:]:
        column = rejected[name]
        if column.null_count != len(column):
            row = int(np.argmax(np.asarray(column.is_valid())))
            where = rejected[POSITION][row].as_py()
            raise ResultFault("reject-not-null", f"column {name!r} has a value at rejected position {where}")


def _names(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name}: {field.type}" for field in schema)[: VolunteerFault.MAX_TEXT_CHARS]
