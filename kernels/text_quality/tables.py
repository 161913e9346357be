"""Hash tables of the compiled ``text.quality@1``: open addressing on positions, with exact comparison.

An entry is one uint64: the high half of a key's hash, and the key's first position + 1; 0 is empty. Equal tags are
always compared byte by byte (or number by number), so that a hash collision can't change a result.

Invariants: a table has at least twice as many slots as keys will be added (``table_slots`` and ``sketch_slots`` say how
large a buffer must be); only ``clear`` empties it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from muster.kernels.compiled import helper, inlined
from muster.kernels.machine_words import I64, U64, load64

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int32]

_TAG = U64(0xFFFFFFFF00000000)
_POSITION = U64(0x00000000FFFFFFFF)
_MULTIPLY_1 = U64(0x9E3779B97F4A7C15)
_MULTIPLY_2 = U64(0xD6E8FEB86659FD93)
_SKETCH_ROOM = 4
_MODULUS = U64((1 << 61) - 1)
_MULTIPLY_3 = U64(0xA0761D6478BD642F)


@helper
def clear(table: Words, n_keys: int) -> int:
    """Empty the part of a table that ``n_keys`` need; return its mask."""
    mask = mask_for(n_keys)
    for slot in range(mask + 1):
        table[slot] = U64(0)
    return mask


@helper
def mask_for(n_keys: int) -> int:
    """Return the number of slots for ``n_keys``, a power of two, minus one."""
    n_slots = 16
    while n_slots < 2 * n_keys:
        n_slots *= 2
    return n_slots - 1


def table_slots(n_keys: int) -> int:
    """Return the slots of a table for up to ``n_keys``: ``mask_for`` + 1, for plain Python."""
    return max(16, 1 << (2 * n_keys - 1).bit_length())


def sketch_slots(n_keys: int) -> int:
    """Return the slots of a sketch for up to ``n_keys``."""
    return table_slots(_SKETCH_ROOM * n_keys)


@helper
def hash_bytes(text: Bytes, start: int, n: int) -> np.uint64:
    """Hash ``text[start:start + n]``, which must be followed by 8 readable bytes."""
    h = U64(n)
    end = start + n
    while start + 8 <= end:
        h = (h ^ load64(text, start)) * _MULTIPLY_1
        h ^= h >> U64(32)
        start += 8
    if start < end:
        h = (h ^ (load64(text, start) & ((U64(1) << U64(8 * (end - start))) - U64(1)))) * _MULTIPLY_1
        h ^= h >> U64(32)
    return h


@helper
def hash_prefix(text: Bytes, start: int) -> np.uint64:
    """Hash the 24 bytes at ``start``."""
    h = (
        load64(text, start) * _MULTIPLY_1
        ^ load64(text, start + 8) * _MULTIPLY_2
        ^ load64(text, start + 16) * _MULTIPLY_3
    )
    h ^= h >> U64(32)
    h *= _MULTIPLY_1
    mixed: np.uint64 = h ^ (h >> U64(32))
    return mixed


@helper
def same_bytes(text: Bytes, one: int, other: int, n: int) -> bool:
    """Whether ``n`` bytes at two places are equal; both must be followed by 8 readable bytes."""
    done = 0
    while done + 8 <= n:
        if load64(text, one + done) != load64(text, other + done):
            return False
        done += 8
    if done == n:
        return True
    mask = (U64(1) << U64(8 * (n - done))) - U64(1)
    return bool((load64(text, one + done) ^ load64(text, other + done)) & mask == U64(0))


@inlined
def _position_of(entry: np.uint64) -> int:
    position: int = I64(entry & _POSITION) - 1
    return position


@helper
def seen_before(table: Words, mask: int, text: Bytes, starts: Ints, lengths: Ints, key: int) -> bool:
    """Add the piece ``key`` (its bytes at ``starts[key]``); whether an equal one was there. The pieces lie anywhere."""
    start, n = I64(starts[key]), I64(lengths[key])
    h = hash_bytes(text, start, n)
    slot = I64(h & U64(mask))
    while table[slot] != U64(0):
        if (table[slot] ^ h) & _TAG == U64(0):
            first = _position_of(table[slot])
            if lengths[first] == n and same_bytes(text, I64(starts[first]), start, n):
                return True
        slot = (slot + 1) & mask
    table[slot] = (h & _TAG) | U64(key + 1)
    return False


@helper
def first_word(table: Words, mask: int, text: Bytes, starts: Ints, hashes: Words, key: int) -> int:
    """Add word ``key``; return the first word with the same bytes, ``key`` itself if it is new."""
    h = hashes[key]
    slot = I64(h & U64(mask))
    while table[slot] != U64(0):
        if (table[slot] ^ h) & _TAG == U64(0):
            first = _position_of(table[slot])
            start = I64(starts[key])
            n = starts[key + 1] - start
            # Hashes of words of up to seven bytes are one to one (see scan.scan_words).
            if hashes[first] == h and (n <= 7 or _same_word(text, starts, first, start, n)):
                return first
        slot = (slot + 1) & mask
    table[slot] = (h & _TAG) | U64(key + 1)
    return key


@helper
def _same_word(text: Bytes, starts: Ints, first: int, start: int, n: int) -> bool:
    other = I64(starts[first])
    return starts[first + 1] - other == n and same_bytes(text, other, start, n)


@helper
def first_pair(table: Words, mask: int, left: Ints, right: Ints, shift: int, small: bool, key: int) -> int:
    """Add the pair ``(left[key], right[key + shift])``; return the first position with an equal pair.

    If all numbers are ``small`` (16 bits), the tag is the pair itself and needs no further comparison.
    """
    a, b = left[key], right[key + shift]
    pair = (U64(a) << U64(16)) ^ U64(b)
    h = (pair if small else U64(a) * _MULTIPLY_2 + U64(b)) * _MULTIPLY_1
    h ^= h >> U64(32)
    tag = pair << U64(32) if small else h & _TAG
    slot = I64(h & U64(mask))
    while table[slot] != U64(0):
        if (table[slot] ^ tag) & _TAG == U64(0):
            first = _position_of(table[slot])
            if small or (left[first] == a and right[first + shift] == b):
                return first
        slot = (slot + 1) & mask
    table[slot] = tag | U64(key + 1)
    return key


@helper
def first_run(table: Words, mask: int, text: Bytes, starts: Ints, n_words: int, h: np.uint64, key: int) -> int:
    """Add the bytes of ``n_words`` words from word ``key`` on, of hash ``h``; return the first word of equal bytes."""
    start = I64(starts[key])
    n = starts[key + n_words] - start
    slot = I64(h & U64(mask))
    while table[slot] != U64(0):
        if (table[slot] ^ h) & _TAG == U64(0):
            first = _position_of(table[slot])
            other = I64(starts[first])
            if starts[first + n_words] - other == n and same_bytes(text, other, start, n):
                return first
        slot = (slot + 1) & mask
    table[slot] = (h & _TAG) | U64(key + 1)
    return key


@helper
def clear_sketch(sketch: Bytes, n_keys: int) -> int:
    """Empty the part of a sketch that ``n_keys`` need; return its mask.

    A slot is one byte, more than 1 if hashes were noted there more than once. It forgets nothing, so that a key noted
    twice is always found; a false alarm only costs time.
    """
    mask = mask_for(_SKETCH_ROOM * n_keys)
    for slot in range(mask + 1):
        sketch[slot] = 0
    return mask


@inlined
def note(sketch: Bytes, mask: int, h: np.uint64) -> None:
    """Note a hash in a sketch."""
    slot = I64(h & U64(mask))
    sketch[slot] = (sketch[slot] << 1) | 1


@inlined
def _fold(x: np.uint64) -> np.uint64:
    """Reduce modulo 2**61 - 1, almost: the result is at most 2**61 + 6."""
    return (x & _MODULUS) + (x >> U64(61))


@inlined
def _rotate(x: np.uint64, bits: np.uint64) -> np.uint64:
    """Multiply ``x`` (below 2**61) by 2**bits modulo 2**61 - 1: a rotation of 61 bits."""
    return ((x << bits) & _MODULUS) | (x >> (U64(61) - bits))


@helper
def sum_words(n_words: int, text: Bytes, starts: Ints, sums: Words) -> None:
    """Write into ``sums[j]`` the bytes before word ``j`` as one little-endian number modulo 2**61 - 1."""
    total = U64(0)
    sums[0] = total
    for j in range(n_words):
        at, end = I64(starts[j]), I64(starts[j + 1])
        while at < end:
            v = load64(text, at)
            if end - at < 8:
                v &= (U64(1) << U64(8 * (end - at))) - U64(1)
            v = _fold(v)
            v = _fold(v)
            total = _fold(total + _rotate(v, (U64(at) * U64(8)) % U64(61)))
            at += 8
        if total >= _MODULUS:
            total -= _MODULUS
        sums[j + 1] = total


@inlined
def hash_run(sums: Words, starts: Ints, key: int, n_words: int) -> np.uint64:
    """Hash the bytes of ``n_words`` words from word ``key`` on, in constant time, from the sums before words."""
    x = sums[key + n_words] + _MODULUS - sums[key]
    if x >= _MODULUS:
        x -= _MODULUS
    bits = (U64(starts[key]) * U64(8)) % U64(61)
    h = _rotate(x, U64(61) - bits) * _MULTIPLY_1
    return h ^ (h >> U64(32))
