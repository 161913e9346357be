"""The gateway's incoming bytes: the result of one attempt, whole, once.

What it does not do: look into any byte that arrives, or trust a length or digest that a peer states.

Invariants: an upload is taken under its attempt's id only, counted and hashed while it arrives, cut at its limit; it
appears under its name whole and is never replaced; sending the same bytes again is harmless; one upload per attempt is
under way (a newer connection ends the older, which may hang in a dead network).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

from starlette.types import Receive, Scope, Send

from muster.cluster.coordinator.gateway_access import authorise, header
from muster.cluster.coordinator.gateway_errors import ApiError
from muster.cluster.coordinator.gateway_state import GatewayState, Grant
from muster.cluster.coordinator.intake_bell import ring
from muster.datasets.exchange import Exchange, PendingFile, UploadRefusedError, file_blake3

WRITE_NBYTES = 1 << 20
STALL_TIMEOUT_S = 120.0
_HASH = re.compile(rb"[0-9a-f]{64}")
_LENGTH = re.compile(rb"[0-9]{1,15}")


class UploadRoute:
    """``PUT /v1/upload/<attempt>``."""

    def __init__(self, state: GatewayState) -> None:
        self._state = state
        self._exchange = Exchange(state.pool_dir / "exchange")
        self._current: dict[str, asyncio.Timeout] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Receive one upload."""
        grant = await authorise(self._state, scope, upload=True)
        digest, length = _stated_digest(scope), _stated_length(scope, grant)
        row = await self._state.record(self._state.registry.attempt, grant.attempt)
        if row is None or row.state != "started":
            await _skip_body(receive, length)
            if row is None or row.upload_blake3 != digest:
                raise ApiError(409, "ended", "this attempt has ended")
            return await _answer(send, 200, b'{"status":"known"}')
        older = self._current.get(grant.attempt)
        if older is not None:
            older.reschedule(asyncio.get_running_loop().time())
        turn = asyncio.timeout(None)
        try:
            async with turn:
                self._current[grant.attempt] = turn
                await self._take(grant, receive, digest, length)
        except TimeoutError:
            raise ApiError(408, "stalled", "this upload was begun anew elsewhere", close=True) from None
        finally:
            if self._current.get(grant.attempt) is turn:
                del self._current[grant.attempt]
        return await _answer(send, 201, b'{"status":"received"}')

    async def _take(self, grant: Grant, receive: Receive, digest: str, length: int) -> None:
        state = self._state
        if await state.blocking(self._exchange.has_upload, grant.attempt):
            await _skip_body(receive, length)
            await self._check_same(grant, digest)
        else:
            await self._store(grant, receive, digest, length)
        if not await state.record(state.registry.attempt_uploaded, grant.attempt, length, digest):
            row = await state.record(state.registry.attempt, grant.attempt)
            if row is not None and row.state == "failed":  # while the bytes arrived: nobody would ever fetch them
                await state.blocking(self._exchange.remove_upload, grant.attempt)
            raise ApiError(409, "ended", "this attempt has ended")
        await state.blocking(ring, state.pool_dir)

    async def _store(self, grant: Grant, receive: Receive, digest: str, length: int) -> None:
        pending: PendingFile | None = None
        try:
            # Not in a thread: a request that ends while a thread opens the file would leave it behind.
            pending = self._exchange.begin_upload(grant.attempt, length)
            await self._write(pending, receive, length)
            await self._state.blocking(pending.commit, digest)
        except UploadRefusedError as error:
            if error.kind == "wrong-digest":
                raise ApiError(400, "digest", "the bytes that arrived are not those of X-Muster-Blake3") from None
            if error.kind != "exists":
                raise ApiError(413, "too-large", f"expected {length} bytes, found more", close=True) from None
            await self._check_same(grant, digest)
        finally:
            if pending is not None:
                pending.abort()

    async def _check_same(self, grant: Grant, digest: str) -> None:
        """A file that is there from before a crash is as good as a new one if its bytes are the same."""
        path = self._exchange.upload_path(grant.attempt)
        if await self._state.blocking(file_blake3, path) != digest:
            raise ApiError(409, "ended", "another result of this attempt is here already")

    async def _write(self, pending: PendingFile, receive: Receive, length: int) -> None:
        waiting: list[bytes] = []
        seen, held = 0, 0
        async for piece in _body(receive):
            waiting.append(piece)
            seen += len(piece)
            held += len(piece)
            if held >= WRITE_NBYTES:
                await self._state.blocking(_write_all, pending, waiting)
                waiting, held = [], 0
        if seen != length:
            raise ApiError(400, "truncated", f"expected {length} bytes, found {seen}", close=True)
        await self._state.blocking(_write_all, pending, waiting)


def _write_all(pending: PendingFile, pieces: list[bytes]) -> None:
    for piece in pieces:
        pending.write(piece)


def _stated_digest(scope: Scope) -> str:
    digest = header(scope, b"x-muster-blake3") or b""
    if not _HASH.fullmatch(digest):
        raise ApiError(400, "digest", "expected a header X-Muster-Blake3 with 64 hex digits", close=True)
    return digest.decode("ascii")


def _stated_length(scope: Scope, grant: Grant) -> int:
    value = header(scope, b"content-length") or b""
    if not _LENGTH.fullmatch(value):
        raise ApiError(411, "length", "expected a header Content-Length", close=True)
    if int(value) > grant.max_nbytes:
        raise ApiError(413, "too-large", f"expected at most {grant.max_nbytes} bytes", close=True)
    return int(value)


async def _body(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        try:
            async with asyncio.timeout(STALL_TIMEOUT_S):
                message = await receive()
        except TimeoutError:
            raise ApiError(408, "stalled", "the upload stalled", close=True) from None
        if message["type"] == "http.disconnect":
            raise ApiError(400, "truncated", "the connection ended before the upload was whole", close=True)
        if message.get("body"):
            yield message["body"]
        if not message.get("more_body", False):
            return


async def _skip_body(receive: Receive, length: int) -> None:
    """Read a body that is not wanted, so that the answer is not lost in a reset connection."""
    seen = 0
    async for piece in _body(receive):
        seen += len(piece)
        if seen > length:
            raise ApiError(413, "too-large", f"expected {length} bytes, found more", close=True)


async def _answer(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
