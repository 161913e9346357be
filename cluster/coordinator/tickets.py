"""Tickets: what the edge stamps on a unit so that one volunteer, and no other, may redeem it at the gateway.

A ticket is ``base64url(payload).base64url(MAC)``: the payload names job, unit, issue, volunteer and expiry; the MAC is
HMAC-SHA256 (RFC 2104) over a domain tag and the encoded payload.
What it does not do: know whether the unit still needs work (the registry does), or identify the bearer (TLS does).

Invariants: nothing of a token is parsed before its MAC is right; comparisons are constant-time; a token longer than
``MAX_TOKEN_CHARS`` is refused unread; a checked ticket belongs to the volunteer that was asked about and is still good.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
from dataclasses import dataclass

MAX_TOKEN_CHARS = 1024
MAX_TTL_S = 30 * 86400.0
MAX_ISSUE = 2**31 - 1
_DOMAIN = b"muster ticket v1\x00"
_TOKEN = re.compile(r"([A-Za-z0-9_-]{1,900})\.([A-Za-z0-9_-]{43})")
_HEX_ID = re.compile(r"[0-9a-f]{8,64}")


class TicketError(Exception):
    """The token is not a ticket of this pool for this volunteer now; ``str`` says which."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """The right of ``volunteer`` to begin the attempt at (job, unit, issue) until ``expires_s`` (epoch seconds)."""

    job: str
    unit: str
    issue: int
    volunteer: str
    expires_s: float


class TicketSigner:
    """Issues and checks tickets under one secret; the edge and the gateway each hold one."""

    def __init__(self, key: bytes) -> None:
        if len(key) < 16:
            raise ValueError(f"ticket key: expected at least 16 bytes, found {len(key)}")
        self._mac = hmac.new(key, _DOMAIN, hashlib.sha256)

    def issue(self, job: str, unit: str, issue: int, volunteer: str, now_s: float, ttl_s: float) -> str:
        """A token for ``volunteer``, good until ``now_s + ttl_s``.

        Raises:
            ValueError: a time to live that is not positive or longer than 30 days, or a name that makes it too long.
        """
        if not 0 < ttl_s <= MAX_TTL_S:
            raise ValueError(f"ticket time to live: expected 0 to {MAX_TTL_S:.0f} s, found {ttl_s}")
        payload = {"job": job, "unit": unit, "issue": issue, "vol": volunteer, "exp": round(now_s + ttl_s, 3)}
        body = base64.urlsafe_b64encode(json.dumps(payload, separators=(",", ":")).encode()).rstrip(b"=")
        token = f"{body.decode('ascii')}.{self._tag(body)}"
        if not _TOKEN.fullmatch(token):
            raise ValueError(f"ticket for {volunteer[:80]!r}: longer than {MAX_TOKEN_CHARS} characters")
        return token

    def check(self, token: str, volunteer: str, now_s: float) -> Ticket:
        """The ticket in ``token`` if it is genuine, of ``volunteer``, and not expired at ``now_s``.

        Raises:
            TicketError: otherwise.
        """
        match = _TOKEN.fullmatch(token) if len(token) <= MAX_TOKEN_CHARS else None
        if match is None or not hmac.compare_digest(self._tag(match[1].encode("ascii")), match[2]):
            raise TicketError("not a ticket of this pool")
        ticket = _parse(match[1])
        if not hmac.compare_digest(ticket.volunteer.encode(), volunteer.encode()):
            raise TicketError("the ticket belongs to another volunteer")
        if ticket.expires_s <= now_s:
            raise TicketError("the ticket has expired")
        return ticket

    def _tag(self, body: bytes) -> str:
        mac = self._mac.copy()
        mac.update(body)
        return base64.urlsafe_b64encode(mac.digest()).rstrip(b"=").decode("ascii")


def _parse(body: str) -> Ticket:
    try:
        payload = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        ticket = Ticket(payload["job"], payload["unit"], payload["issue"], payload["vol"], payload["exp"])
    except (ValueError, KeyError, TypeError, binascii.Error):
        raise TicketError("not a ticket of this version") from None
    ids = isinstance(ticket.job, str) and isinstance(ticket.unit, str) and isinstance(ticket.volunteer, str)
    if not ids or not (_HEX_ID.fullmatch(ticket.job) and _HEX_ID.fullmatch(ticket.unit)):
        raise TicketError("not a ticket of this version")
    if type(ticket.issue) is not int or not 0 <= ticket.issue <= MAX_ISSUE or type(ticket.expires_s) is not float:
        raise TicketError("not a ticket of this version")
    return ticket
