"""``text.minhash@1`` compiled with Numba: word bytes to band keys in one pass over Arrow buffers.

Three loops a document: classify bytes into padded scratch (vectorised), cut words and hash them eight bytes at a time,
then take each permutation's minimum over eight shingles at a time. It does NOT allocate per row: scratch grows to the
longest document seen. Limit: 64-bit multiplications on short words, the word scan on long ones.

Invariants: equal to ``reference.py`` bit for bit; reads only inside a row's bytes (the word scan reads padded scratch).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from muster.kernels.compiled import entry, helper
from muster.kernels.machine_words import HIGH_BITS, LOW_BITS, U64, load64, mix64, trailing_zeros
from muster.kernels.text_minhash.permutations import (
    BAND_MULTIPLIER,
    NO_SHINGLE,
    SHINGLE_MULTIPLIER,
    WORD_MULTIPLIER,
)

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint64]

_WORD = U64(WORD_MULTIPLIER)
_SHINGLE = U64(SHINGLE_MULTIPLIER)
_BAND = U64(BAND_MULTIPLIER)
_NONE = U64(NO_SHINGLE)
_PADDING = 16
_FIRST_SCRATCH = 1 << 14


@helper
def _classify(data: Bytes, start: int, n: int, out: Bytes) -> None:
    """Copy a row into scratch: word bytes as they are (ASCII letters lower-case), all others 0."""
    for i in range(n):
        c = data[start + i]
        lower = np.uint8(c | np.uint8(0x20))
        letter = np.uint8(lower - np.uint8(97)) < np.uint8(26)
        kept = letter or np.uint8(c - np.uint8(48)) < np.uint8(10) or c >= np.uint8(128)
        out[i] = (lower if letter else c) if kept else np.uint8(0)
    for i in range(_PADDING):
        out[n + i] = 0


@helper
def _hash_words(text: Bytes, n: int, hashes: Words) -> int:
    """Hash the zero-separated words of ``text[:n]``; return how many there are."""
    i, count = 0, 0
    while i < n:
        v = load64(text, i)
        if v & U64(0xFF) == U64(0):
            i += 8 if v == U64(0) else trailing_zeros(v) >> 3
            continue
        h = U64(0)
        zeros = (v - LOW_BITS) & ~v & HIGH_BITS
        while zeros == U64(0):
            h = (h ^ v) * _WORD
            h ^= h >> U64(32)
            i += 8
            v = load64(text, i)
            zeros = (v - LOW_BITS) & ~v & HIGH_BITS
        end = trailing_zeros(zeros) >> 3
        h = (h ^ (v & ((U64(1) << U64(8 * end)) - U64(1)))) * _WORD
        hashes[count] = h ^ (h >> U64(32))
        count += 1
        i += end + 1
    return count


@helper
def _shingle(hashes: Words, n_words: int, ngram: int, out: Words) -> int:
    """Hash every run of ``ngram`` words (of all words if fewer); return how many runs there are."""
    width = min(ngram, n_words)
    n = n_words - width + 1
    for j in range(n):
        out[j] = hashes[j]
    for k in range(1, width):
        for j in range(n):
            out[j] = out[j] * _SHINGLE + hashes[j + k]
    for j in range(n):
        out[j] = mix64(out[j])
    return n


@helper
def _minima(x: Words, n: int, a: Words, b: Words, smallest: Words) -> None:
    """Take every permutation's minimum over ``x[:n]``, eight shingles for each load of the table."""
    n_permutations = smallest.shape[0]
    for j in range(n_permutations):
        smallest[j] = _NONE
    i = 0
    while i + 8 <= n:
        x0, x1, x2, x3 = x[i], x[i + 1], x[i + 2], x[i + 3]
        x4, x5, x6, x7 = x[i + 4], x[i + 5], x[i + 6], x[i + 7]
        for j in range(n_permutations):
            aj, bj = a[j], b[j]
            low = min(min(aj * x0 + bj, aj * x1 + bj), min(aj * x2 + bj, aj * x3 + bj))
            high = min(min(aj * x4 + bj, aj * x5 + bj), min(aj * x6 + bj, aj * x7 + bj))
            smallest[j] = min(smallest[j], min(low, high))
        i += 8
    while i < n:
        x0 = x[i]
        for j in range(n_permutations):
            smallest[j] = min(smallest[j], a[j] * x0 + b[j])
        i += 1


@helper
def _fold(smallest: Words, bands: int, rows: int, keys: Words) -> None:
    """Fold the rows of each band into its key. ``smallest`` is rows x bands here, so that bands vectorise."""
    for band in range(bands):
        keys[band] = U64(band + 1)
    for row in range(rows):
        for band in range(bands):
            keys[band] = keys[band] * _BAND + smallest[row * bands + band]
    for band in range(bands):
        keys[band] = mix64(keys[band])


def compile_rows(stamp: int) -> Callable[..., None]:
    """Return the compiled entry; ``stamp`` names the build in Numba's cache key.

    The entry takes offsets (n + 1 int64), data (uint8), valid (n uint8 or none), the permutations in rows x bands
    order (uint64), bands, rows, ngram, and writes keys (bands x n uint64), has (n uint8: 1 where the row has words)
    and, if it has n rows, signatures (n x bands*rows uint64, band-major).
    """

    def minhash_rows(
        offsets: npt.NDArray[np.int64],
        data: Bytes,
        valid: Bytes,
        a: Words,
        b: Words,
        shape: tuple[int, int, int],
        keys: Any,
        has: Bytes,
        signatures: Any,
    ) -> None:
        bands, rows, ngram = shape
        if stamp < 0:
            return
        text = np.zeros(_FIRST_SCRATCH + _PADDING, np.uint8)
        hashes = np.empty(_FIRST_SCRATCH, np.uint64)
        shingles = np.empty(_FIRST_SCRATCH, np.uint64)
        smallest = np.empty(bands * rows, np.uint64)
        row_keys = np.empty(bands, np.uint64)
        for r in range(offsets.shape[0] - 1):
            start = offsets[r]
            n = offsets[r + 1] - start
            n_words = 0
            if valid.shape[0] == 0 or valid[r] != 0:
                if n + _PADDING > text.shape[0]:
                    text = np.zeros(2 * n + _PADDING, np.uint8)
                    hashes = np.empty(n + 1, np.uint64)
                    shingles = np.empty(n + 1, np.uint64)
                _classify(data, start, n, text)
                n_words = _hash_words(text, n, hashes)
            has[r] = n_words > 0
            if n_words == 0:
                continue
            _minima(shingles, _shingle(hashes, n_words, ngram, shingles), a, b, smallest)
            _fold(smallest, bands, rows, row_keys)
            for band in range(bands):
                keys[band, r] = row_keys[band]
            if signatures.shape[0] != 0:
                for band in range(bands):
                    for row in range(rows):
                        signatures[r, band * rows + row] = smallest[row * bands + band]

    return entry(minhash_rows)
