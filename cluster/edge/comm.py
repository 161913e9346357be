"""The ``vol://`` scheme as a comm backend of Dask: TLS with a wire of plain data instead of Dask's own.

``distributed`` finds ``VolBackend`` by its entry point. A process takes its side once, with ``install``: the
coordinator's (``scheduler_side``) or the volunteer's (``volunteer_side``); in every other process, such as a trusted
client's, the scheme can neither dial nor listen, so that a volunteer's address is a name and nothing else.
What it does not do: any protocol (the two sides do).

Invariants: nothing read here passes through ``distributed.protocol``; a peer that breaks the protocol is cut at once.
"""

from __future__ import annotations

import logging
from typing import Any, NoReturn, Protocol

from distributed.comm.core import BaseListener, CommClosedError, Connector, FatalCommClosedError, Listener
from distributed.comm.registry import Backend, backends
from distributed.comm.tcp import TLS, convert_stream_closed_error
from tornado.iostream import StreamClosedError

from muster.cluster.edge.wire import HEADER, PREFIX, SCHEME, Violation, decode, encode
from muster.cluster.wan_sockets import tune

log = logging.getLogger("muster.edge")


class Side(Protocol):
    """What a process that takes part in ``vol://`` provides."""

    def connector(self) -> Connector:
        """Return what dials."""

    def listener(self, loc: str, handle_comm: Any) -> Listener:
        """Return what listens on ``loc`` and hands its connections to ``handle_comm``."""

    def local_address(self) -> str:
        """Return the scheme-less address of this process."""


class VolComm(TLS):  # type: ignore[misc]
    """A TLS connection that carries length-prefixed plain msgpack."""

    def __init__(self, stream: Any, local_addr: str, peer_addr: str) -> None:
        super().__init__(stream, local_addr, peer_addr, True)
        self.who = peer_addr  # for messages; the peer's name once it is known
        if stream.socket is not None:
            tune(stream.socket)

    async def read_plain(self, max_nbytes: int) -> object:
        """One message; raises CommClosedError when the peer is gone or sent more than ``max_nbytes`` or nonsense."""
        stream = self.stream
        if stream is None:
            raise CommClosedError(f"connection to {self.who} is closed")
        try:
            (nbytes,) = HEADER.unpack(await stream.read_bytes(HEADER.size))
            if nbytes > max_nbytes:
                self.violate(f"announced {nbytes} bytes, at most {max_nbytes} are read")
            return decode(await stream.read_bytes(nbytes))
        except (StreamClosedError, OSError) as error:
            self._lost(error)
        except Violation as error:
            self.violate(str(error))
        except BaseException:
            self.abort()  # cancelled within a message: what follows can't be told apart any more
            raise

    async def write_plain(self, message: object, max_nbytes: int, max_unsent_nbytes: int) -> int:
        """Queue one message, returns its size in bytes; a peer that doesn't read is cut at ``max_unsent_nbytes``."""
        stream = self.stream
        if stream is None:
            raise CommClosedError(f"connection to {self.who} is closed")
        frame = encode(message, max_nbytes)
        if len(stream._write_buffer or b"") > max_unsent_nbytes:
            self.violate(f"does not read: {max_unsent_nbytes} bytes wait for it")
        try:
            stream.write(frame)
        except StreamClosedError as error:
            self._lost(error)
        return len(frame)

    def _lost(self, error: Exception) -> NoReturn:
        if isinstance(error, CommClosedError):
            raise error
        self.stream = None
        self._closed = True
        if isinstance(error, StreamClosedError):
            convert_stream_closed_error(self, error)
        raise CommClosedError(f"connection to {self.who}: {type(error).__name__}") from error

    def violate(self, why: str) -> NoReturn:
        """End the connection because of what the peer did."""
        log.warning("%s broke the protocol: %s", self.who, why)
        self.abort()
        raise CommClosedError(f"{self.who} broke the protocol: {why}")

    def handshake_info(self) -> dict[str, Any]:
        """Nothing: the hello of ``vol://`` has its own content."""
        return {}

    @staticmethod
    def handshake_configuration(_local: dict[str, Any], _remote: dict[str, Any]) -> dict[str, Any]:
        """No compression and no pickle protocol are agreed: there is neither."""
        return {}


class NeverConnector(Connector):  # type: ignore[misc]
    """Refuses to dial: volunteers are never dialled."""

    async def connect(self, address: str, **_options: Any) -> NoReturn:
        """Raise FatalCommClosedError, which Dask does not retry."""
        raise FatalCommClosedError(f"{PREFIX}{address} is never dialled")


class NeverListener(BaseListener):  # type: ignore[misc]
    """A listener without a socket; its address is a name."""

    prefix = PREFIX

    def __init__(self, loc: str) -> None:
        super().__init__()
        self._address = PREFIX + loc

    async def start(self) -> None:
        """Do nothing."""

    def stop(self) -> None:
        """Do nothing."""

    @property
    def listen_address(self) -> str:
        """The process's own address."""
        return self._address

    @property
    def contact_address(self) -> str:
        """The process's own address."""
        return self._address


class _Bystander:
    """The side of a process that takes no part."""

    def connector(self) -> Connector:
        return NeverConnector()

    def listener(self, loc: str, _handle_comm: Any) -> Listener:
        raise OSError(f"this process does not listen on {PREFIX}{loc}: no side was installed")

    def local_address(self) -> str:
        return "nobody"


class VolBackend(Backend):  # type: ignore[misc]
    """The backend that ``distributed`` asks for ``vol://``.

    Addresses are ``<volunteer>.<nonce>`` for volunteers, ``<host>:<port>`` for the coordinator's listener. The "host"
    of a volunteer is its name: Dask's host restrictions then mean volunteers, whatever nonce they come back with.
    """

    def __init__(self, side: Side | None = None) -> None:
        self._side: Side = side or _Bystander()

    def get_connector(self) -> Connector:
        """What dials in this process."""
        return self._side.connector()

    def get_listener(self, loc: str, handle_comm: Any, _deserialize: bool, **_options: Any) -> Listener:
        """What listens in this process."""
        return self._side.listener(loc, handle_comm)

    def get_address_host(self, loc: str) -> str:
        """A volunteer's name, or the host of a listener."""
        return loc.rsplit(":", 1)[0] if ":" in loc else loc.split(".", 1)[0]

    def get_address_host_port(self, loc: str) -> tuple[str, int]:
        """Host and port of a listener; (name, 0) of a volunteer."""
        host, _, port = loc.rpartition(":")
        return (host, int(port)) if host and port.isdigit() else (self.get_address_host(loc), 0)

    def resolve_address(self, loc: str) -> str:
        """Return ``loc``: there is nothing to resolve."""
        return loc

    def get_local_address_for(self, _loc: str) -> str:
        """The address of this process."""
        return self._side.local_address()


def install(side: Side) -> None:
    """Take a side in this process; a later call replaces it (a volunteer that reconnects has a new nonce)."""
    backends[SCHEME] = VolBackend(side)
