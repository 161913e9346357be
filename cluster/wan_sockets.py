"""TCP settings for long, lossy paths: what the platform knows is set, the rest is left as it is.

At 300 ms and 8 % loss one stream under a loss-based control moves 0.15 Mbit/s of a 100 Mbit/s line, BBR 65 to 90 times
that; retransmission back-off without a cap makes a connection resume minutes after the line does.

Invariants: never raises (a kernel that refuses an option keeps its default); every option is per socket and needs no
privilege.
"""

from __future__ import annotations

import contextlib
import socket

_TCP_CONGESTION = getattr(socket, "TCP_CONGESTION", None)
_TCP_RTO_MAX_MS = 44  # linux/tcp.h since 6.15; the socket module doesn't name it
_RTO_MAX_MS = 3000
_USER_TIMEOUT_MS = 900_000
_KEEPALIVE_IDLE_S = 60
_KEEPALIVE_INTERVAL_S = 30

Option = tuple[int, int, int] | tuple[int, int, bytes]


def stream_options() -> list[Option]:
    """Options for a connecting or listening socket (accepted sockets inherit them on Linux)."""
    options: list[Option] = [
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    ]
    named = {
        "TCP_KEEPIDLE": _KEEPALIVE_IDLE_S,
        "TCP_KEEPINTVL": _KEEPALIVE_INTERVAL_S,
        "TCP_USER_TIMEOUT": _USER_TIMEOUT_MS,
    }
    options += [(socket.IPPROTO_TCP, getattr(socket, n), v) for n, v in named.items() if hasattr(socket, n)]
    if _TCP_CONGESTION is not None:
        options.append((socket.IPPROTO_TCP, _TCP_CONGESTION, b"bbr"))
        options.append((socket.IPPROTO_TCP, _TCP_RTO_MAX_MS, _RTO_MAX_MS))
    return options


def accepted_options() -> list[Option]:
    """Those of ``stream_options`` that this kernel takes, for libraries that don't forgive a refusal."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        return [option for option in stream_options() if _set(probe, option)]


def tune(sock: socket.socket) -> None:
    """Set every option of ``stream_options`` that this kernel takes."""
    for option in stream_options():
        _set(sock, option)


def listening_socket(host: str, port: int, backlog: int = 1024) -> socket.socket:
    """A tuned socket that listens on ``host`` (a name or IPv4/IPv6 address) and ``port`` (0: any free one).

    Raises:
        OSError: the address can't be used.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    sock = socket.socket(family, kind, protocol)
    try:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tune(sock)
        sock.bind(address)
        sock.listen(backlog)
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def _set(sock: socket.socket, option: Option) -> bool:
    try:
        sock.setsockopt(*option)
    except OSError:
        return False
    return True
