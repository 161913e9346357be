"""Hash tables of the compiled ``text.quality@1``: open addressing on positions, with exact comparison.

An entry is one uint64: the high half of a key's hash, and the key's first position + 1; 0 is empty. Equal tags are
always compared byte by byte (or number by number), so that a hash collision can't change a result.

Invariants: a table has at least twice as many slots as keys will be added; only ``clear`` empties it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from muster.kernels.compiled import helper, inlined
from muster.kernels.machine_words import U64, load64

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int32]

_TAG = U64(0xFFFFFFFF00000000)
_POSITION = U64(0x00000000FFFFFFFF)
_MULTIPLY_1 = U64(0x9E3779B97F4A7C15)
_MULTIPLY_2 = U64(0xD6E8FEB86659FD93)


@helper
def clear(table: Words, n_keys: int) -> Words:
    """Return a table with room for ``n_keys``, its used part (see :func:`mask_for`) empty."""
    n_slots = mask_for(n_keys) + 1
    if n_slots > table.shape[0]:
        table = np.empty(n_slots, np.uint64)
    table[:n_slots] = U64(0)
    return table


@helper
def mask_for(n_keys: int) -> int:
    """Return the number of slots for ``n_keys``, a power of two, minus one."""
    n_slots = 16
    while n_slots < 2 * n_keys:
        n_slots *= 2
    return n_slots - 1


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
    return np.int64(entry & _POSITION) - 1


@helper
def seen_before(table: Words, mask: int, text: Bytes, starts: Ints, lengths: Ints, key: int) -> bool:
    """Add the piece ``key`` (its bytes at ``starts[key]``); whether an equal one was there. The pieces lie anywhere."""
    start, n = np.int64(starts[key]), np.int64(lengths[key])
    h = hash_bytes(text, start, n)
    slot = np.int64(h & U64(mask))
    while table[slot] != U64(0):
        if (table[slot] ^ h) & _TAG == U64(0):
            first = _position_of(table[slot])
            if lengths[first] == n and same_bytes(text, np.int64(starts[first]), start, n):
                return True
        slot = (slot + 1) & mask
    table[slot] = (h & _TAG) | U64(key + 1)
    return False


@helper
def first_word(table: Words, mask: int, text: Bytes, starts: Ints, hashes: Words, key: int) -> int:
    """Add word ``key``; return the first word with the same bytes, ``key`` itself if it is new."""
    h = hashes[key]
    start = np.int64(starts[key])
    n = starts[key + 1] - start
    slot = np.int64(h & U64(mask))
    while table[slot] != U64(0):
        if (table[slot] ^ h) & _TAG == U64(0):
            first = _position_of(table[slot])
            other = np.int64(starts[first])
            # The word hash is one to one for up to eight bytes of known length.
            if hashes[first] == h and starts[first + 1] - other == n and (n <= 8 or same_bytes(text, other, start, n)):
                return first
        slot = (slot + 1) & mask
    table[slot] = (h & _TAG) | U64(key + 1)
    return key


@helper
def first_pair(table: Words, mask: int, left: Ints, right: Ints, shift: int, key: int) -> int:
    """Add the pair ``(left[key], right[key + shift])``; return the first position with an equal pair."""
    a, b = left[key], right[key + shift]
    h = (U64(a) * _MULTIPLY_1 + U64(b)) * _MULTIPLY_2
    h ^= h >> U64(32)
    slot = np.int64(h & U64(mask))
    while table[slot] != U64(0):
        if (table[slot] ^ h) & _TAG == U64(0):
            first = _position_of(table[slot])
            if left[first] == a and right[first + shift] == b:
                return first
        slot = (slot + 1) & mask
    table[slot] = (h & _TAG) | U64(key + 1)
    return key


@helper
def first_run(table: Words, mask: int, text: Bytes, starts: Ints, n_words: int, key: int) -> int:
    """Add the bytes of ``n_words`` words from word ``key`` on; return the first word at which equal bytes began."""
    start = np.int64(starts[key])
    n = starts[key + n_words] - start
    h = hash_bytes(text, start, n)
    slot = np.int64(h & U64(mask))
    while table[slot] != U64(0):
        if (table[slot] ^ h) & _TAG == U64(0):
            first = _position_of(table[slot])
            other = np.int64(starts[first])
            if starts[first + n_words] - other == n and same_bytes(text, other, start, n):
                return first
        slot = (slot + 1) & mask
    table[slot] = (h & _TAG) | U64(key + 1)
    return key


@helper
def first_prefix(table: Words, mask: int, text: Bytes, start: int, n: int, starts: Ints, key: int) -> int:
    """Add the ``n`` bytes (a multiple of 8) from word ``key`` on; return the first word at which equal bytes began."""
    h = hash_bytes(text, start, n)
    slot = np.int64(h & U64(mask))
    while table[slot] != U64(0):
        if (table[slot] ^ h) & _TAG == U64(0):
            first = _position_of(table[slot])
            if same_bytes(text, np.int64(starts[first]), start, n):
                return first
        slot = (slot + 1) & mask
    table[slot] = (h & _TAG) | U64(key + 1)
    return key
