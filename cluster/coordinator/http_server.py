"""The HTTPS server under the gateway: TLS, who the peer is, time limits before a request, a quiet end on SIGTERM.

uvicorn's httptools protocol, with the verified client certificate's identity put into every request's
``scope["state"]["peer"]`` (None without a certificate).
What it does not do: routes, or any decision on what a peer may do.

Invariants: a client certificate that is shown must be of the volunteer CA and for client authentication, or the
handshake fails; TLS 1.2 at least; a connection that has no request whole within ``header_timeout_s`` of its start (or
of the request's first byte) is closed; at most ``MAX_CONNECTIONS_PER_PEER`` connections of one certificate.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from muster.cluster.coordinator.identity import PeerIdentity, peer_identity

HEADER_TIMEOUT_S = 20.0
KEEP_ALIVE_S = 180  # a warm connection saves 2 to 4 s of slow start at 300 ms
MAX_CONNECTIONS_PER_PEER = 64
GRACE_S = 2
_connections: Counter[str] = Counter()


class PeerProtocol(HttpToolsProtocol):
    """One connection; knows its peer."""

    header_timeout_s = HEADER_TIMEOUT_S
    _peer: PeerIdentity | None = None
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Read the peer's certificate, which OpenSSL has verified, and start the clock."""
        super().connection_made(transport)
        self._peer = peer_identity(transport.get_extra_info("peercert"))
        if self._peer is not None:
            _connections[self._peer.name] += 1
            if _connections[self._peer.name] > MAX_CONNECTIONS_PER_PEER:
                transport.abort()
        self._await_header()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        super().connection_lost(exc)
        self._stop_clock()
        if self._peer is not None:
            _connections[self._peer.name] -= 1
            if _connections[self._peer.name] <= 0:
                del _connections[self._peer.name]

    def on_message_begin(self) -> None:
        """A request begins: its header must be whole soon."""
        super().on_message_begin()
        cast("dict[str, Any]", self.scope)["state"]["peer"] = self._peer
        self._await_header()

    def on_headers_complete(self) -> None:
        """The header is whole."""
        self._stop_clock()
        super().on_headers_complete()

    def shutdown(self) -> None:
        """End now if idle (a TLS farewell would wait for the peer's), else after the answer under way."""
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()
        else:
            self.cycle.keep_alive = False

    def _await_header(self) -> None:
        self._stop_clock()
        self._deadline = self.loop.call_later(self.header_timeout_s, self.transport.abort)

    def _stop_clock(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class QuietServer(uvicorn.Server):
    """A server that reports when it listens and ends by itself, with status 0, on SIGTERM."""

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then tell."""
        await super().startup(sockets)
        self._on_started()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Without uvicorn's habit of raising the signal again after a clean end."""
        previous = signal.signal(signal.SIGTERM, lambda *_: self._stop())
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, previous)

    def _stop(self) -> None:
        self.should_exit = True


def server_context(certificate: Path, key: Path, client_ca: Path) -> ssl.SSLContext:
    """TLS for the gateway: its own certificate, and client certificates of ``client_ca`` if one is shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0  # every connection shows its certificate anew
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(client_ca)
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


def serve(
    app: ASGIApp,
    sock: socket.socket,
    context: ssl.SSLContext,
    on_started: Callable[[], None],
    header_timeout_s: float = HEADER_TIMEOUT_S,
) -> None:
    """Serve ``app`` (ASGI) on a listening socket until SIGTERM; main thread only."""
    protocol = type("PeerProtocol", (PeerProtocol,), {"header_timeout_s": header_timeout_s})
    config = uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
        proxy_headers=False,
    )
    config.load()
    config.ssl = context
    QuietServer(config, on_started).run(sockets=[sock])
