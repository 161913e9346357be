"""Word n-gram stages of the compiled ``text.quality@1``.

Most n-grams never repeat, and both stages look only at those that might. A 3-gram repeats only where its 2-grams do
(a word's number is the position of its first occurrence, so that pairs of numbers stand for n-grams exactly). Gopher's
repeated 5- to 10-grams are compared without the spaces between their words, so there that argument fails: instead, two
equal runs of at least ``_PREFIX`` bytes begin with the same ``_PREFIX`` bytes, so one sketch of prefixes serves all
six lengths; shorter runs are always looked at. It does NOT know rules. Invariant: counters equal ``reference.py``'s.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from muster.kernels.compiled import helper
from muster.kernels.machine_words import I64, U64
from muster.kernels.text_quality import counters as at
from muster.kernels.text_quality.tables import (
    clear,
    clear_sketch,
    first_pair,
    first_run,
    first_word,
    hash_prefix,
    hash_run,
    note,
)

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int32]
Counts = npt.NDArray[np.int64]

_PREFIX = 24  # bytes; tables.hash_prefix reads as many


@helper
def number_words(
    n_words: int, text: Bytes, starts: Ints, hashes: Words, numbers: Ints, often: Ints, table: Words
) -> None:
    """Number each word by its first occurrence; ``often`` at that place counts them."""
    mask = clear(table, n_words)
    for j in range(n_words):
        first = first_word(table, mask, text, starts, hashes, j)
        numbers[j] = first
        if first == j:
            often[j] = 1
        else:
            often[first] += 1


@helper
def count_top_grams(
    n_words: int, ends: Ints, words: Ints, grams: Ints, often: Ints, marks: Bytes, table: Words, c: Counts
) -> None:
    """Find the most frequent 2-, 3- and 4-gram. ``often`` comes in for words; it and the scratch are overwritten."""
    small = n_words < 1 << 16
    for j in range(n_words):
        grams[j] = words[j]
        marks[j] = often[words[j]] > 1
    for n in range(2, 5):
        n_grams = n_words - n + 1
        if n_grams <= 0:
            break
        n_candidates = 0
        for j in range(n_grams):
            marks[j] &= marks[j + 1]
            n_candidates += marks[j]
            often[j] = 1
        mask = clear(table, n_candidates)
        most, where = _count_grams(n_grams, n, words, grams, often, marks, small, table, mask)
        c[at.TOP_2_GRAM_CHARS + n - 2] = most * (ends[where + n] - ends[where] + n - 1)
        if most == 1:
            for longer in range(n + 1, min(5, n_words + 1)):
                c[at.TOP_2_GRAM_CHARS + longer - 2] = ends[longer] + longer - 1
            break


@helper
def _count_grams(
    n_grams: int,
    n: int,
    words: Ints,
    grams: Ints,
    often: Ints,
    marks: Bytes,
    small: bool,
    table: Words,
    mask: int,
) -> tuple[int, int]:
    """Count the ``n``-grams at marked places; return the highest count and where that gram is first.

    Replaces ``grams`` (numbers of the shorter grams) by those of the ``n``-grams, and ``marks`` by those that repeat.
    """
    most, where = 1, 0
    for j in range(n_grams):
        if marks[j] == 0:
            continue
        first = first_pair(table, mask, grams, words, n - 1, small, j)
        if first == j:
            continue
        # The number of gram ``first`` is still read by later comparisons, so the new one waits in ``often``.
        often[j] = -first
        often[first] += 1
        count = often[first]
        if count > most:
            most, where = count, first
        elif count == most and first < where:
            where = first
    for j in range(n_grams):
        repeats = often[j] <= 0
        grams[j] = -often[j] if repeats else j
        marks[j] = repeats | (often[j] > 1)
    return most, where


@helper
def list_places(n_words: int, text: Bytes, starts: Ints, sketch: Bytes, hashes: Words, places: Ints) -> int:
    """List the words at which a repeated 5- to 10-gram may begin, ascending; return the list's length.

    Those where ``_PREFIX`` bytes begin that begin elsewhere too, and those whose five words are shorter than that.
    Overwrites ``hashes``.
    """
    mask = clear_sketch(sketch, n_words)
    last = starts[n_words] - _PREFIX
    for j in range(n_words):
        start = I64(starts[j])
        if start <= last:
            hashes[j] = hash_prefix(text, start)
            note(sketch, mask, hashes[j])
    n_places = 0
    for j in range(n_words - 4):
        places[n_places] = j
        again = starts[j] <= last and sketch[I64(hashes[j] & U64(mask))] > 1
        n_places += again | (starts[j + 5] - starts[j] < _PREFIX)
    return n_places


@helper
def count_repeated_grams(
    n_words: int,
    n: int,
    text: Bytes,
    ints: tuple[Ints, Ints, Ints, Ints],
    n_places: int,
    words: tuple[Words, Words],
    sketch: Bytes,
    table: Words,
    c: Counts,
) -> None:
    """Count the code points in repeated ``n``-grams that begin at listed places: after one, go on behind it.

    ``ints`` are starts, ends, the places and scratch; ``words`` the sums of ``tables.sum_words`` and scratch."""
    starts, ends, places, chosen = ints
    sums, hashes = words
    while n_places > 0 and places[n_places - 1] + n > n_words:
        n_places -= 1
    mask = clear_sketch(sketch, n_places)
    for k in range(n_places):
        j = I64(places[k])
        hashes[k] = hash_run(sums, starts, j, n)
        note(sketch, mask, hashes[k])
    n_chosen = 0
    for k in range(n_places):
        chosen[n_chosen] = k
        n_chosen += sketch[I64(hashes[k] & U64(mask))] > 1
    mask = clear(table, n_chosen)
    behind, chars = 0, 0
    for k in range(n_chosen):
        h = hashes[chosen[k]]
        j = I64(places[chosen[k]])
        if j >= behind and first_run(table, mask, text, starts, n, h, j) != j:
            chars += ends[j + n] - ends[j]
            behind = j + n
    c[at.DUP_5_GRAM_CHARS + n - 5] = chars
