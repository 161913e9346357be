"""Short-lived URLs that are good for one method, path, attempt, volunteer and size limit only.

The signature is HMAC-SHA256 (RFC 2104) over a domain tag and every field, each with its length, so that no two sets of
fields share a message. Volunteer, attempt and size limit are not in the query: the gateway knows them, and a URL that
was made for others doesn't match.
What it does not do: look anything up, or read a clock of its own.

Invariants: constant-time comparison; numbers in the query are bounded before they are converted; a query with anything
but exactly ``exp`` and ``sig`` is refused.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass

_DOMAIN = b"muster url v1\x00"
_QUERY = re.compile(r"exp=([0-9]{1,12})&sig=([A-Za-z0-9_-]{43})")


class UrlError(Exception):
    """The URL is not one of this gateway for this use now; ``str`` says why."""


@dataclass(frozen=True, slots=True)
class UrlScope:
    """What a URL is good for; ``max_nbytes`` is the most that may be sent (0 for reading)."""

    method: str
    path: str
    attempt: str
    volunteer: str
    max_nbytes: int


class UrlSigner:
    """Signs and checks under one secret that only the gateway holds."""

    def __init__(self, key: bytes) -> None:
        if len(key) < 16:
            raise ValueError(f"url key: expected at least 16 bytes, found {len(key)}")
        self._mac = hmac.new(key, _DOMAIN, hashlib.sha256)

    def sign(self, scope: UrlScope, expires_s: float) -> str:
        """Path and query, good until ``expires_s`` (epoch seconds; the fraction is dropped)."""
        expiry = str(int(expires_s))
        return f"{scope.path}?exp={expiry}&sig={self._tag(scope, expiry)}"

    def check(self, scope: UrlScope, query: str, now_s: float) -> None:
        """Return if ``query`` was signed for ``scope`` and is not expired at ``now_s``.

        Raises:
            UrlError: otherwise.
        """
        match = _QUERY.fullmatch(query) if len(query) <= 128 else None
        if match is None or not hmac.compare_digest(self._tag(scope, match[1]), match[2]):
            raise UrlError("the URL is not signed for this use")
        if int(match[1]) <= now_s:
            raise UrlError("the URL has expired")

    def _tag(self, scope: UrlScope, expiry: str) -> str:
        mac = self._mac.copy()
        for field in (scope.method, scope.path, scope.attempt, scope.volunteer, str(scope.max_nbytes), expiry):
            data = field.encode()
            mac.update(len(data).to_bytes(4, "big") + data)
        return base64.urlsafe_b64encode(mac.digest()).rstrip(b"=").decode("ascii")
