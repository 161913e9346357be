"""``text.quality@1`` compiled with Numba: every stage on one row while its bytes are in cache.

Stages: classes and words (``scan``), lines and paragraphs (``lines``), n-grams (``ngrams``), rules (``rules``). In
``decide`` mode a row stops at its first failing rule. Scratch is sized by the longest row of the call and reused.
Limit: hash tables of words and 2-grams, then the word scan.

Invariants: counters and reason equal ``reference.py``'s; reads only inside a row's bytes and padded scratch.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from muster.kernels.compiled import entry, helper
from muster.kernels.text_quality import counters as at
from muster.kernels.text_quality.lines import count_lines, count_paragraphs, count_pieces
from muster.kernels.text_quality.ngrams import count_repeated_grams, count_top_grams, mark_prefixes, number_words
from muster.kernels.text_quality.rules import cheap_rule, piece_rule, repeated_gram_rule, repetition_rule, top_gram_rule
from muster.kernels.text_quality.scan import PADDING, classify, count_stop_words, scan_words

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int32]
Counts = npt.NDArray[np.int64]


@helper
def _longest(offsets: Counts, valid: Bytes) -> int:
    longest = 0
    for r in range(offsets.shape[0] - 1):
        if valid.shape[0] == 0 or valid[r] != 0:
            longest = max(longest, offsets[r + 1] - offsets[r])
    return longest


@helper
def _lines_stage(
    n: int, raw: Bytes, classes: Bytes, ints: tuple[Ints, ...], table: Words, c: Counts, code: int, decide: bool
) -> tuple[Words, int]:
    """Count pieces and paragraphs and try their rules; ``ints`` are newlines, starts and lengths."""
    table = count_pieces(n, raw, classes, ints[0], ints[1], ints[2], table, c)
    if code == 0:
        code = piece_rule(c)
    if code != 0 and decide:
        return table, code
    table = count_paragraphs(n, raw, classes, ints[0], ints[1], ints[2], table, c)
    if code == 0:
        code = repetition_rule(c)
    return table, code


@helper
def _ngram_stage(
    n_words: int,
    text: Bytes,
    marks: Bytes,
    hashes: Words,
    ints: tuple[Ints, ...],
    table: Words,
    c: Counts,
    code: int,
    decide: bool,
) -> tuple[Words, int]:
    """Count n-grams and try their rules; ``ints`` are starts, ends and four vectors of scratch, one int32 a word."""
    starts, ends, numbers, grams, often, often_next = ints
    table = number_words(n_words, text, starts, hashes, numbers, often, table)
    grams[:n_words] = numbers[:n_words]
    table = count_top_grams(n_words, ends, numbers, grams, often, often_next, table, c)
    if code == 0:
        code = top_gram_rule(c)
    if (code != 0 and decide) or n_words < 5:
        return table, code
    table = mark_prefixes(n_words, text, starts, marks, table)
    for n in range(5, min(n_words, 10) + 1):
        table = count_repeated_grams(n_words, n, text, starts, ends, marks, table, c)
        if code == 0:
            code = repeated_gram_rule(c, n)
        if code != 0 and decide:
            break
    return table, code


def compile_rows(stamp: int) -> Callable[..., None]:
    """Return the compiled entry; ``stamp`` names the build in Numba's cache key.

    It takes offsets (n + 1 int64), data (uint8), valid (n uint8 or none), the class table, the stop words, decide
    (stop at the first failing rule), and writes codes (n uint8: failing rule + 1, or 0) and counts (counters x n int32,
    or counters x 0 if they are not wanted).
    """

    def quality_rows(
        offsets: Counts,
        data: Bytes,
        valid: Bytes,
        table_of_classes: Bytes,
        stop_words: Words,
        decide: bool,
        codes: Bytes,
        counts: npt.NDArray[np.int32],
    ) -> None:
        if stamp < 0:
            return
        size = _longest(offsets, valid) + PADDING
        raw, classes, text = np.empty(size, np.uint8), np.empty(size, np.uint8), np.empty(size, np.uint8)
        newlines, starts, lengths = np.empty(size, np.int32), np.empty(size, np.int32), np.empty(size, np.int32)
        n_most = size // 2 + 2
        marks, hashes = np.empty(n_most, np.uint8), np.empty(n_most, np.uint64)
        word_starts, word_ends = np.empty(n_most, np.int32), np.empty(n_most, np.int32)
        numbers, grams = np.empty(n_most, np.int32), np.empty(n_most, np.int32)
        often, often_next = np.empty(n_most, np.int32), np.empty(n_most, np.int32)
        line_ints = (newlines, starts, lengths)
        word_ints = (word_starts, word_ends, numbers, grams, often, often_next)
        table = np.empty(1 << 10, np.uint64)
        c = np.zeros(at.N_COUNTERS, np.int64)
        for r in range(offsets.shape[0] - 1):
            if valid.shape[0] != 0 and valid[r] == 0:
                continue
            n = offsets[r + 1] - offsets[r]
            c[:] = 0
            classify(data, offsets[r], n, table_of_classes, raw, classes, c)
            n_words = scan_words(n, raw, classes, text, word_starts, word_ends, hashes, c)
            code = 1 if decide and c[at.TEXT_WORDS] < 50 else 0
            if code == 0:
                count_lines(n, raw, classes, newlines, c)
                code = cheap_rule(c)
            if code == 0 or not decide:
                c[at.STOP_WORDS_FOUND] = count_stop_words(n_words, text, word_starts, stop_words, 2 if decide else 8)
                if code == 0 and c[at.STOP_WORDS_FOUND] < 2:
                    code = 10
            if code == 0 or not decide:
                table, code = _lines_stage(n, raw, classes, line_ints, table, c, code, decide)
            if code == 0 or not decide:
                table, code = _ngram_stage(n_words, text, marks, hashes, word_ints, table, c, code, decide)
            codes[r] = code
            if counts.shape[1] != 0:
                for k in range(at.N_COUNTERS):
                    counts[k, r] = c[k]

    return entry(quality_rows)
