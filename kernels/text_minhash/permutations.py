"""The constants of ``text.minhash@1``: hash multipliers and the pinned table of permutations.

Permutation ``j`` maps a 64-bit shingle ``x`` to ``(a_j * x + b_j) mod 2**64`` with odd ``a_j``. The pairs come from
splitmix64 (Steele, Lea, Flood 2014) with a fixed seed, written out here, because the streams of library generators may
change between versions. It does NOT depend on NumPy or the interpreter.
"""

from __future__ import annotations

from functools import cache

MASK = (1 << 64) - 1
WORD_MULTIPLIER = 0x9E3779B97F4A7C15
SHINGLE_MULTIPLIER = 0xD6E8FEB86659FD93
BAND_MULTIPLIER = 0xA0761D6478BD642F
SEED = 0x4D75737465720001  # "Muster", 0, 1
NO_SHINGLE = MASK


def mix(x: int) -> int:
    """Finaliser of splitmix64."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


@cache
def permutations(n: int) -> tuple[list[int], list[int]]:
    """Return the first ``n`` multipliers (odd) and increments; a longer table begins with the shorter one."""
    state, draws = SEED, []
    for _ in range(2 * n):
        state = (state + 0x9E3779B97F4A7C15) & MASK
        draws.append(mix(state))
    return [a | 1 for a in draws[0::2]], draws[1::2]
