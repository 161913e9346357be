"""``bench.spin@1`` in plain Python: the oracle. It does NOT share code with ``cpu.py``."""

from __future__ import annotations

MASK = (1 << 64) - 1
MULTIPLIER = 0x9E3779B97F4A7C15


def spin(text: str, rounds: int) -> int:
    """Fold every UTF-8 byte into a 64-bit state, then stir the state ``rounds`` times, each step after the last."""
    state = 0
    for byte in text.encode():
        state ^= byte
        for _ in range(rounds):
            state = ((state + 1) * MULTIPLIER) & MASK
            state ^= state >> 32
    return state
