"""First stage of the compiled ``text.quality@1``: bytes to character classes, words, and the counters of both.

Everything later works on padded copies: ``raw`` (the row's bytes) and ``classes`` (one byte of class bits for each).
It does NOT know lines or n-grams. Invariants: input is valid UTF-8 (``arrow_buffers`` checks it); a continuation byte
carries ``CONTINUES`` and, inside a whitespace character, ``SPACE``; at least 16 bytes of padding are ``SPACE``.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from muster.kernels.compiled import helper
from muster.kernels.machine_words import HIGH_BITS, I64, LOW_BITS, U64, count_ones, load64, store64, trailing_zeros
from muster.kernels.text_quality import counters as at
from muster.kernels.text_quality import unicode_classes as unicode

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int32]
Counts = npt.NDArray[np.int64]

SPACE, LETTER, NOT_PUNCTUATION, BREAK, TERMINAL, CONTINUES, HASH, DOT = 1, 2, 4, 8, 16, 32, 64, 128
PADDING = 32
_LETTER_8 = U64(LETTER) * LOW_BITS
_NOT_PUNCTUATION_8 = U64(NOT_PUNCTUATION) * LOW_BITS
_CONTINUES_8 = U64(CONTINUES) * LOW_BITS
_HASH_8 = U64(HASH) * LOW_BITS
_DOT_8 = U64(DOT) * LOW_BITS
_WORD = U64(0x9E3779B97F4A7C15)
_LONG = U64(1) << U64(63)


@cache
def class_table() -> Bytes:
    """Return the class bits of every code point, and of every number of 21 bits: 0x200000 uint8, read-only."""
    table = np.full(0x200000, NOT_PUNCTUATION, np.uint8)
    for first, end in unicode.runs(unicode.PUNCTUATION):
        table[first:end] &= ~np.uint8(NOT_PUNCTUATION)
    for bit, runs in (
        (LETTER, unicode.LETTERS),
        (SPACE, unicode.WHITESPACE),
        (BREAK, unicode.LINE_BREAKS),
        (TERMINAL, unicode.TERMINAL_PUNCTUATION),
    ):
        for first, end in unicode.runs(runs):
            table[first:end] |= np.uint8(bit)
    table[ord("#")] |= np.uint8(HASH)
    table[ord(".")] |= np.uint8(DOT)
    table.flags.writeable = False
    return table


@cache
def stop_word_codes() -> Words:
    """Return each stop word as its little-endian bytes (at most 4) with its length in the top byte."""
    codes = [int.from_bytes(word.encode(), "little") | len(word) << 56 for word in at.STOP_WORDS]
    table = np.array(codes, np.uint64)
    table.flags.writeable = False
    return table


@helper
def classify(data: Bytes, start: int, n: int, table: Bytes, raw: Bytes, classes: Bytes, c: Counts) -> None:
    """Fill ``raw`` and ``classes`` for one row; count code points and U+2026."""
    seen = np.uint8(0)
    for i in range(n):
        byte = data[start + i]
        raw[i] = byte
        seen |= byte
    for i in range(PADDING):
        raw[n + i] = 0
        classes[n + i] = SPACE
    for i in range(n):
        classes[i] = table[raw[i]]
    c[at.CHARS] = n
    if seen >= 128:
        _classify_wide(n, table, raw, classes, c)


@helper
def _count_dots(raw: Bytes, start: int, end: int) -> int:
    """Count "..." as ``str.count`` does: from the left, not overlapping."""
    found, i = 0, start
    while i + 3 <= end:
        if raw[i] == 46 and raw[i + 1] == 46 and raw[i + 2] == 46:
            found += 1
            i += 3
        else:
            i += 1
    return found


@helper
def _classify_wide(n: int, table: Bytes, raw: Bytes, classes: Bytes, c: Counts) -> None:
    """Replace the classes of bytes beyond ASCII by those of their code points."""
    i = 0
    while i < n:
        wide = load64(raw, i) & HIGH_BITS
        if wide == U64(0):
            i += 8
            continue
        i += trailing_zeros(wide) >> 3
        lead = I64(raw[i])
        length = 2 if lead < 0xE0 else (3 if lead < 0xF0 else 4)
        code = lead & (0x7F >> length)
        for k in range(1, length):
            code = (code << 6) | (I64(raw[i + k]) & 0x3F)
        kind = table[code & 0x1FFFFF]
        classes[i] = kind
        for k in range(1, length):
            classes[i + k] = CONTINUES | (kind & SPACE)
        c[at.ELLIPSES] += code == 0x2026
        c[at.CHARS] -= length - 1
        i += length


@helper
def scan_words(
    n: int, raw: Bytes, classes: Bytes, text: Bytes, starts: Ints, ends: Ints, hashes: Words, c: Counts
) -> int:
    """Cut into words; count them, those with letters or text, hashes and "...".

    Writes the words' bytes one after the other into ``text``, where word ``j`` is ``starts[j]:starts[j + 1]``, the code
    points up to and with word ``j`` into ``ends[j + 1]``, and a hash of each word: one to one for words of up to seven
    bytes, which never have the hash of a longer one. Returns the number of words.
    """
    i, j, t, chars = 0, 0, 0, 0
    n_alpha, n_text, text_chars, n_hashes = 0, 0, 0, 0
    starts[0] = 0
    ends[0] = 0
    while i < n:
        v = load64(classes, i)
        spaces = v & LOW_BITS
        if spaces & U64(1):
            word = spaces ^ LOW_BITS
            i += 8 if word == U64(0) else trailing_zeros(word) >> 3
            continue
        kinds, h, wide, dots = U64(0), U64(0), 0, 0
        first = t
        while spaces == U64(0):
            b = load64(raw, i)
            store64(text, t, b)
            kinds |= v
            wide += count_ones(v & _CONTINUES_8)
            dots += count_ones(v & _DOT_8)
            n_hashes += count_ones(v & _HASH_8)
            h = (h ^ b) * _WORD
            h ^= h >> U64(32)
            i += 8
            t += 8
            v = load64(classes, i)
            spaces = v & LOW_BITS
        rest = trailing_zeros(spaces) >> 3
        mask = (U64(1) << U64(8 * rest)) - U64(1)
        b = load64(raw, i) & mask
        v &= mask
        store64(text, t, b)
        kinds |= v
        wide += count_ones(v & _CONTINUES_8)
        dots += count_ones(v & _DOT_8)
        n_hashes += count_ones(v & _HASH_8)
        i += rest
        t += rest
        h = ((h ^ b) | _LONG) if t - first > 7 else b | (U64(rest) << U64(56))
        h *= _WORD
        hashes[j] = h ^ (h >> U64(32))
        n_chars = t - first - wide
        chars += n_chars
        j += 1
        starts[j] = t
        ends[j] = chars
        n_alpha += (kinds & _LETTER_8) != U64(0)
        is_text = (kinds & _NOT_PUNCTUATION_8) != U64(0)
        n_text += is_text
        text_chars += n_chars if is_text else 0
        if dots > 2:
            c[at.ELLIPSES] += _count_dots(raw, i - (t - first), i)
    store64(text, t, U64(0))
    c[at.WORDS] = j
    c[at.ALPHA_WORDS] = n_alpha
    c[at.TEXT_WORDS] = n_text
    c[at.TEXT_WORD_CHARS] = text_chars
    c[at.HASHES] = n_hashes
    return j


@helper
def count_stop_words(n_words: int, text: Bytes, starts: Ints, stop_words: Words, enough: int) -> int:
    """Count how many of the stop words (see :func:`stop_word_codes`) occur; stop looking at ``enough``."""
    found = np.zeros(stop_words.shape[0], np.uint8)
    n_found = 0
    for j in range(n_words):
        length = starts[j + 1] - starts[j]
        if length > 4 or length < 2:
            continue
        word = load64(text, I64(starts[j])) & ((U64(1) << U64(8 * length)) - U64(1))
        word |= U64(length) << U64(56)
        for k in range(stop_words.shape[0]):
            if word == stop_words[k] and found[k] == 0:
                found[k] = 1
                n_found += 1
                if n_found == enough:
                    return n_found
    return n_found
