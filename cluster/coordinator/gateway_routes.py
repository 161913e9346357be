"""The gateway's small JSON routes (health, redeem, fail), its errors, and the application that holds every route.

What it does not do: move data (``gateway_inputs``, ``gateway_uploads``), or keep state of its own.

Invariants: a request body is read up to ``MAX_BODY_NBYTES`` and no further; every error is a JSON object with ``error``
(a stable word) and ``text``; every route but health wants a volunteer's certificate; nothing of an internal failure is
told but its kind.
"""

from __future__ import annotations

import json
import logging
import time
from functools import lru_cache
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Scope

from muster.cluster.coordinator.gateway_errors import ApiError
from muster.cluster.coordinator.gateway_state import URL_TTL_S, GatewayState
from muster.cluster.coordinator.identity import VOLUNTEER, PeerIdentity
from muster.cluster.coordinator.registry import Redeemed, SettledError
from muster.cluster.coordinator.signed_urls import UrlScope
from muster.cluster.coordinator.tickets import TicketError

MAX_BODY_NBYTES = 8192
MAX_FAIL_TEXT_CHARS = 2000
FAIL_KINDS = ("kernel", "source", "transfer", "input")
_log = logging.getLogger("muster.gateway")


def volunteer_peer(scope: Scope) -> PeerIdentity:
    """The volunteer at the other end of the connection.

    Raises:
        ApiError: 401 without a client certificate, 403 with one of another role.
    """
    peer: PeerIdentity | None = scope["state"].get("peer")
    if peer is None:
        raise ApiError(401, "no-certificate", "this route needs a volunteer's client certificate")
    if peer.role != VOLUNTEER:
        raise ApiError(403, "wrong-role", "this route is for volunteers")
    return peer


class WorkRoutes:
    """Redeem a ticket, report a failure."""

    def __init__(self, state: GatewayState) -> None:
        self._state = state

    async def health(self, _request: Request) -> Response:
        """Answer that the gateway runs; open to everybody."""
        return JSONResponse({"status": "ok", "v": 1, "now_s": time.time()})

    async def redeem(self, request: Request) -> Response:
        """Begin or renew the attempt that a ticket stands for and say what to do, in signed URLs."""
        peer = volunteer_peer(request.scope)
        token = _text(await _json_body(request), "ticket", 1024)
        now_s = time.time()
        try:
            ticket = self._state.tickets.check(token, peer.name, now_s)
            redeemed = await self._state.record(
                self._state.registry.redeem, ticket.job, ticket.unit, ticket.issue, peer.name
            )
        except TicketError as error:
            raise ApiError(403, "ticket", str(error)) from None
        except SettledError as error:
            raise ApiError(410, "settled", str(error)) from None
        return JSONResponse(await self._assignment(redeemed, now_s + URL_TTL_S))

    async def _assignment(self, redeemed: Redeemed, expires_s: float) -> dict[str, object]:
        attempt, urls = redeemed.attempt_id, self._state.urls
        grant = await self._state.grant(attempt)
        if grant is None:
            raise ApiError(410, "settled", "the attempt is gone")
        read = UrlScope("GET", f"/v1/input/{attempt}", attempt, redeemed.volunteer, 0)
        send = UrlScope("PUT", f"/v1/upload/{attempt}", attempt, redeemed.volunteer, redeemed.max_nbytes)
        return {
            "attempt": attempt,
            "expires_s": expires_s,
            "recipe": redeemed.recipe,
            "build": await self._state.blocking(_build_of, redeemed.recipe),
            "schema": redeemed.schema,
            "chunk": redeemed.chunk,
            "input": {"path": urls.sign(read, expires_s), "etag": grant.etag},
            "upload": {"path": urls.sign(send, expires_s), "max_nbytes": redeemed.max_nbytes},
        }

    async def fail(self, request: Request) -> Response:
        """Record that the volunteer gave up on its attempt."""
        peer = volunteer_peer(request.scope)
        body = await _json_body(request)
        attempt, kind = _text(body, "attempt", 64), _text(body, "kind", 16)
        text = _text(body, "text", MAX_FAIL_TEXT_CHARS, may_be_empty=True)
        if kind not in FAIL_KINDS:
            raise ApiError(400, "kind", f"expected one of {', '.join(FAIL_KINDS)}")
        grant = await self._state.grant(attempt) if attempt.isascii() else None
        if grant is None or grant.volunteer != peer.name:
            raise ApiError(404, "attempt", "no such attempt of this volunteer")
        recorded = await self._state.record(self._state.registry.attempt_failed, attempt, kind, text)
        return JSONResponse({"recorded": recorded})


@lru_cache(maxsize=64)
def _build_of(recipe: str) -> str:
    """The recipe's identity, which names the builds of its kernels here: another build may give other bits."""
    from muster.kernels.recipe import Recipe

    return Recipe.from_json(recipe).identity


def build_app(work: WorkRoutes, blob_input: ASGIApp, upload: ASGIApp) -> Starlette:
    """The application with every route of the gateway."""
    app = Starlette(
        routes=[
            Route("/v1/health", work.health, methods=["GET"]),
            Route("/v1/redeem", work.redeem, methods=["POST"]),
            Route("/v1/fail", work.fail, methods=["POST"]),
            Route("/v1/input/{attempt}", blob_input, methods=["GET"]),
            Route("/v1/upload/{attempt}", upload, methods=["PUT"]),
        ],
        exception_handlers={ApiError: _api_error, 404: _no_route, 405: _no_route, Exception: _internal},
    )
    app.router.redirect_slashes = False
    return app


async def _api_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response()


async def _no_route(_request: Request, _error: Exception) -> Response:
    return ApiError(404, "route", "no such route or method").response()


async def _internal(request: Request, error: Exception) -> Response:
    _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return ApiError(500, "internal", type(error).__name__).response()


async def _json_body(request: Request) -> dict[str, Any]:
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > MAX_BODY_NBYTES:
            raise ApiError(413, "too-large", f"expected a body of at most {MAX_BODY_NBYTES} bytes", close=True)
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        raise ApiError(400, "json", "expected a JSON body") from None
    if not isinstance(body, dict):
        raise ApiError(400, "json", "expected a JSON object")
    return body


def _text(body: dict[str, Any], name: str, max_chars: int, *, may_be_empty: bool = False) -> str:
    value = body.get(name)
    if not isinstance(value, str) or len(value) > max_chars or not (value or may_be_empty):
        raise ApiError(400, "field", f"{name}: expected text of at most {max_chars} characters")
    return value
