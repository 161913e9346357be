"""``text.minhash@1`` in plain Python: the oracle that the compiled version must equal bit for bit.

It does NOT try to be fast, and shares nothing with ``cpu.py`` but the table of constants. The definition is in
:mod:`muster.kernels.text_minhash.minhash`.
"""

from __future__ import annotations

from muster.kernels.text_minhash.permutations import (
    BAND_MULTIPLIER,
    MASK,
    SHINGLE_MULTIPLIER,
    WORD_MULTIPLIER,
    mix,
    permutations,
)


def words_of(text: str) -> list[bytes]:
    """Split into words: runs of ASCII letters (made lower-case), ASCII digits and anything beyond ASCII, as UTF-8."""
    words, word = [], ""
    for char in text + " ":
        if char > "\x7f" or (char.isascii() and char.isalnum()):
            word += char.lower() if char.isascii() else char
        elif word:
            words.append(word.encode())
            word = ""
    return words


def word_hash(word: bytes) -> int:
    """Hash a word eight bytes at a time; a last group shorter than eight bytes (maybe empty) always follows."""
    h = 0
    for start in range(0, len(word) + 1, 8):
        h = ((h ^ int.from_bytes(word[start : start + 8], "little")) * WORD_MULTIPLIER) & MASK
        h ^= h >> 32
    return h


def shingles_of(text: str, ngram: int) -> list[int]:
    """Hash every run of ``ngram`` words; of all words if there are fewer; nothing if there are none."""
    hashes = [word_hash(word) for word in words_of(text)]
    if not hashes:
        return []
    width = min(ngram, len(hashes))
    shingles = []
    for start in range(len(hashes) - width + 1):
        x = 0
        for h in hashes[start : start + width]:
            x = (x * SHINGLE_MULTIPLIER + h) & MASK
        shingles.append(mix(x))
    return shingles


def signature_of(text: str, ngram: int, n_permutations: int) -> list[int] | None:
    """Return the smallest value of each permutation over the document's shingles; None for a text without words."""
    shingles = shingles_of(text, ngram)
    if not shingles:
        return None
    multipliers, increments = permutations(n_permutations)
    return [min((a * x + b) & MASK for x in shingles) for a, b in zip(multipliers, increments, strict=True)]


def band_keys_of(signature: list[int], bands: int, rows: int) -> list[int]:
    """Fold each band's rows (consecutive in the signature) into one 64-bit key."""
    keys = []
    for band in range(bands):
        key = band + 1
        for value in signature[band * rows : (band + 1) * rows]:
            key = (key * BAND_MULTIPLIER + value) & MASK
        keys.append(mix(key))
    return keys
