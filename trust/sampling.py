"""Keyed draws: which rows are audited. Deterministic, unbiased, unpredictable without the key.

Anyone who holds the revealed key can redo every draw with BLAKE2b alone; that is why the construction is spelled
out here and uses no library generator:

- seed   = BLAKE2b-256(key, person = purpose, message = the parts, each preceded by its length as u64 LE)
- stream = BLAKE2b-512(key = seed, message = block number as u64 LE), read as u64 LE words
- index  = word mod N for words below the largest multiple of N that fits 64 bits (others are skipped)
- draw   = the first n distinct indices of the stream (uniform without replacement), sorted; for n > N/2 the first
  N - n distinct indices are those left out.

It draws; it does not decide how many (``final_audit``, ``policy``). No state, no clock, no randomness of its own.
"""

from __future__ import annotations

import hashlib
import struct
from itertools import count

import numpy as np
import numpy.typing as npt

from muster.errors import JobError

Indices = npt.NDArray[np.int64]

KEY_NBYTES = 32
_WORDS_PER_BLOCK = 8
_MAX_POPULATION = 2**62  # far above any job; keeps indices in int64 and the skipped share of words below 1/4


def in_flight_seed(key: bytes, digest: str) -> bytes:
    """Seed of a result's in-flight audit, 32 bytes: fixed once the result's digest is fixed."""
    return _seed(key, b"muster-inflight", digest.encode())


def in_flight_chance(seed: bytes) -> float:
    """A uniform number in [0, 1) of the seed, independent of the rows that the seed draws (53 bits)."""
    _check_seed(seed)
    word = hashlib.blake2b(b"", key=seed, digest_size=8, person=b"muster-chance").digest()
    return (int.from_bytes(word, "little") >> 11) * 2.0**-53


def in_flight_offsets(seed: bytes, n_rows: int, n: int) -> tuple[int, ...]:
    """``min(n, n_rows)`` distinct offsets in [0, n_rows), ascending."""
    _check_seed(seed)
    return tuple(sample(seed, n_rows, n).tolist())


def in_flight_draw(key: bytes, digest: str, n_rows: int, n: int) -> tuple[int, ...]:
    """The rows of the result ``digest`` that an in-flight audit of n rows recomputes, ascending offsets."""
    return in_flight_offsets(in_flight_seed(key, digest), n_rows, n)


def final_draw(key: bytes, root: str, round_number: int, stratum: str, population: int, n: int) -> Indices:
    """Indices in [0, population), shape (min(n, population),), int64, ascending, for one stratum of one round.

    ``root`` is the manifest root (hex) that the round committed to.
    """
    parts = (bytes.fromhex(root), struct.pack("<Q", round_number), stratum.encode())
    return sample(_seed(key, b"muster-final", *parts), population, n)


def sample(seed: bytes, population: int, n: int) -> Indices:
    """Uniform sample without replacement of min(n, population) indices in [0, population), ascending int64.

    Time and memory O(n), never O(population) unless n > population / 2. Raises ``JobError`` for a negative or
    absurdly large population.
    """
    if not 0 <= population <= _MAX_POPULATION or n < 0:
        raise JobError(f"expected a population in [0, 2^62] and n >= 0, got {population} and {n}")
    if n >= population:
        return np.arange(population, dtype=np.int64)
    if 2 * n <= population:
        return np.sort(_first_distinct(seed, population, n))
    kept = np.ones(population, dtype=np.bool_)
    kept[_first_distinct(seed, population, population - n)] = False
    return np.flatnonzero(kept).astype(np.int64, copy=False)


def _first_distinct(seed: bytes, population: int, n: int) -> Indices:
    drawn = np.empty(0, dtype=np.int64)
    blocks = count()
    while True:
        # A little more than what is missing; how much is read at once does not change which indices come first.
        n_blocks = (n - len(drawn)) * 9 // 8 // _WORDS_PER_BLOCK + 1
        words = _words(seed, blocks, n_blocks)
        limit = np.uint64((2**64 // population) * population - 1)
        fresh = (words[words <= limit] % np.uint64(population)).astype(np.int64)
        pool = np.concatenate([drawn, fresh])
        _, first_at = np.unique(pool, return_index=True)
        drawn = pool[np.sort(first_at)][:n]
        if len(drawn) == n:
            return drawn


def _words(seed: bytes, blocks: count[int], n_blocks: int) -> npt.NDArray[np.uint64]:
    """The stream's next ``n_blocks`` blocks as words, shape (8 n_blocks,), uint64."""
    parent = hashlib.blake2b(key=seed, digest_size=64)
    parts = []
    for _, number in zip(range(n_blocks), blocks, strict=False):
        block = parent.copy()
        block.update(struct.pack("<Q", number))
        parts.append(block.digest())
    return np.frombuffer(b"".join(parts), dtype="<u8").astype(np.uint64, copy=False)


def _check_seed(seed: bytes) -> None:
    if len(seed) != KEY_NBYTES:
        raise JobError(f"expected a seed of {KEY_NBYTES} bytes, got {len(seed)}")


def _seed(key: bytes, purpose: bytes, *parts: bytes) -> bytes:
    if len(key) != KEY_NBYTES:
        raise JobError(f"expected an audit key of {KEY_NBYTES} bytes, got {len(key)}")
    digest = hashlib.blake2b(key=key, digest_size=32, person=purpose)
    for part in parts:
        digest.update(struct.pack("<Q", len(part)))
        digest.update(part)
    return digest.digest()
