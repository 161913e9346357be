"""``text.quality@1`` compiled with Numba: every stage on one row while its bytes are in cache.

Stages: classes and words (``scan``), lines and paragraphs (``lines``), n-grams (``ngrams``), rules (``rules``). In
``decide`` mode a row stops at its first failing rule. Scratch is sized by the longest row of the call and reused;
pages that no row needs are never touched. Limit: hash tables of words and n-grams, then the word scan.

Invariants: counters and reason equal ``reference.py``'s; reads only inside a row's bytes and padded scratch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from muster.kernels.compiled import entry, helper
from muster.kernels.text_quality import counters as at
from muster.kernels.text_quality.lines import count_lines, count_paragraphs, count_pieces
from muster.kernels.text_quality.ngrams import count_repeated_grams, count_top_grams, list_places, number_words
from muster.kernels.text_quality.rules import cheap_rule, piece_rule, repeated_gram_rule, repetition_rule, top_gram_rule
from muster.kernels.text_quality.scan import PADDING, classify, count_stop_words, scan_words
from muster.kernels.text_quality.tables import sketch_slots, sum_words, table_slots

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int32]
Counts = npt.NDArray[np.int64]

_BLOCK = 64  # rows whose counters are gathered before they are written column by column


class Scratch(NamedTuple):
    """Buffers for one row: by byte (raw … lengths), by word (marks … often), tables, counters, a block of counters."""

    raw: Bytes
    classes: Bytes
    text: Bytes
    newlines: Ints
    starts: Ints
    lengths: Ints
    marks: Bytes
    hashes: Words
    sums: Words
    word_starts: Ints
    word_ends: Ints
    numbers: Ints
    grams: Ints
    often: Ints
    table: Words
    sketch: Bytes
    c: Counts
    block: Ints


def scratch_for(longest: int) -> Scratch:
    """Return buffers for rows of up to ``longest`` bytes; made outside, because that compiles faster."""
    size, n_words = longest + PADDING, longest // 2 + 2
    return Scratch(
        raw=np.empty(size, np.uint8),
        classes=np.empty(size, np.uint8),
        text=np.empty(size, np.uint8),
        newlines=np.empty(size, np.int32),
        starts=np.empty(size, np.int32),
        lengths=np.empty(size, np.int32),
        marks=np.empty(n_words, np.uint8),
        hashes=np.empty(n_words, np.uint64),
        sums=np.empty(n_words, np.uint64),
        word_starts=np.empty(n_words, np.int32),
        word_ends=np.empty(n_words, np.int32),
        numbers=np.empty(n_words, np.int32),
        grams=np.empty(n_words, np.int32),
        often=np.empty(n_words, np.int32),
        table=np.empty(table_slots(longest + 1), np.uint64),
        sketch=np.empty(sketch_slots(n_words), np.uint8),
        c=np.zeros(at.N_COUNTERS, np.int64),
        block=np.zeros((_BLOCK, at.N_COUNTERS), np.int32),
    )


@helper
def _line_stages(n: int, s: Scratch, code: int, decide: bool) -> int:
    """Count pieces and paragraphs and try their rules; return the first failing rule's code."""
    count_pieces(n, s.raw, s.classes, s.newlines, s.starts, s.lengths, s.table, s.c)
    if code == 0:
        code = piece_rule(s.c)
    if code != 0 and decide:
        return code
    count_paragraphs(n, s.raw, s.classes, s.newlines, s.starts, s.lengths, s.table, s.c)
    return repetition_rule(s.c) if code == 0 else code


@helper
def _ngram_stages(n_words: int, s: Scratch, code: int, decide: bool) -> int:
    """Count n-grams and try their rules; return the first failing rule's code."""
    number_words(n_words, s.text, s.word_starts, s.hashes, s.numbers, s.often, s.table)
    count_top_grams(n_words, s.word_ends, s.numbers, s.grams, s.often, s.marks, s.table, s.c)
    if code == 0:
        code = top_gram_rule(s.c)
    if (code != 0 and decide) or n_words < 5:
        return code
    n_places = list_places(n_words, s.text, s.word_starts, s.sketch, s.hashes, s.numbers)
    sum_words(n_words, s.text, s.word_starts, s.sums)
    ints = (s.word_starts, s.word_ends, s.numbers, s.grams)
    for n in range(5, min(n_words, 10) + 1):
        count_repeated_grams(n_words, n, s.text, ints, n_places, (s.sums, s.hashes), s.sketch, s.table, s.c)
        if code == 0:
            code = repeated_gram_rule(s.c, n)
        if code != 0 and decide:
            break
    return code


@helper
def _row(data: Bytes, start: int, n: int, classes: Bytes, stop_words: Words, s: Scratch, decide: bool) -> int:
    """Fill the counters of one row (with ``decide``, only as far as needed); return the first failing rule's code."""
    classify(data, start, n, classes, s.raw, s.classes, s.c)
    n_words = scan_words(n, s.raw, s.classes, s.text, s.word_starts, s.word_ends, s.hashes, s.c)
    if decide and s.c[at.TEXT_WORDS] < 50:
        return 1
    count_lines(n, s.raw, s.classes, s.newlines, s.c)
    code = cheap_rule(s.c)
    if code != 0 and decide:
        return code
    enough = 2 if decide else len(at.STOP_WORDS)
    s.c[at.STOP_WORDS_FOUND] = count_stop_words(n_words, s.text, s.word_starts, stop_words, enough)
    if code == 0 and s.c[at.STOP_WORDS_FOUND] < 2:
        code = 10
    if code == 0 or not decide:
        code = _line_stages(n, s, code, decide)
    if code == 0 or not decide:
        code = _ngram_stages(n_words, s, code, decide)
    return code


@helper
def _write_block(block: Ints, first: int, n: int, counts: Ints) -> None:
    """Write the counters of ``n`` rows column by column: far fewer pages are touched at a time."""
    for k in range(block.shape[1]):
        for b in range(n):
            counts[k, first + b] = block[b, k]


def compile_rows(stamp: int) -> Callable[..., None]:
    """Return the compiled entry; ``stamp`` names the build in Numba's cache key.

    It takes offsets (n + 1 int64), data (uint8), valid (n uint8 or none), the class table, the stop words, scratch for
    the longest row, decide (stop at the first failing rule), and writes codes (n uint8: failing rule + 1, or 0) and
    counts (counters x n int32, or counters x 0 if they are not wanted).
    """

    def quality_rows(
        offsets: Counts,
        data: Bytes,
        valid: Bytes,
        classes: Bytes,
        stop_words: Words,
        scratch: Scratch,
        decide: bool,
        codes: Bytes,
        counts: Ints,
    ) -> None:
        if stamp < 0:
            return
        n_rows = offsets.shape[0] - 1
        for r in range(n_rows):
            for k in range(at.N_COUNTERS):
                scratch.c[k] = 0
            if valid.shape[0] == 0 or valid[r] != 0:
                n = offsets[r + 1] - offsets[r]
                codes[r] = _row(data, offsets[r], n, classes, stop_words, scratch, decide)
            if counts.shape[1] != 0:
                b = r % _BLOCK
                for k in range(at.N_COUNTERS):
                    scratch.block[b, k] = scratch.c[k]
                if b == _BLOCK - 1 or r == n_rows - 1:
                    _write_block(scratch.block, r - b, b + 1, counts)

    return entry(quality_rows)
