"""Who may use a signed URL of the gateway: checked in one place for both directions.

What it does not do: move bytes.

Invariants: a grant comes back only for a volunteer's certificate, an attempt of that volunteer, a URL signed for this
very use and not expired, and a volunteer that is neither quarantined nor revoked.
"""

from __future__ import annotations

import re
import time

from starlette.types import Scope

from muster.cluster.coordinator.gateway_errors import ApiError
from muster.cluster.coordinator.gateway_routes import volunteer_peer
from muster.cluster.coordinator.gateway_state import GatewayState, Grant
from muster.cluster.coordinator.signed_urls import UrlError, UrlScope

_ATTEMPT = re.compile(r"[0-9a-f]{16,64}")


async def authorise(state: GatewayState, scope: Scope, *, upload: bool) -> Grant:
    """The grant that this request may use.

    Raises:
        ApiError: 401, 403, 404 or 410; an upload's connection is closed, because its body was not read.
    """
    peer = volunteer_peer(scope)
    attempt = str(scope["path_params"]["attempt"])
    if not _ATTEMPT.fullmatch(attempt) or scope["method"] == "HEAD":
        raise ApiError(404, "route", "no such route or method", close=upload)
    grant = await state.grant(attempt)
    if grant is None or grant.volunteer != peer.name:
        raise ApiError(403, "url", "the URL is not signed for this use", close=upload)
    path = scope["raw_path"].decode("latin-1")
    wanted = UrlScope(scope["method"], path, attempt, peer.name, grant.max_nbytes if upload else 0)
    try:
        state.urls.check(wanted, scope["query_string"].decode("latin-1"), time.time())
    except UrlError as error:
        raise ApiError(403, "url", str(error), close=upload) from None
    if await state.refused(peer.name) is not None:
        raise ApiError(410, "settled", "this volunteer may not take work now", close=upload)
    return grant


def header(scope: Scope, name: bytes) -> bytes | None:
    """A request header's value (``name`` in lower case), None without it.

    Raises:
        ApiError: 400 if it is there more than once.
    """
    found = [value for key, value in scope["headers"] if key == name]
    if len(found) > 1:
        raise ApiError(400, "header", f"{name.decode()}: expected at most once", close=True)
    return found[0] if found else None
