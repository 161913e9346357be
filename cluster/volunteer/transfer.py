"""A volunteer's way to the gateway: redeem a ticket, fetch a chunk's ranges, upload a result, report a failure.

Ranges are fetched as pieces of at most 1 MiB that a few warm connections pull from one queue, because a connection that
meets a loss burst must not hold up a chunk (at 300 ms and 8 % loss this doubles the throughput of fixed shares).
What it does not do: decode anything, compute, or decide what to do next.

Invariants: a piece counts when it has exactly the bytes asked for, of the version asked for, and is resumed where it
broke off; an upload that is sent twice is taken once; an expired URL is renewed with the assignment's own ticket.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from muster.cluster.bundle import Bundle
from muster.cluster.volunteer.assignment import Assignment, parse_assignment
from muster.cluster.volunteer.gateway_http import (
    AgainError,
    GatewayHttp,
    RenewError,
    SettledError,
    SourceChangedError,
    TransferError,
    check,
    repeat,
)

__all__ = ["Assignment", "GatewayClient", "SettledError", "SourceChangedError", "TransferError"]

PIECE_NBYTES = 1 << 20
SEND_NBYTES = 1 << 18
MAX_ASSIGNMENT_NBYTES = 1 << 23
MAX_TEXT_CHARS = 2000
FETCH_CONNECTIONS = 6
OTHER_CONNECTIONS = 26  # uploads and redeems under way at once: one for each Dask thread that waits
RETRY_FOR_S = 600.0
REPORT_FOR_S = 30.0


class GatewayClient:
    """The gateway of one pool, as one volunteer sees it; use from any thread, close at the end."""

    def __init__(
        self, bundle: Bundle, *, connections: int = FETCH_CONNECTIONS, retry_for_s: float = RETRY_FOR_S
    ) -> None:
        self._http = GatewayHttp(bundle, connections + OTHER_CONNECTIONS)
        self._retry_for_s = retry_for_s
        self._fetchers = ThreadPoolExecutor(connections, "fetch")

    def redeem(self, ticket: str) -> Assignment:
        """What a ticket stands for; redeeming again renews its URLs.

        Raises:
            SettledError: the unit needs no work, or none by this volunteer.
            TransferError: no usable answer.
        """

        def ask() -> bytes:
            return self._http.post("/v1/redeem", {"ticket": ticket}, MAX_ASSIGNMENT_NBYTES)

        try:
            return parse_assignment(repeat("redeem", ask, for_s=self._retry_for_s), ticket)
        except ValueError as error:
            raise TransferError(f"redeem: unusable answer: {error}") from None

    def fetch(self, assignment: Assignment, ranges: Sequence[tuple[int, int]]) -> dict[tuple[int, int], memoryview]:
        """The bytes of each (offset, length) range of the assignment's input, read-only.

        Raises:
            SettledError, SourceChangedError, TransferError: as their names say.
        """
        lease = _Lease(self, assignment)
        buffers = {(offset, length): bytearray(length) for offset, length in ranges}
        stop = threading.Event()
        tasks = [
            self._fetchers.submit(
                self._fetch_piece, lease, offset + at, memoryview(buffer)[at : at + PIECE_NBYTES], stop
            )
            for (offset, _), buffer in buffers.items()
            for at in range(0, len(buffer), PIECE_NBYTES)
        ]
        try:
            for task in tasks:
                task.result()
        except BaseException:
            stop.set()
            for task in tasks:
                task.cancel()
            raise
        return {key: memoryview(buffer).toreadonly() for key, buffer in buffers.items()}

    def upload(self, assignment: Assignment, path: Path, blake3_hex: str) -> None:
        """Send the whole file at ``path`` as the attempt's result; sending it again is harmless.

        Raises:
            SettledError, TransferError: as their names say.
        """
        nbytes = path.stat().st_size
        if nbytes > assignment.max_upload_nbytes:
            raise TransferError(f"upload: {nbytes} bytes, at most {assignment.max_upload_nbytes} are taken")
        headers = {"X-Muster-Blake3": blake3_hex, "Content-Length": str(nbytes)}
        lease = _Lease(self, assignment)

        def send(current: Assignment) -> None:
            with path.open("rb") as file:
                pieces = iter(lambda: file.read(SEND_NBYTES), b"")
                with self._http.stream("PUT", current.upload_path, headers, pieces) as response:
                    check(response, (200, 201))

        repeat("upload", lambda: lease.use(send), for_s=self._retry_for_s)

    def fail(self, assignment: Assignment, kind: str, text: str) -> None:
        """Report that this attempt failed; ``kind`` is kernel, source, transfer or input. Gives up quietly."""
        body = {"attempt": assignment.attempt, "kind": kind, "text": text[:MAX_TEXT_CHARS]}
        with contextlib.suppress(TransferError, SettledError, SourceChangedError, RenewError):
            repeat("fail", lambda: self._http.post("/v1/fail", body, PIECE_NBYTES), for_s=REPORT_FOR_S)

    def close(self) -> None:
        """Close every connection; transfers under way fail."""
        self._fetchers.shutdown(wait=False, cancel_futures=True)
        self._http.close()

    def _fetch_piece(self, lease: _Lease, offset: int, target: memoryview, stop: threading.Event) -> None:
        done = 0

        def get(current: Assignment) -> None:
            nonlocal done
            headers = {
                "Range": f"bytes={offset + done}-{offset + len(target) - 1}",
                "If-Match": f'"{current.etag}"',
                "Accept-Encoding": "identity",
            }
            with self._http.stream("GET", current.input_path, headers) as response:
                check(response, (206,))
                for block in response.iter_raw():
                    if done + len(block) > len(target):
                        raise TransferError("fetch: more bytes than asked for")
                    target[done : done + len(block)] = block
                    done += len(block)
            if done < len(target):
                raise AgainError(f"{done} of {len(target)} bytes")

        repeat("fetch", lambda: lease.use(get), for_s=self._retry_for_s, stop=stop)


class _Lease:
    """An assignment with URLs that are renewed when they expire; shared by the threads that use it."""

    def __init__(self, client: GatewayClient, assignment: Assignment) -> None:
        self._client = client
        self._current = assignment
        self._lock = threading.Lock()

    def use(self, call: Callable[[Assignment], None]) -> None:
        """Make one try with the current URLs; renews them and asks for another try when they have expired."""
        used = self._current
        try:
            call(used)
        except RenewError as error:
            with self._lock:
                if self._current is used:
                    self._renew(used)
            raise AgainError(str(error)) from None

    def _renew(self, used: Assignment) -> None:
        renewed = self._client.redeem(used.ticket)
        if renewed.attempt != used.attempt or renewed.etag != used.etag:
            raise SettledError("the attempt was replaced by another one")
        self._current = renewed
