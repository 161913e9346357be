"""Uncompressed JSON lines: a chunk is a byte range that begins and ends at line ends.

A row's position is its line number (0-based). Blank lines after the last row are not rows; a blank line before it is
a row and is rejected. It does not parse values (``json_rows.py``) and does not hold the file: planning counts line
feeds in blocks.

Invariants: every reference's range holds exactly its ``n_rows`` lines; types are guessed from the first 1,000 lines
alone and then frozen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from muster.datasets.chunks import MAX_INPUT_NBYTES, MAX_ROWS, ChunkRef
from muster.datasets.cutting import Target
from muster.datasets.json_rows import JsonRows, parse
from muster.datasets.json_types import infer
from muster.datasets.reading import ByteSource, ChunkRows
from muster.errors import SourceChangedError, SourceError

if TYPE_CHECKING:
    from muster.datasets.sources import SourceFile

_BLOCK_NBYTES = 1 << 20  # stays in the CPU's cache while it is compared and counted
SPACE = b" \t\r\n"
INFER_ROWS = 1000
_INFER_NBYTES = 64 << 20


def inspect(file: SourceFile, source: ByteSource) -> tuple[pa.Schema, dict[str, list[str]]]:
    """Guess the types from the first lines; option ``json``: the columns kept as JSON text."""
    lines: list[bytes] = []
    rest = b""
    for block in _blocks(source, 0, min(file.nbytes, _INFER_NBYTES)):
        *whole, rest = (rest + bytes(block)).split(b"\n")
        lines += whole
        if len(lines) >= INFER_ROWS:
            break
    else:
        if rest and file.nbytes <= _INFER_NBYTES:
            lines.append(rest)
    return infer_lines(file.name, lines[:INFER_ROWS])


def infer_lines(name: str, lines: list[bytes]) -> tuple[pa.Schema, dict[str, list[str]]]:
    """Return the schema of a file's first lines; ``SourceError`` if none is an object, with the first reason."""
    if lines:
        lines[0] = lines[0].removeprefix(b"\xef\xbb\xbf")
    lines = [line for line in lines if line.strip(SPACE)]
    reasons: dict[int, str] = {}
    rows = parse(lines, reasons) if lines else []
    document = bool(lines) and (lines[0].lstrip(SPACE).startswith(b"[") or lines[0].strip(SPACE) == b"{")
    if reasons and (document or len(reasons) == len(rows)):
        raise SourceError(
            f"{name}: line 1: {reasons[0]}; {len(reasons)} of the first {len(rows)} lines are not JSON objects",
            hint="JSON lines have one object on each line; a single JSON document is not supported",
        )
    schema, as_json = infer(rows)
    return schema, {"json": as_json}


def plan(
    file: SourceFile,
    source: ByteSource,
    columns: Sequence[str],
    target: Target,
    limit: int | None,
    options: dict[str, list[str]],
) -> Iterator[ChunkRef]:
    """Yield references of exactly ``target.rows`` lines, or of whole lines up to the first end after ``nbytes``."""
    end = _content_end(source, file.nbytes)
    cuts = _cut_rows(source, end, target.rows) if target.rows else _cut_nbytes(source, end, target.nbytes)
    if limit is not None:
        cuts = _limited(cuts, source, limit)
    for offset, stop, first_row, n_rows in cuts:
        if stop - offset > MAX_INPUT_NBYTES or n_rows > MAX_ROWS:
            raise SourceError(
                f"{file.name}: lines {first_row + 1} to {first_row + n_rows}: {stop - offset} bytes can't be one chunk",
                hint="ask for fewer rows per chunk; if it is one line, remove it",
            )
        yield ChunkRef(
            index=0,
            file=file.index,
            format="jsonl",
            fingerprint=file.fingerprint,
            origin_nbytes=file.nbytes,
            first_row=first_row,
            n_rows=n_rows,
            ranges=((offset, stop - offset),),
            columns=tuple(columns),
            detail={"json": json_columns(columns, options)},
        )


def recolumn(
    ref: ChunkRef,
    source: ByteSource,  # noqa: ARG001 - the signature of every format
    columns: Sequence[str],
    options: dict[str, list[str]],
) -> ChunkRef:
    """Return a reference to other columns of the same lines."""
    return replace(ref, columns=tuple(columns), detail={**ref.detail, "json": json_columns(columns, options)})


def json_columns(columns: Sequence[str], options: dict[str, list[str]]) -> list[str]:
    """Return those of ``columns`` that are kept as JSON text."""
    return [name for name in options.get("json", []) if name in columns]


def read(ref: ChunkRef, schema: pa.Schema, source: ByteSource, positions: npt.NDArray[np.int64] | None) -> ChunkRows:
    """Parse the lines of a reference, or only those at ``positions``."""
    rows = JsonRows(schema, cast("list[str]", ref.detail.get("json", [])))
    at_start = ref.first_row == 0
    if len(ref.ranges) != 1:
        raise SourceError(f"{ref.place}: expected one byte range")
    data = source.read(*ref.ranges[0])
    if positions is None:
        lines = bytes(data).split(b"\n")
        if lines[-1] == b"" and len(lines) == ref.n_rows + 1:
            lines.pop()
        _check_count(ref, len(lines))
        rows.add(lines, at_start=at_start)
        return rows.finish()
    ends = _line_ends(data)
    starts = np.concatenate([[0], ends[:-1] + 1])
    _check_count(ref, len(ends))
    view = memoryview(data)
    wanted = positions - ref.first_row
    lines = [bytes(view[a:b]) for a, b in zip(starts[wanted].tolist(), ends[wanted].tolist(), strict=True)]
    rows.add(lines, at_start=at_start and len(wanted) > 0 and int(wanted[0]) == 0)
    return rows.finish()


def _check_count(ref: ChunkRef, found: int) -> None:
    if found != ref.n_rows:
        where = ref.place
        raise SourceChangedError(f"{where}: expected {ref.n_rows} lines as planned, found {found}")


def _line_ends(data: bytes | memoryview) -> npt.NDArray[np.int64]:
    ends = np.flatnonzero(np.frombuffer(data, dtype=np.uint8) == ord("\n"))
    return ends if len(ends) and ends[-1] == len(data) - 1 else np.append(ends, len(data))


def _blocks(source: ByteSource, start: int, end: int, size: int = _BLOCK_NBYTES) -> Iterator[bytes | memoryview]:
    for at in range(start, end, size):
        yield source.read(at, min(size, end - at))


def _content_end(source: ByteSource, nbytes: int) -> int:
    """Return the offset after the last byte that is not white space."""
    size = 1 << 12
    end = nbytes
    while end > 0:
        start = max(0, end - size)
        kept = bytes(source.read(start, end - start)).rstrip(SPACE)
        if kept:
            return start + len(kept)
        end, size = start, min(size * 4, _BLOCK_NBYTES)
    return 0


def _cut_nbytes(source: ByteSource, end: int, target: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (offset, stop, first row, rows): each stops after the first line end at or behind ``target`` bytes."""
    offset = first_row = n_rows = at = 0
    for block in _blocks(source, 0, end):
        flags = np.frombuffer(block, dtype=np.uint8) == ord("\n")
        done = 0
        while offset + target - 1 < at + len(flags):
            due = max(done, offset + target - 1 - at)
            step = int(flags[due:].argmax()) if due < len(flags) else 0
            if not flags[due + step]:
                break  # the line goes on in the next block
            stop = due + step + 1
            n_rows += int(np.count_nonzero(flags[done:stop]))
            yield offset, at + stop, first_row, n_rows
            first_row += n_rows
            offset, n_rows, done = at + stop, 0, stop
        n_rows += int(np.count_nonzero(flags[done:]))
        at += len(flags)
    if offset < end:
        yield offset, end, first_row, n_rows + 1


def _cut_rows(source: ByteSource, end: int, step: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (offset, stop, first row, rows) of exactly ``step`` lines, fewer at the end."""
    offset = first_row = seen = at = 0
    for block in _blocks(source, 0, end):
        flags = np.frombuffer(block, dtype=np.uint8) == ord("\n")
        n_lines = int(np.count_nonzero(flags))
        if seen + n_lines >= step:
            feeds = np.flatnonzero(flags)
            for k in range(step - seen - 1, n_lines, step):
                stop = at + int(feeds[k]) + 1
                yield offset, stop, first_row, step
                offset, first_row = stop, first_row + step
        seen = (seen + n_lines) % step
        at += len(flags)
    if offset < end:
        yield offset, end, first_row, seen + 1


def _limited(
    cuts: Iterator[tuple[int, int, int, int]], source: ByteSource, limit: int
) -> Iterator[tuple[int, int, int, int]]:
    """Stop after ``limit`` rows; the last cut is shortened to its first lines."""
    for offset, stop, first_row, n_rows in cuts:
        if first_row + n_rows <= limit:
            yield offset, stop, first_row, n_rows
        if first_row + n_rows >= limit:
            keep = limit - first_row
            if 0 < keep < n_rows:
                _, shorter, _, _ = next(_cut_rows(_Shifted(source, offset), stop - offset, keep))
                yield offset, offset + shorter, first_row, keep
            return


class _Shifted:
    """A byte source whose offset 0 is another's ``by``."""

    def __init__(self, source: ByteSource, by: int) -> None:
        self._source = source
        self._by = by

    def read(self, offset: int, length: int) -> bytes | memoryview:
        return self._source.read(self._by + offset, length)
