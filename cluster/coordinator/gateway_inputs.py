"""The gateway's outgoing bytes: ranges of the files that the attempts' chunks lie in.

What it does not do: look into any byte that passes, or list anything.

Invariants: a route is entered with a volunteer's certificate, a URL signed for it and an attempt of its own; only bytes
inside the chunk's ranges leave, ``BLOCK_NBYTES`` in memory at a time; a file that is not the planned one gives 412.
"""

from __future__ import annotations

import asyncio
import logging
import re

from starlette.types import Receive, Scope, Send

from muster.cluster.coordinator.gateway_access import authorise, header
from muster.cluster.coordinator.gateway_errors import ApiError
from muster.cluster.coordinator.gateway_state import GatewayState, Grant
from muster.errors import SourceChangedError, SourceError

BLOCK_NBYTES = 1 << 20
SEND_TIMEOUT_S = 120.0
_RANGE = re.compile(rb"bytes=([0-9]{1,18})-([0-9]{1,18})")
_log = logging.getLogger("muster.gateway")


class InputRoute:
    """``GET /v1/input/<attempt>``: one byte range of the file that the attempt's chunk lies in."""

    def __init__(self, state: GatewayState) -> None:
        self._state = state

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Serve one range."""
        grant = await authorise(self._state, scope, upload=False)
        start, end = _asked_range(scope, grant)
        etag = f'"{grant.etag}"'.encode("ascii")
        if header(scope, b"if-match") not in (None, etag):
            raise ApiError(412, "source-changed", "the file is another version than the one asked for")
        block = await self._read(grant, start, min(end, start + BLOCK_NBYTES))
        headers = [
            (b"content-type", b"application/octet-stream"),
            (b"content-length", b"%d" % (end - start)),
            (b"content-range", b"bytes %d-%d/*" % (start, end - 1)),
            (b"etag", etag),
        ]
        await send({"type": "http.response.start", "status": 206, "headers": headers})
        while True:
            start += len(block)
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await send({"type": "http.response.body", "body": block, "more_body": start < end})
            if start >= end:
                return
            block = await self._read(grant, start, min(end, start + BLOCK_NBYTES))

    async def _read(self, grant: Grant, start: int, end: int) -> bytes:
        try:
            source = await self._state.source(grant.job)
            block = await self._state.blocking(source.read, grant.file, start, end - start)
        except SourceChangedError:
            self._state.forget_source(grant.job)
            raise ApiError(412, "source-changed", "the file is no longer the one that was planned") from None
        except SourceError as error:
            _log.warning("attempt %s: %s", grant.attempt, error)
            raise ApiError(503, "source", "the file can't be read now") from None
        if len(block) != end - start:
            raise ApiError(412, "source-changed", "the file is shorter than the one that was planned")
        return block


def _asked_range(scope: Scope, grant: Grant) -> tuple[int, int]:
    match = _RANGE.fullmatch(header(scope, b"range") or b"")
    if match is None:
        raise ApiError(400, "range", "expected a header Range: bytes=<first>-<last>")
    start, end = int(match[1]), int(match[2]) + 1
    if not grant.covers(start, end):
        raise ApiError(416, "range", "the range is not inside the ranges of this attempt's chunk")
    return start, end
