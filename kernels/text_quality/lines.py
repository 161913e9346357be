"""Line stages of the compiled ``text.quality@1``: lines of three kinds, and paragraphs.

``splitlines`` lines (bullets, ellipses), pieces between newlines (FineWeb; and, without empty ones, Gopher's duplicate
lines), and paragraphs of the stripped text. It does NOT look at words. Invariant: ``raw`` and ``classes`` are padded
as ``scan.classify`` leaves them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from muster.kernels.compiled import helper
from muster.kernels.machine_words import I64, LOW_BITS, U64, load64, trailing_zeros
from muster.kernels.text_quality import counters as at
from muster.kernels.text_quality.scan import BREAK, CONTINUES, SPACE, TERMINAL
from muster.kernels.text_quality.tables import clear, seen_before

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int32]
Counts = npt.NDArray[np.int64]

_BREAK_8 = U64(BREAK) * LOW_BITS


@helper
def _count_line(raw: Bytes, classes: Bytes, start: int, end: int, c: Counts) -> None:
    """Count one line of ``str.splitlines``: bullet at its beginning, ellipsis at its end."""
    c[at.LINES] += 1
    first = start
    while first < end and classes[first] & SPACE:
        first += 1
    if first == end:
        return
    bullet = raw[first] == 45 or (raw[first] == 0xE2 and raw[first + 1] == 0x80 and raw[first + 2] == 0xA2)
    c[at.BULLET_LINES] += bullet
    last = end - 1
    while classes[last] & SPACE:
        last -= 1
    if last - first >= 2:
        dots = raw[last] == 46 and raw[last - 1] == 46 and raw[last - 2] == 46
        c[at.ELLIPSIS_LINES] += dots or (raw[last] == 0xA6 and raw[last - 1] == 0x80 and raw[last - 2] == 0xE2)


@helper
def count_lines(n: int, raw: Bytes, classes: Bytes, newlines: Ints, c: Counts) -> int:
    """Count lines as ``str.splitlines`` cuts them; write where the newlines are and return how many."""
    start, i, n_newlines = 0, 0, 0
    while i < n:
        breaks = load64(classes, i) & _BREAK_8
        while breaks != U64(0):
            at_byte = i + (trailing_zeros(breaks) >> 3)
            breaks &= breaks - U64(1)
            newline = raw[at_byte] == 10
            if newline:
                newlines[n_newlines] = at_byte
                n_newlines += 1
            if newline and at_byte > 0 and raw[at_byte - 1] == 13:
                start = at_byte + 1  # the second half of "\r\n"
                continue
            _count_line(raw, classes, start, at_byte, c)
            start = at_byte + 1
            while classes[start] & CONTINUES:
                start += 1
        i += 8
    if start < n:
        _count_line(raw, classes, start, n, c)
    c[at.NEWLINES] = n_newlines
    return n_newlines


@helper
def _code_points(classes: Bytes, start: int, end: int, wide: bool) -> int:
    n = end - start
    if wide:
        for i in range(start, end):
            n -= (classes[i] & CONTINUES) != 0
    return n


@helper
def _is_blank(classes: Bytes, start: int, end: int) -> bool:
    while start < end and classes[start] & SPACE:
        start += 1
    return start == end


@helper
def count_pieces(
    n: int, raw: Bytes, classes: Bytes, newlines: Ints, starts: Ints, lengths: Ints, table: Words, c: Counts
) -> None:
    """Count the pieces between newlines: FineWeb's filled lines and Gopher's segments share their hashes."""
    wide = c[at.CHARS] != n
    n_newlines = c[at.NEWLINES]
    mask = clear(table, n_newlines + 1)
    start, n_pieces = 0, 0
    for k in range(n_newlines + 1):
        end = I64(newlines[k]) if k < n_newlines else n
        if end > start:
            starts[n_pieces], lengths[n_pieces] = start, end - start
            repeated = seen_before(table, mask, raw, starts, lengths, n_pieces)
            n_pieces += 1
            n_chars = _code_points(classes, start, end, wide)
            if repeated:
                c[at.DUP_SEGMENTS] += 1
                c[at.DUP_SEGMENT_CHARS] += n_chars
            if not _is_blank(classes, start, end):
                last = end - 1
                while classes[last] & CONTINUES:
                    last -= 1
                c[at.FILLED_LINES] += 1
                c[at.PUNCTUATED_LINES] += (classes[last] & TERMINAL) != 0
                c[at.SHORT_LINES] += n_chars <= at.SHORT_LINE_CHARS
                c[at.DUP_FILLED_LINE_CHARS] += n_chars if repeated else 0
        start = end + 1
    # Splitting at runs of newlines leaves an empty segment before a first and after a last newline.
    empty = 1 if n == 0 else (raw[0] == 10) + (raw[n - 1] == 10)
    c[at.SEGMENTS] = n_pieces + empty
    c[at.DUP_SEGMENTS] += empty == 2


@helper
def count_paragraphs(
    n: int, raw: Bytes, classes: Bytes, newlines: Ints, starts: Ints, lengths: Ints, table: Words, c: Counts
) -> None:
    """Count the paragraphs of the stripped text, cut at two or more newlines in a row."""
    first, last = 0, n
    while first < n and classes[first] & SPACE:
        first += 1
    while last > first and classes[last - 1] & SPACE:
        last -= 1
    n_newlines = c[at.NEWLINES]
    start, n_paragraphs, k = first, 0, 0
    while k < n_newlines and newlines[k] < first:
        k += 1
    while k + 1 < n_newlines and newlines[k + 1] < last:
        if newlines[k + 1] == newlines[k] + 1:
            starts[n_paragraphs], lengths[n_paragraphs] = start, newlines[k] - start
            n_paragraphs += 1
            k += 1
            while k + 1 < n_newlines and newlines[k + 1] == newlines[k] + 1:
                k += 1
            start = newlines[k] + 1
        k += 1
    starts[n_paragraphs], lengths[n_paragraphs] = start, last - start
    n_paragraphs += 1
    c[at.PARAGRAPHS] = n_paragraphs
    if n_paragraphs == 1:
        return
    mask = clear(table, n_paragraphs)
    wide = c[at.CHARS] != n
    for p in range(n_paragraphs):
        if seen_before(table, mask, raw, starts, lengths, p):
            c[at.DUP_PARAGRAPHS] += 1
            begin = I64(starts[p])
            c[at.DUP_PARAGRAPH_CHARS] += _code_points(classes, begin, begin + lengths[p], wide)
