"""The clock of ledger leaves. Kept apart because ``trust`` has none and tests may want another."""

from __future__ import annotations

import time


def now_ms() -> int:
    """Milliseconds since the epoch, as leaves carry them."""
    return int(time.time() * 1000)
