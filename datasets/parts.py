"""Parquet parts: kept rows exactly as they are published, and rejects apart.

What it does: writes an accepted result as one Parquet part and one file of rejects; reads single rows back for audits.
What it does not do: read anything a volunteer wrote (``result_ipc`` does), choose names, or publish.

Writing is on the trusted side's bill, so the encodings are the cheapest that still shrink the data (measured in
``benchmarks/results/digest.md``): no dictionaries but for ``_muster_file``, integers up to 32 bits and positions as
deltas, 64-bit values and floats plain (kernels' hashes don't compress), zstd level 1 on strings, statistics on
positions only.

Invariants: a part's bytes depend on the table and the Arrow version only (no time, no host); rows keep position order;
kept + rejected = rows of the result table; row groups have ``ROW_GROUP_ROWS`` rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as pt
from blake3 import blake3

from muster.datasets.digest import table_digest
from muster.datasets.result_format import (
    FILE_COLUMN,
    POSITION,
    POSITION_COLUMN,
    REASON,
    REJECT,
    RowRange,
    output_schema_of,
)
from muster.errors import JobError

ROW_GROUP_ROWS = 1 << 14
FILE_TYPE = pa.dictionary(pa.int32(), pa.string())
REJECTS_SCHEMA = pa.schema([(FILE_COLUMN, FILE_TYPE), (POSITION_COLUMN, pa.int64()), (REASON, pa.string())])


@dataclass(frozen=True, slots=True)
class AcceptedInfo:
    """What intake reports of an accepted result; ``rejects_nbytes`` is 0 (and nothing was written) without rejects."""

    digest: str
    kept: int
    rejected: int
    kept_nbytes: int
    kept_blake3: str
    rejects_nbytes: int
    rejects_blake3: str


def part_schema(output_schema: pa.Schema, passthrough: Sequence[pa.Field] = ()) -> pa.Schema:
    """Schema of a published part: file, position, passthrough columns, kernel columns."""
    first = [pa.field(FILE_COLUMN, FILE_TYPE), pa.field(POSITION_COLUMN, pa.int64())]
    return pa.schema([*first, *passthrough, *output_schema])


def write_accepted(
    table: pa.Table, ref: RowRange, file_name: str, out_kept: Path | BinaryIO, out_rejects: Path | BinaryIO
) -> AcceptedInfo:
    """Write the kept rows of a validated result table as its part, and its rejects, if any, apart.

    Args:
        table: a table that ``validate_result`` passed for ``ref``.
        ref: the chunk.
        file_name: name of the origin file, for ``_muster_file``.
        out_kept: path that does not exist yet, or a binary file open for writing.
        out_rejects: likewise; untouched if no row is rejected.

    Raises:
        ValueError: the table does not have the chunk's number of rows.
        FileExistsError: a path exists.
    """
    if table.num_rows != ref.n_rows:
        raise ValueError(f"result table of {table.num_rows} rows for a chunk of {ref.n_rows}")
    rejected = table.num_rows - table[REJECT].null_count
    kept = table if rejected == 0 else table.filter(pc.is_null(table[REJECT]))
    part = encode_parquet(published_rows(kept, file_name))
    part_nbytes, part_blake3 = _write(part, out_kept)
    rejects_nbytes, rejects_blake3 = 0, ""
    if rejected:
        rows = table.select([POSITION, REJECT]).filter(pc.is_valid(table[REJECT]))
        columns = [_file_column(file_name, rows.num_rows), *rows.columns]
        rejects = pa.Table.from_arrays(columns, schema=REJECTS_SCHEMA)
        rejects_nbytes, rejects_blake3 = _write(encode_parquet(rejects), out_rejects)
    digest = table_digest(table)
    return AcceptedInfo(digest, kept.num_rows, rejected, part_nbytes, part_blake3, rejects_nbytes, rejects_blake3)


def published_rows(kept: pa.Table, file_name: str) -> pa.Table:
    """Kept rows of a result table in the columns of a part."""
    schema = part_schema(output_schema_of(kept.schema))
    columns = [_file_column(file_name, kept.num_rows), kept[POSITION], *kept.columns[2:]]
    return pa.Table.from_arrays(columns, schema=schema)


def encode_parquet(table: pa.Table) -> pa.Buffer:
    """One Parquet file in memory with the encodings of parts (a part is bounded by its chunk)."""
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema, **parquet_options(table.schema)) as writer:
        writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
    return sink.getvalue()


def parquet_options(schema: pa.Schema) -> dict[str, Any]:
    """Arguments of ``ParquetWriter`` for parts; nested columns are left to Arrow's defaults, with zstd."""
    compression: dict[str, str] = {}
    encoding: dict[str, str] = {}
    for field in schema:
        kind = field.type
        if pt.is_integer(kind) and (kind.bit_width <= 32 or field.name == POSITION_COLUMN):
            encoding[field.name] = "DELTA_BINARY_PACKED"
        packed = pt.is_primitive(kind) or pt.is_dictionary(kind)
        for path in _leaf_paths(field):
            compression[path] = "none" if packed else "zstd"
    options: dict[str, Any] = {
        "compression": compression,
        "compression_level": {path: 1 for path, codec in compression.items() if codec == "zstd"} or None,
        "use_dictionary": [FILE_COLUMN],
        "column_encoding": encoding or None,
        "write_statistics": [POSITION_COLUMN],
    }
    return options


def read_rows(kept_path: Path, rejects_path: Path | None, positions: Sequence[int], schema: pa.Schema) -> pa.Table:
    """Rows of an accepted result at ``positions`` (sorted, distinct), as result-table rows with ``schema``.

    Only the row groups that hold one of the positions are decoded.

    Raises:
        JobError: a position is neither kept nor rejected, or a file is not what intake wrote.
    """
    wanted = np.asarray(positions, np.int64)
    kept = _pick(kept_path, wanted, [POSITION_COLUMN, *schema.names[2:]])
    arrays = [kept[POSITION_COLUMN], pa.nulls(kept.num_rows, pa.string()), *kept.columns[1:]]
    tables = [pa.Table.from_arrays(arrays, schema=schema)]
    if rejects_path is not None and kept.num_rows < len(wanted):
        rejects = _pick(rejects_path, wanted, [POSITION_COLUMN, REASON])
        empty = [pa.nulls(rejects.num_rows, field.type) for field in list(schema)[2:]]
        tables.append(pa.Table.from_arrays([*rejects.columns, *empty], schema=schema))
    rows = pa.concat_tables(tables).sort_by(POSITION) if len(tables) > 1 else tables[0]
    found = rows[POSITION].to_numpy()
    if not np.array_equal(found, wanted):
        missing = np.setdiff1d(wanted, found)[:5].tolist()
        raise JobError(f"{kept_path.name}: positions {missing} are neither among the kept rows nor among the rejects")
    return rows


def _pick(path: Path, wanted: npt.NDArray[np.int64], columns: list[str]) -> pa.Table:
    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            index = file.schema_arrow.get_field_index(POSITION_COLUMN)
            groups = [g for g in range(file.metadata.num_row_groups) if _holds(file.metadata, g, index, wanted)]
            if not groups:
                return file.schema_arrow.empty_table().select(columns)
            table = file.read_row_groups(groups, columns=columns, use_threads=False).select(columns)
    except (pa.ArrowException, OSError, KeyError) as err:
        raise JobError(f"{path.name}: an accepted file can't be read: {err}") from err
    at = np.flatnonzero(np.isin(table[POSITION_COLUMN].to_numpy(), wanted, assume_unique=True))
    return table.take(pa.array(at))


def _holds(metadata: pq.FileMetaData, group: int, index: int, wanted: npt.NDArray[np.int64]) -> bool:
    statistics = metadata.row_group(group).column(index).statistics
    if statistics is None or not statistics.has_min_max:
        return True
    first, last = np.searchsorted(wanted, [statistics.min, statistics.max + 1])
    return bool(first < last)


def _file_column(file_name: str, n: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), pa.array([file_name], pa.string()))


def _leaf_paths(field: pa.Field) -> list[str]:
    """Parquet's names of the leaves of a column."""
    kind = field.type
    if pt.is_struct(kind):
        return [f"{field.name}.{path}" for i in range(kind.num_fields) for path in _leaf_paths(kind.field(i))]
    if pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind):
        return [f"{field.name}.list.{path}" for path in _leaf_paths(pa.field("element", kind.value_type))]
    return [field.name]


def _write(data: pa.Buffer, out: Path | BinaryIO) -> tuple[int, str]:
    if isinstance(out, Path):
        with out.open("xb") as file:
            file.write(data)
    else:
        out.write(data)
    return data.size, str(blake3(data).hexdigest())
