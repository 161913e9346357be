"""The volunteer's end of ``vol://``: one address to dial, no socket to listen on.

What it does not do: supervise (``volunteer.agent`` starts a new connection, with a new nonce, after a cut), or execute.

Invariants: only the pool's scheduler is dialled, with its name checked by TLS 1.3; until the worker is registered any
failure ends the attempt with PoolUnreachable or Refused instead of Dask's own endless retries.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import Any, NoReturn

from distributed.comm.core import CommClosedError, FatalCommClosedError, Listener
from distributed.comm.tcp import MAX_BUFFER_SIZE, BaseTCPConnector
from tornado.iostream import StreamClosedError

from muster.cluster.edge import volunteer_schema
from muster.cluster.edge.comm import NeverListener, VolComm
from muster.cluster.edge.limits import EdgeLimits
from muster.cluster.edge.wire import PREFIX, WIRE_VERSION, Violation, mapping, text


class PoolUnreachable(Exception):  # noqa: N818 - an outcome of dialling
    """No usable connection to the pool was made; ``str`` says why. Deliberately no OSError: Dask retries those."""


class Refused(Exception):  # noqa: N818 - an outcome of the hello
    """The pool answered the hello with a refusal; ``str`` is its reason."""


@dataclass(slots=True)
class Link:
    """What has become of one connection: registered yet, and why the pool closed it."""

    registered: bool = False
    farewell: str = ""


@dataclass(frozen=True, slots=True)
class VolunteerSide:
    """Everything the edge needs in a volunteer's process, for one life of its worker.

    Attributes:
        scheduler: ``host:port``, the only address that is dialled.
        ssl_context: trusts the pool's CA and shows the volunteer's certificate.
        server_name: the name that the scheduler's certificate must have.
        nonce: of this life; 8 to 32 lower-case letters or digits.
        muster: the installed version.
        link: what became of the connection.
    """

    scheduler: str
    ssl_context: ssl.SSLContext
    server_name: str
    nonce: str
    muster: str
    link: Link = field(default_factory=Link)
    limits: EdgeLimits = field(default_factory=EdgeLimits)

    def connector(self) -> VolConnector:
        """Return what dials the scheduler."""
        return VolConnector(self)

    def listener(self, _loc: str, _handle_comm: Any) -> Listener:
        """Return a listener without a socket."""
        return NeverListener(self.local_address())

    def local_address(self) -> str:
        """A placeholder: the edge assigns the real address."""
        return f"self.{self.nonce}"


class VolunteerSideComm(VolComm):
    """A connection whose peer is the scheduler."""

    def __init__(self, side: VolunteerSide, stream: Any, local_addr: str, peer_addr: str) -> None:
        super().__init__(stream, local_addr, peer_addr)
        self._side = side
        self._greeted = False

    async def read(self, **_options: Any) -> Any:
        """The hello's answer, a reply (a dict or "OK") or a batch of stream entries (a list), checked."""
        limits = self._side.limits
        try:
            message = await self.read_plain(limits.max_outgoing_nbytes)
            if not self._greeted:
                return self._check_answer(message)
            if not isinstance(message, list):
                return self._check_reply(message)
            batch = volunteer_schema.check_stream(message)
        except Violation as error:
            self.violate(str(error))
        except CommClosedError as error:
            self._fail(error)
        for entry in batch:
            if entry["op"] == "close":
                self._side.link.farewell = entry["reason"]
        return batch

    def _check_answer(self, message: object) -> dict[str, Any]:
        fields = mapping(message)
        if "refused" in fields:
            self.abort()
            raise Refused(text(fields["refused"], 500))
        if fields.get("wire") != WIRE_VERSION:
            raise Violation("hello with another wire version")
        self._greeted = True
        return {}

    def _check_reply(self, message: object) -> dict[str, Any] | str:
        reply = volunteer_schema.check_reply(message)
        if isinstance(reply, dict) and not self._side.link.registered:
            if reply["status"] != "OK" or "time" not in reply:
                self.abort()
                raise Refused(f"registration failed: {reply.get('message', 'no reason given')}")
            self._side.link.registered = True
        return reply

    async def write(self, msg: Any, **_options: Any) -> int:
        """Send the hello, a request (a dict) or a batch of stream entries (a list)."""
        try:
            if not self._greeted:
                side = self._side
                return await self._send({"wire": WIRE_VERSION, "muster": side.muster, "nonce": side.nonce})
            if not isinstance(msg, list):
                return await self._send(volunteer_schema.said_request(msg))
            batch = [entry for entry in map(volunteer_schema.said_stream, msg) if entry is not None]
            return await self._send(batch) if batch else 0
        except CommClosedError as error:
            self._fail(error)

    async def _send(self, message: object) -> int:
        limits = self._side.limits
        return await self.write_plain(message, limits.max_message_nbytes, limits.max_unsent_nbytes)

    def _fail(self, error: CommClosedError) -> NoReturn:
        if self._side.link.registered:
            raise error
        raise PoolUnreachable(f"the pool at {self._side.scheduler} closed the connection: {error}") from error


class VolConnector(BaseTCPConnector):  # type: ignore[misc]
    """Dials the pool's scheduler and nobody else."""

    prefix = PREFIX
    encrypted = True

    def __init__(self, side: VolunteerSide) -> None:
        self._side = side

    async def connect(self, address: str, **_options: Any) -> VolunteerSideComm:
        """A connection to the scheduler, TLS done, hello not yet said.

        Raises:
            FatalCommClosedError: another address than the scheduler's.
            PoolUnreachable: before registration, when there is no connection.
            CommClosedError: the same, afterwards (Dask tries again with the next heartbeat).
        """
        side = self._side
        if address != side.scheduler:
            raise FatalCommClosedError(f"{PREFIX}{address} is never dialled")
        host, _, port = address.rpartition(":")
        try:
            stream = await self.client.connect(host.strip("[]"), int(port), max_buffer_size=MAX_BUFFER_SIZE)
            stream = await stream.start_tls(False, ssl_options=side.ssl_context, server_hostname=side.server_name)
        except (OSError, StreamClosedError) as error:
            reason = _explain(error)
            if side.link.registered:
                raise CommClosedError(f"the pool at {address}: {reason}") from error
            raise PoolUnreachable(f"the pool at {address}: {reason}") from error
        return VolunteerSideComm(side, stream, PREFIX + side.local_address(), PREFIX + address)


def _explain(error: Exception) -> str:
    real = getattr(error, "real_error", None) or error
    if isinstance(real, ssl.SSLCertVerificationError):
        return f"its certificate is not this pool's: {real.verify_message}"
    if isinstance(real, ssl.SSLError):
        return f"TLS failed: {real.reason or real}"
    return str(real) or type(real).__name__
