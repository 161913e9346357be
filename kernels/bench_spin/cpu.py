"""``bench.spin@1`` compiled with Numba: one chain of integer steps that no compiler can shorten or run in parallel.

Invariants: equal to ``reference.py`` bit for bit; reads only inside a row's bytes; no scratch.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from muster.kernels.bench_spin.reference import MULTIPLIER
from muster.kernels.compiled import entry

_U64 = np.uint64
_MULTIPLIER = np.uint64(MULTIPLIER)


def compile_rows(stamp: int) -> Callable[..., None]:
    """Return the compiled entry; ``stamp`` names the build in Numba's cache key.

    It takes offsets (n + 1 int64), data (uint8) and rounds, and writes n uint64.
    """

    def spin_rows(
        offsets: npt.NDArray[np.int64], data: npt.NDArray[np.uint8], rounds: int, out: npt.NDArray[np.uint64]
    ) -> None:
        if stamp < 0:
            return
        for r in range(offsets.shape[0] - 1):
            state = _U64(0)
            for i in range(offsets[r], offsets[r + 1]):
                state ^= _U64(data[i])
                for _ in range(rounds):
                    state = (state + _U64(1)) * _MULTIPLIER
                    state ^= state >> _U64(32)
            out[r] = state

    return entry(spin_rows)
