"""How much of the coordinator one volunteer's certificate may use.

All numbers of the edge in one frozen object, and the token bucket that paces a talkative peer.
What it does not do: count connections (``door`` does) or judge content (``schema`` does).

Invariants: nothing here grows with what a peer sends.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EdgeLimits:
    """Bounds per connection or per certificate; sizes in bytes, times in seconds.

    Attributes:
        hello_timeout_s: from the accepted socket to the end of the hello, TLS handshake included.
        max_pending: connections that have not finished their hello, over all peers.
        max_hello_nbytes: the hello itself.
        max_message_nbytes: one message from a volunteer.
        max_outgoing_nbytes: one message to a volunteer.
        max_unsent_nbytes: bytes waiting for a peer that doesn't read.
        max_batch: entries of one stream message.
        max_connections: open connections of one certificate (an honest one has two: task stream and heartbeats).
        max_threads: threads that one volunteer may claim; a larger claim is cut down to it.
        entries_per_s: stream entries and requests per second of one connection in the long run.
        burst_entries: how many of them at once.
    """

    hello_timeout_s: float = 5.0
    max_pending: int = 256
    max_hello_nbytes: int = 4096
    max_message_nbytes: int = 1 << 20
    max_outgoing_nbytes: int = 8 << 20
    max_unsent_nbytes: int = 8 << 20
    max_batch: int = 10_000
    max_connections: int = 8
    max_threads: int = 1024
    entries_per_s: float = 2000.0
    burst_entries: int = 20_000


class TokenBucket:
    """Paces one peer: ``take(n, now_s)`` says how long to wait before its next message is read."""

    def __init__(self, rate_per_s: float, burst: int) -> None:
        self._rate_per_s = rate_per_s
        self._burst = float(burst)
        self._tokens = float(burst)
        self._at_s: float | None = None

    def take(self, n: int, now_s: float) -> float:
        """Use ``n`` tokens at ``now_s`` (monotonic seconds); returns the seconds to wait, 0 when within the rate."""
        if self._at_s is not None:
            self._tokens = min(self._burst, self._tokens + (now_s - self._at_s) * self._rate_per_s)
        self._at_s = now_s
        self._tokens -= n
        return 0.0 if self._tokens >= 0 else -self._tokens / self._rate_per_s
