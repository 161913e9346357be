"""Who is connected: admission at the hello, one live process per certificate, cutting volunteers off.

What it does not do: read or write sockets (``scheduler_side`` does), or decide who is refused (the registry does; it is
asked through ``refused``).

Invariants: connections of one volunteer all belong to the process that said hello last; a refused volunteer has none.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version as installed_version
from typing import Protocol

from muster.cluster.edge.limits import EdgeLimits
from muster.cluster.edge.wire import WIRE_VERSION, integer, mapping, nonce, version

log = logging.getLogger("muster.edge")
DISTRIBUTION = "muster-compute"
SUPERSEDED = "superseded by a newer connection with the same certificate"


def muster_version() -> str:
    """The installed version of Muster."""
    return installed_version(DISTRIBUTION)


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message of a volunteer: wire version, Muster's version, nonce of its process."""

    wire: int
    muster: str
    nonce: str


def check_hello(message: object) -> Hello:
    """The hello in ``message``; raises Violation otherwise."""
    fields = mapping(message)
    return Hello(integer(fields.get("wire"), 0, 2**31), version(fields.get("muster")), nonce(fields.get("nonce")))


class Guest(Protocol):
    """A connection as the door sees it."""

    volunteer: str
    nonce: str
    streams: bool

    def dismiss(self, reason: str) -> None:
        """Tell the peer why, then close."""


class Door:
    """The live connections by volunteer name; ``counts`` says how often what happened."""

    def __init__(self, limits: EdgeLimits, refused: Callable[[str], str | None]) -> None:
        self.limits = limits
        self.counts: Counter[str] = Counter()
        self.pending = 0
        self._refused = refused
        self._live: dict[str, list[Guest]] = {}

    def has_room(self) -> bool:
        """Whether one more connection may try to say hello."""
        if self.pending < self.limits.max_pending:
            return True
        self.counts["overflow"] += 1
        return False

    def admit(self, guest: Guest, hello: Hello) -> str | None:
        """Let an authenticated connection in, or return why not, in words for the volunteer's owner."""
        reason = self._reason(guest.volunteer, hello)
        if reason is None:
            self._supersede(guest)
            if len(self._live.get(guest.volunteer, ())) >= self.limits.max_connections:
                reason = f"{self.limits.max_connections} connections with this certificate are open already"
        if reason is not None:
            self.counts["refused"] += 1
            log.info("refused %s: %s", guest.volunteer, reason)
            return reason
        self._live.setdefault(guest.volunteer, []).append(guest)
        self.counts["admitted"] += 1
        return None

    def _reason(self, name: str, hello: Hello) -> str | None:
        if hello.wire != WIRE_VERSION:
            own = muster_version()
            return (
                f"version: this pool speaks wire version {WIRE_VERSION} (Muster {own}), yours is {hello.wire} "
                f"(Muster {hello.muster}); install {DISTRIBUTION}=={own}"
            )
        return self._refused(name)

    def _supersede(self, guest: Guest) -> None:
        for other in self._live.get(guest.volunteer, [])[:]:
            if other.nonce != guest.nonce:
                self.counts["superseded"] += 1
                log.info("%s: %s supersedes %s", guest.volunteer, guest.nonce, other.nonce)
                self.leave(other)
                other.dismiss(SUPERSEDED)

    def has_worker(self, volunteer: str) -> bool:
        """Whether this volunteer's process has registered its worker already."""
        return any(guest.streams for guest in self._live.get(volunteer, ()))

    def leave(self, guest: Guest) -> None:
        """Forget a connection that has ended; doing it again changes nothing."""
        rest = [other for other in self._live.get(guest.volunteer, ()) if other is not guest]
        if rest:
            self._live[guest.volunteer] = rest
        else:
            self._live.pop(guest.volunteer, None)

    def cut(self, names: Iterable[str]) -> int:
        """Close every connection of these volunteers; returns how many there were."""
        closed = 0
        for name in names:
            for guest in self._live.pop(name, []):
                closed += 1
                self.counts["cut"] += 1
                log.info("cut off %s: %s", name, self._refused(name))
                guest.dismiss(self._refused(name) or "cut off by the pool")
        return closed

    def connections(self) -> dict[str, int]:
        """How many connections each volunteer has."""
        return {name: len(guests) for name, guests in self._live.items()}
