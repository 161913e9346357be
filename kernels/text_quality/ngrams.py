"""Word n-gram stages of the compiled ``text.quality@1``.

Most n-grams never repeat, and both stages look only at those that might. A 3-gram repeats only where its 2-grams do
(a word's number is the position of its first occurrence, so that pairs of numbers stand for n-grams exactly). Gopher's
repeated 5- to 10-grams are compared without the spaces between their words, so there that argument fails: instead, two
equal runs of at least ``_PREFIX`` bytes begin with the same ``_PREFIX`` bytes, and one table of prefixes serves all six
lengths; shorter runs are always looked at. It does NOT know rules. Invariant: counters equal ``reference.py``'s.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from muster.kernels.compiled import helper
from muster.kernels.text_quality import counters as at
from muster.kernels.text_quality.tables import clear, first_pair, first_prefix, first_run, first_word, mask_for

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int32]
Counts = npt.NDArray[np.int64]

_PREFIX = 24


@helper
def number_words(
    n_words: int, text: Bytes, starts: Ints, hashes: Words, numbers: Ints, often: Ints, table: Words
) -> Words:
    """Number each word by its first occurrence; ``often`` at that place counts them."""
    table = clear(table, n_words)
    mask = mask_for(n_words)
    for j in range(n_words):
        first = first_word(table, mask, text, starts, hashes, j)
        numbers[j] = first
        if first == j:
            often[j] = 1
        else:
            often[first] += 1
    return table


@helper
def count_top_grams(
    n_words: int, ends: Ints, words: Ints, grams: Ints, often: Ints, often_next: Ints, table: Words, c: Counts
) -> Words:
    """Find the most frequent 2-, 3- and 4-gram. ``grams`` and ``often`` come in for words and are overwritten."""
    for n in range(2, 5):
        n_grams = n_words - n + 1
        if n_grams <= 0:
            break
        n_candidates = 0
        for j in range(n_grams):
            n_candidates += (often[grams[j]] > 1) & (often[grams[j + 1]] > 1)
        table = clear(table, n_candidates)
        mask = mask_for(n_candidates)
        most, where = 1, 0
        for j in range(n_grams):
            often_next[j] = 1
        # Positions are read ahead of where they are overwritten: gram j + 1 of the shorter kind is still there.
        for j in range(n_grams):
            if often[grams[j]] == 1 or often[grams[j + 1]] == 1:
                continue
            first = first_pair(table, mask, grams, words, n - 1, j)
            if first == j:
                continue
            often_next[first] += 1
            often_next[j] = -first
            count = often_next[first]
            if count > most:
                most, where = count, first
            elif count == most and first < where:
                where = first
        for j in range(n_grams):
            if often_next[j] <= 0:
                grams[j] = -often_next[j]
                often[j] = 0
            else:
                grams[j] = j
                often[j] = often_next[j]
        c[at.TOP_2_GRAM_CHARS + n - 2] = most * (ends[where + n] - ends[where] + n - 1)
        if most == 1:
            for longer in range(n + 1, min(5, n_words + 1)):
                c[at.TOP_2_GRAM_CHARS + longer - 2] = ends[longer] + longer - 1
            break
    return table


@helper
def mark_prefixes(n_words: int, text: Bytes, starts: Ints, marks: Bytes, table: Words) -> Words:
    """Mark the words at which ``_PREFIX`` bytes of text begin that also begin at another word."""
    table = clear(table, n_words)
    mask = mask_for(n_words)
    end = starts[n_words]
    for j in range(n_words):
        marks[j] = 0
        start = np.int64(starts[j])
        if start + _PREFIX <= end:
            first = first_prefix(table, mask, text, start, _PREFIX, starts, j)
            if first != j:
                marks[j] = 1
                marks[first] = 1
    return table


@helper
def count_repeated_grams(
    n_words: int, n: int, text: Bytes, starts: Ints, ends: Ints, marks: Bytes, table: Words, c: Counts
) -> Words:
    """Count the code points in repeated ``n``-grams: after one, go on behind it."""
    last = n_words - n
    n_candidates = 0
    for j in range(last + 1):
        n_candidates += (marks[j] != 0) | (starts[j + n] - starts[j] < _PREFIX)
    if n_candidates < 2:
        return table
    table = clear(table, n_candidates)
    mask = mask_for(n_candidates)
    j, chars = 0, 0
    while j <= last:
        if (marks[j] != 0) | (starts[j + n] - starts[j] < _PREFIX) and first_run(table, mask, text, starts, n, j) != j:
            chars += ends[j + n] - ends[j]
            j += n
        else:
            j += 1
    c[at.DUP_5_GRAM_CHARS + n - 5] = chars
    return table
