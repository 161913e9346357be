"""Cut a file's pieces (row groups, record batches) into chunks of whole rows; pure arithmetic, no I/O.

Invariants: cuts are in order, cover every row exactly once up to ``limit``, are never empty, and depend only on the
pieces and the target. With ``rows_per_chunk`` every cut but the last has exactly that many rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

# Bounds the ranges of one reference: a file of many tiny row groups must not give a huge message.
MAX_PIECES = 512


@dataclass(frozen=True, slots=True)
class Target:
    """How big a chunk should be: exactly ``rows`` rows, or about ``nbytes`` decoded bytes if ``rows`` is None."""

    rows: int | None
    nbytes: int


@dataclass(frozen=True, slots=True)
class Cut:
    """Rows ``[first_row, first_row + n_rows)``: in pieces ``[first, last)``, after ``skip`` rows of the first one."""

    first_row: int
    n_rows: int
    first: int
    last: int
    skip: int


def cut(rows: Sequence[int], nbytes: Sequence[int], target: Target, limit: int | None) -> Iterator[Cut]:
    """Yield the cuts of pieces with these row counts and decoded sizes (bytes), up to ``limit`` rows."""
    ends = np.cumsum(np.asarray(rows, dtype=np.int64))
    total = int(ends[-1]) if len(ends) else 0
    if limit is not None:
        total = min(total, limit)
    start = 0
    for stop in _by_rows(total, target.rows) if target.rows else _by_nbytes(rows, nbytes, target.nbytes):
        end = min(stop, total)
        if end <= start:
            break
        first = int(np.searchsorted(ends, start, side="right"))
        last = int(np.searchsorted(ends, end, side="left")) + 1
        before = int(ends[first - 1]) if first else 0
        yield Cut(start, end - start, first, last, start - before)
        start = end


def _by_rows(total: int, step: int) -> Iterator[int]:
    yield from range(step, total + step, step)


def _by_nbytes(rows: Sequence[int], nbytes: Sequence[int], target: int) -> Iterator[int]:
    """Yield the row at which each chunk ends: whole pieces up to the target, even slices of a bigger one."""
    done = held = pieces = 0
    for n_rows, size in zip(rows, nbytes, strict=True):
        if n_rows == 0:
            continue
        if pieces and (held + size > target or pieces == MAX_PIECES):
            yield done
            held = pieces = 0
        if size > target and n_rows > 1:
            n_slices = min(-(-size // target), n_rows)
            yield from (done + n_rows * k // n_slices for k in range(1, n_slices + 1))
            done += n_rows
            continue
        done += n_rows
        held += size
        pieces += 1
    if pieces:
        yield done
