"""The canonical digest of a table: one name for equal data, however Arrow happens to hold it.

What it does: hashes a table's schema, row count and values with blake3 in a canonical form. Two tables have the same
digest if and only if (up to collisions of blake3) they have the same column names, canonical types, order, row count
and values. It does not matter how the rows are cut into chunks or batches, where slices begin, what the padding bits of
bitmaps hold, what lies under nulls, whether a bitmap is absent or all ones, or whether a column is held as
dictionary, run-end, view, 32-bit or 64-bit offset array.
What it does not do: read files, trust a table (validate first: broken offsets are the caller's fault), give
a digest to maps, unions or extension types (they are refused), or see schema metadata and nullability flags.

Canonical form, version ``muster-table-1``
------------------------------------------
All integers little-endian; ``H`` is 32-byte blake3.

* ``table = H("muster-table-1\\n" || H(schema) || u64 row count || streams of column 0 || streams of column 1 || ...)``;
  each stream enters as its ``H``, so its length need not be stored.
* ``schema`` is the JSON array of ``[name, canonical type]`` pairs, no spaces, ASCII with ``\\u`` escapes. Canonical
  types are the strings of ``canonical_type``; string, large_string and string_view are all ``string``, binary likewise;
  list, large_list and list views are ``list<...>``; dictionary and run-end arrays have the type of their values.
* A column (and each child) is a node; it contributes first its *validity* stream, then those of its kind:
  - validity: nothing if no slot is null, otherwise one bit for each slot, 1 = valid, least significant bit first,
    the last byte padded with zeros;
  - ``null``: no other stream (and no validity stream);
  - ``bool``: one stream of bits packed like validity, 0 under nulls;
  - fixed width (integers, floats, decimals, temporals, fixed-size binary): one stream of the values, zero bytes under
    nulls; every NaN is the quiet NaN ``7e00``, ``7fc00000`` or ``7ff8000000000000``; -0.0 stays different from 0.0;
  - string, binary: a stream of u32 lengths (0 under nulls), then a stream of the bytes of the non-null values;
  - list: a stream of u32 lengths (0 under nulls), then the child's streams over the elements of non-null lists;
  - fixed-size list: the child's streams over the elements of non-null lists;
  - struct: each child's streams, a child slot under a null struct being null.

Invariants: memory beyond the table is bounded (blocks of 128 KiB; decoded blocks of ``_DECODE_ROWS`` rows); a stream's
hash is incremental, which is what makes it independent of chunking; changing anything above needs a new version.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

import pyarrow as pa
from blake3 import blake3

from muster.datasets.digest_nodes import Node, node_for
from muster.datasets.digest_types import canonical_type

DIGEST_VERSION = "muster-table-1"


def schema_digest(schema: pa.Schema) -> str:
    """Blake3 hex of the canonical schema: names, canonical types and order; metadata and nullability don't count."""
    return _schema_hash(schema).hex()


def table_digest(table: pa.Table | pa.RecordBatch) -> str:
    """Canonical digest (64 hex digits) of a table or record batch.

    Raises:
        SourceError: a column has no canonical form (map, union, extension), or one value has 4 GiB or more.
    """
    digester = TableDigester(table.schema)
    digester.update(table)
    return digester.hexdigest()


class TableDigester:
    """The same digest, fed piece by piece: tables or batches of one schema, in row order."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema_hash = _schema_hash(schema)
        self._schema = schema
        self._nodes: list[Node] = [node_for(field.type, field.name) for field in schema]
        self._n_rows = 0

    def update(self, table: pa.Table | pa.RecordBatch) -> None:
        """Append the rows of ``table``; its schema must have the canonical form of the one given at the start."""
        if table.schema is not self._schema and _schema_hash(table.schema) != self._schema_hash:
            raise ValueError(f"schema changed while digesting: expected {self._schema}, found {table.schema}")
        for node, column in zip(self._nodes, table.columns, strict=True):
            for chunk in _chunks(column):
                node.update(chunk)
        self._n_rows += table.num_rows

    def hexdigest(self) -> str:
        """Digest of what was fed so far; feeding may go on afterwards."""
        final = blake3(f"{DIGEST_VERSION}\n".encode())
        final.update(self._schema_hash + self._n_rows.to_bytes(8, "little"))
        for node in self._nodes:
            for stream in node.streams():
                final.update(stream)
        return str(final.hexdigest())


def _chunks(column: pa.Array | pa.ChunkedArray) -> Iterable[pa.Array]:
    return column.chunks if isinstance(column, pa.ChunkedArray) else (column,)


def _schema_hash(schema: pa.Schema) -> bytes:
    pairs = [[field.name, canonical_type(field.type, field.name)] for field in schema]
    return bytes(blake3(json.dumps(pairs, separators=(",", ":")).encode()).digest())
