"""Arrow IPC files and Feather (version 2): a chunk is whole record batches by byte range, or a slice of one.

A reader is given the schema message, the dictionaries and the chosen batches, which together are an Arrow stream; the
footer is read at planning only. Arrow *streams* have no footer and are staged (``staging.py``). Columns can't be
chosen on the wire: a batch is fetched whole.

Invariants: ``detail``: ``parts`` = offset and length of each message in stream order, the batches last; ``rows`` =
rows of each of these batches; ``skip`` = rows of the first batch that are before the chunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from muster.datasets.arrow_messages import Block, batch_rows, footer_blocks, message_nbytes
from muster.datasets.chunks import MAX_INPUT_NBYTES, ChunkRef, coalesce
from muster.datasets.cutting import Cut, Target, cut
from muster.datasets.reading import ByteSource, ChunkRows
from muster.datasets.schemas import conform, pick
from muster.errors import SourceError, printable

if TYPE_CHECKING:
    from muster.datasets.sources import SourceFile

MAGIC = b"ARROW1"
_FEATHER_1 = b"FEA1"
_HEAD = 8  # magic and padding
_TAIL = 10  # footer length (int32 LE) and magic
_END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a file's messages lie, and the rows of each batch."""

    schema: Block
    dictionaries: list[Block]
    batches: list[Block]
    rows: list[int]


class Located(NamedTuple):
    """The ``ranges`` and ``detail`` of a reference to a cut."""

    ranges: tuple[tuple[int, int], ...]
    detail: dict[str, int | str | list[int] | list[str]]


def is_stream(file: SourceFile, source: ByteSource) -> bool:
    """Say whether a file is an Arrow stream (not an IPC file); Feather version 1 raises ``SourceError``."""
    head = bytes(source.read(0, min(_HEAD, file.nbytes)))
    if head.startswith(_FEATHER_1):
        raise SourceError(f"{file.name}: Feather version 1 is not supported", hint="rewrite it as version 2")
    if head.startswith(MAGIC):
        return False
    if len(head) == _HEAD and head.startswith(b"\xff\xff\xff\xff"):
        return True
    raise SourceError(f"{file.name}: expected an Arrow IPC file or stream, found {head!r} at its start")


def inspect(file: SourceFile, source: ByteSource) -> tuple[pa.Schema, dict[str, list[str]]]:
    """Return the file's schema; no options."""
    nbytes = file.blob_nbytes or file.nbytes
    layout = read_layout(source, nbytes, file.name, with_rows=False)
    try:
        return pa.ipc.read_schema(pa.py_buffer(source.read(layout.schema.offset, layout.schema.nbytes))), {}
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{file.name}: corrupt Arrow schema: {printable(str(error))}") from None


def plan(
    file: SourceFile,
    source: ByteSource,
    columns: Sequence[str],
    target: Target,
    limit: int | None,
    options: dict[str, list[str]],  # noqa: ARG001 - the signature of every format
) -> Iterator[ChunkRef]:
    """Yield the file's references; sizes are those of whole batches as they are stored."""
    layout = read_layout(source, file.nbytes, file.name)
    for piece in cut(layout.rows, [block.nbytes for block in layout.batches], target, limit):
        yield ChunkRef(
            index=0,
            file=file.index,
            format="arrow",
            fingerprint=file.fingerprint,
            origin_nbytes=file.nbytes,
            first_row=piece.first_row,
            n_rows=piece.n_rows,
            columns=tuple(columns),
            **ranges_and_detail(layout, piece, file.name)._asdict(),
        )


def ranges_and_detail(layout: Layout, piece: Cut, name: str) -> Located:
    """Return the ranges and detail of the reference to a cut."""
    chosen = [k for k in range(piece.first, piece.last) if layout.rows[k]]
    messages = [layout.schema, *layout.dictionaries, *(layout.batches[k] for k in chosen)]
    ranges = coalesce((m.offset, m.nbytes) for m in messages)
    if sum(length for _, length in ranges) > MAX_INPUT_NBYTES:
        raise SourceError(
            f"{name}: rows {piece.first_row} to {piece.first_row + piece.n_rows - 1}: record batches of more than "
            f"{MAX_INPUT_NBYTES >> 30} GiB can't be one chunk",
            hint="rewrite the file with smaller record batches, or ask for fewer rows per chunk",
        )
    parts = [number for m in messages for number in (m.offset, m.nbytes)]
    return Located(ranges, {"parts": parts, "rows": [layout.rows[k] for k in chosen], "skip": piece.skip})


def recolumn(
    ref: ChunkRef,
    source: ByteSource,  # noqa: ARG001 - the signature of every format
    columns: Sequence[str],
    options: dict[str, list[str]],  # noqa: ARG001 - the signature of every format
) -> ChunkRef:
    """Return a reference to other columns of the same batches."""
    return replace(ref, columns=tuple(columns))


def read(ref: ChunkRef, schema: pa.Schema, source: ByteSource, positions: npt.NDArray[np.int64] | None) -> ChunkRows:
    """Decode the batches that hold the wanted rows, and only these."""
    table = read_batches(ref, source, positions, schema.names)
    return conform(table, schema, ref.place)


def read_batches(
    ref: ChunkRef, source: ByteSource, positions: npt.NDArray[np.int64] | None, columns: Sequence[str]
) -> pa.Table:
    """Return the wanted rows of the columns that are there, as stored."""
    rows = np.asarray(ref.detail["rows"], dtype=np.int64)
    parts = cast("list[int]", ref.detail["parts"])
    messages = list(zip(parts[::2], parts[1::2], strict=True))
    n_before = len(messages) - len(rows)
    skip = int(cast("int", ref.detail["skip"]))
    ends = np.cumsum(rows)
    where = ref.place
    if n_before < 1 or not len(rows) or skip + ref.n_rows > ends[-1]:
        raise SourceError(f"{where}: the reference's batches do not hold its rows")
    offsets = np.arange(skip, skip + ref.n_rows) if positions is None else positions - ref.first_row + skip
    wanted = np.unique(np.searchsorted(ends, offsets, side="right"))
    chosen = messages[:n_before] + [messages[n_before + k] for k in wanted]
    stream = b"".join([*(bytes(source.read(*message)) for message in chosen), _END_OF_STREAM])
    pieces = []
    with pa.ipc.open_stream(pa.py_buffer(stream)) as reader:
        for k, batch in zip(wanted, reader, strict=True):
            if batch.num_rows != rows[k]:
                raise SourceError(f"{where}: expected a batch of {rows[k]} rows, found {batch.num_rows}")
            batch.validate(full=False)
            start = int(ends[k] - rows[k])
            inside = offsets[(offsets >= start) & (offsets < ends[k])] - start
            kept = batch.select([name for name in columns if batch.schema.get_field_index(name) >= 0])
            pieces.append(pick(pa.Table.from_batches([kept]), inside))
        have = reader.schema
    names = [name for name in columns if have.get_field_index(name) >= 0]
    return pa.concat_tables(pieces) if pieces else pa.schema([have.field(name) for name in names]).empty_table()


def read_layout(source: ByteSource, nbytes: int, name: str, *, with_rows: bool = True) -> Layout:
    """Read a file's footer and, ``with_rows``, each batch's metadata; ``SourceError`` naming the file if broken."""
    if nbytes < _HEAD + _TAIL:
        raise SourceError(f"{name}: expected an Arrow IPC file, found {nbytes} bytes")
    tail = bytes(source.read(nbytes - _TAIL, _TAIL))
    length = int.from_bytes(tail[:4], "little", signed=True)
    if tail[4:] != MAGIC or not 0 < length <= nbytes - _HEAD - _TAIL:
        raise SourceError(f"{name}: corrupt Arrow footer: expected it to end with {MAGIC!r}, found {tail!r}")
    try:
        dictionaries, batches = footer_blocks(bytes(source.read(nbytes - _TAIL - length, length)))
        head = bytes(source.read(_HEAD, 8))
        schema = Block(_HEAD, message_nbytes(head), message_nbytes(head))
        end = nbytes - _TAIL - length
        for block in [schema, *dictionaries, *batches]:
            if block.offset < _HEAD or not 0 < block.meta_nbytes <= block.nbytes or block.offset + block.nbytes > end:
                raise ValueError(f"a block at {block.offset} of {block.nbytes} bytes lies outside the file")
        rows = [batch_rows(bytes(source.read(b.offset, b.meta_nbytes))) for b in batches] if with_rows else []
    except ValueError as error:
        raise SourceError(f"{name}: corrupt Arrow metadata: {error}") from None
    return Layout(schema, dictionaries, batches, rows)
