"""Parquet: a chunk is whole row groups, or a slice of one; only the footer and the needed column chunks are read.

It does not prune by statistics and does not cut inside a row group on the wire: a slice of a big row group fetches
all of that row group's needed columns (pages can't be chosen through pyarrow).

Invariants: ``ranges`` are the footer and the needed column chunks with their dictionary pages; the decoder is given a
sparse file that refuses any other byte.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from muster.datasets.chunks import MAX_INPUT_NBYTES, ChunkRef, coalesce
from muster.datasets.cutting import Target, cut
from muster.datasets.reading import ByteSource, ChunkRows
from muster.datasets.schemas import conform, pick
from muster.errors import SourceError, printable

if TYPE_CHECKING:
    from muster.datasets.sources import SourceFile

_TAIL = 8  # footer length (int32 LE) and the magic, parquet.apache.org/docs/file-format
_MAGIC = b"PAR1"
_GUESS_NBYTES = 1 << 16
# parquet-mr before 1.2.9 wrote column chunks up to 100 bytes longer than it said; Arrow's reader then reads on
# (PARQUET-816, cpp/src/parquet/file_reader.cc: kMaxDictHeaderSize).
_OLD_WRITER = re.compile(r"parquet-mr version 1\.([01]\.|2\.[0-8]\b)")
_OLD_WRITER_PADDING = 100


@dataclass(frozen=True, slots=True)
class _Footer:
    metadata: pq.FileMetaData
    offset: int  # of the footer in the file


def inspect(file: SourceFile, source: ByteSource) -> tuple[pa.Schema, dict[str, list[str]]]:
    """Return the file's schema; no options."""
    footer = _read_footer(source, file.nbytes, file.name)
    try:
        return footer.metadata.schema.to_arrow_schema(), {}
    except pa.ArrowException as error:
        raise SourceError(f"{file.name}: Parquet schema can't be used: {printable(str(error))}") from None


def plan(
    file: SourceFile,
    source: ByteSource,
    columns: Sequence[str],
    target: Target,
    limit: int | None,
    options: dict[str, list[str]],  # noqa: ARG001 - the signature of every format
) -> Iterator[ChunkRef]:
    """Yield the file's references; sizes are the decoded sizes of the needed columns."""
    footer = _read_footer(source, file.nbytes, file.name)
    md = footer.metadata
    leaves = _leaves(md, columns)
    groups = [md.row_group(k) for k in range(md.num_row_groups)]
    rows = [group.num_rows for group in groups]
    sizes = [sum(group.column(leaf).total_uncompressed_size for leaf in leaves) for group in groups]
    for piece in cut(rows, sizes, target, limit):
        chosen = [k for k in range(piece.first, piece.last) if rows[k]]
        ref = ChunkRef(
            index=0,
            file=file.index,
            format="parquet",
            fingerprint=file.fingerprint,
            origin_nbytes=file.nbytes,
            first_row=piece.first_row,
            n_rows=piece.n_rows,
            ranges=_ranges(footer, chosen, leaves, file.nbytes),
            columns=tuple(columns),
            detail={"footer": footer.offset, "row_groups": chosen, "skip": piece.skip},
        )
        if max(ref.input_nbytes, sum(sizes[k] for k in chosen)) > MAX_INPUT_NBYTES:
            raise SourceError(
                f"{file.name}: rows {ref.first_row} to {ref.first_row + ref.n_rows - 1}: row groups of more than "
                f"{MAX_INPUT_NBYTES >> 30} GiB can't be one chunk",
                hint="rewrite the file with smaller row groups, or ask for fewer rows per chunk",
            )
        yield ref


def recolumn(
    ref: ChunkRef,
    source: ByteSource,
    columns: Sequence[str],
    options: dict[str, list[str]],  # noqa: ARG001 - the signature of every format
) -> ChunkRef:
    """Return a reference to other columns of the same row groups."""
    footer = _read_footer(source, ref.origin_nbytes, f"file {ref.file}")
    ranges = _ranges(footer, _ints(ref, "row_groups"), _leaves(footer.metadata, columns), ref.origin_nbytes)
    return replace(ref, columns=tuple(columns), ranges=ranges)


def read(ref: ChunkRef, schema: pa.Schema, source: ByteSource, positions: npt.NDArray[np.int64] | None) -> ChunkRows:
    """Decode the row groups that hold the wanted rows, and only these."""
    where = ref.place
    footer_offset = int(cast("int", ref.detail["footer"]))
    tail = bytes(source.read(footer_offset, ref.origin_nbytes - footer_offset))
    md = pq.read_metadata(io.BytesIO(_MAGIC + tail))
    groups = _ints(ref, "row_groups")
    if any(k >= md.num_row_groups for k in groups):
        raise SourceError(f"{where}: expected row groups {groups}, found {md.num_row_groups} in the file")
    ends = np.cumsum([md.row_group(k).num_rows for k in groups], dtype=np.int64)
    skip = int(cast("int", ref.detail["skip"]))
    if not len(ends) or skip + ref.n_rows > ends[-1]:
        raise SourceError(f"{where}: expected {skip + ref.n_rows} rows in row groups {groups}, found fewer")
    offsets = np.arange(skip, skip + ref.n_rows) if positions is None else positions - ref.first_row + skip
    wanted = np.unique(np.searchsorted(ends, offsets, side="right"))
    sparse = pa.PythonFile(_SparseFile(source, ref.origin_nbytes), mode="r")
    # pre_buffer would join reads across small holes between columns, which were never fetched
    file = pq.ParquetFile(sparse, metadata=md, page_checksum_verification=False, pre_buffer=False)
    names = [name for name in schema.names if md.schema.to_arrow_schema().get_field_index(name) >= 0]
    table = file.read_row_groups([groups[k] for k in wanted], columns=names, use_threads=False)
    return conform(_pick(table, ends, wanted, offsets, whole=positions is None), schema, where)


def _pick(
    table: pa.Table,
    ends: npt.NDArray[np.int64],
    wanted: npt.NDArray[np.int64],
    offsets: npt.NDArray[np.int64],
    *,
    whole: bool,
) -> pa.Table:
    """Choose the rows at ``offsets`` (counted over all row groups) from the decoded ``wanted`` row groups."""
    if whole:
        first_start = int(ends[wanted[0]] - _rows(ends)[wanted[0]])
        return table.slice(int(offsets[0]) - first_start, len(offsets))
    rows = _rows(ends)
    decoded_starts = np.concatenate([[0], np.cumsum(rows[wanted])[:-1]]) if len(wanted) else np.zeros(0, np.int64)
    group = np.searchsorted(ends, offsets, side="right")
    within = offsets - (ends - rows)[group]
    return pick(table, decoded_starts[np.searchsorted(wanted, group)] + within)


def _rows(ends: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.diff(ends, prepend=0)


def _ints(ref: ChunkRef, key: str) -> list[int]:
    return [int(value) for value in cast("list[int]", ref.detail[key])]


def _read_footer(source: ByteSource, nbytes: int, name: str) -> _Footer:
    """Read the footer alone; raise ``SourceError`` naming the file if it is not one."""
    if nbytes < len(_MAGIC) + _TAIL:
        raise SourceError(f"{name}: expected a Parquet file, found {nbytes} bytes")
    guess = min(nbytes, _GUESS_NBYTES)
    tail = bytes(source.read(nbytes - guess, guess))
    if tail[-4:] != _MAGIC:
        raise SourceError(
            f"{name}: corrupt Parquet footer: expected the file to end with {_MAGIC!r}, found {tail[-4:]!r}"
        )
    length = int.from_bytes(tail[-8:-4], "little") + _TAIL
    if length > nbytes - len(_MAGIC):
        raise SourceError(f"{name}: corrupt Parquet footer: it says {length} bytes, the file has {nbytes}")
    offset = nbytes - length
    body = tail[-length:] if length <= guess else bytes(source.read(offset, length))
    try:
        return _Footer(pq.read_metadata(io.BytesIO(_MAGIC + body)), offset)
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{name}: corrupt Parquet footer: {printable(str(error))}") from None


def _leaves(md: pq.FileMetaData, columns: Sequence[str]) -> list[int]:
    """Return the leaf columns of top-level ``columns``, matched as pyarrow does: by path or path prefix."""
    schema = md.schema
    paths = [schema.column(k).path for k in range(md.num_columns)]
    prefixes = tuple(f"{name}." for name in columns)
    return [k for k, path in enumerate(paths) if path in columns or path.startswith(prefixes)]


def _ranges(footer: _Footer, groups: Iterable[int], leaves: Sequence[int], nbytes: int) -> tuple[tuple[int, int], ...]:
    md = footer.metadata
    padding = _OLD_WRITER_PADDING if _OLD_WRITER.search(md.created_by or "") else 0
    found = [(footer.offset, nbytes - footer.offset)]
    for k in groups:
        group = md.row_group(k)
        for leaf in leaves:
            column = group.column(leaf)
            start = column.data_page_offset
            dictionary = column.dictionary_page_offset
            # Some writers leave 0 there, or an offset behind the data (as Arrow's reader: only a smaller one counts).
            if column.has_dictionary_page and dictionary and 0 < dictionary < start:
                start = dictionary
            length = min(column.total_compressed_size + padding, footer.offset - start)
            if start < len(_MAGIC) or length < column.total_compressed_size:
                raise SourceError(
                    f"row group {k}, column {column.path_in_schema}: expected it inside the file's {nbytes} bytes, "
                    f"found bytes [{start}, {start + column.total_compressed_size})"
                )
            found.append((start, length))
    return coalesce(found)


class _SparseFile(io.RawIOBase):
    """A read-only file of ``nbytes`` over a ``ByteSource``, for pyarrow; a range that is not there raises."""

    def __init__(self, source: ByteSource, nbytes: int) -> None:
        super().__init__()
        self._source = source
        self._nbytes = nbytes
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._nbytes}[whence] + offset
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        left = self._nbytes - self._at
        length = left if size is None or size < 0 else min(size, left)
        data = bytes(self._source.read(self._at, length)) if length > 0 else b""
        self._at += length
        return data
