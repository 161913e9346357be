"""The coordinator's end of ``vol://``: the listener for volunteers and the connections it accepts.

Each connection proves itself by TLS 1.3 with a certificate of the volunteers' CA (checked by OpenSSL), then by the
subject (role "volunteer"), then says hello; all within the hello time-out. From there ``schema`` rebuilds whatever it
says.
What it does not do: know a registry, a ticket key or a scheduler; those are functions in ``SchedulerSide``.

Invariants: a volunteer's address is its certificate's name and the nonce of its hello, never what it claims later; one
task stream per process; before the hello nothing but at most ``max_hello_nbytes`` is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from distributed.comm.core import Connector
from distributed.comm.tcp import TLSListener
from tornado.iostream import StreamClosedError
from tornado.netutil import bind_sockets
from tornado.tcpserver import TCPServer

from muster.cluster.coordinator.identity import VOLUNTEER, peer_identity
from muster.cluster.edge import schema
from muster.cluster.edge.comm import NeverConnector, VolComm
from muster.cluster.edge.door import Door, check_hello, muster_version
from muster.cluster.edge.limits import TokenBucket
from muster.cluster.edge.wire import PREFIX, WIRE_VERSION, Violation, encode, entries
from muster.cluster.unit import UnitMessage

log = logging.getLogger("muster.edge")
_BACKLOG = 512


@dataclass(frozen=True, slots=True)
class SchedulerSide:
    """Everything the edge needs of the scheduler's process.

    Attributes:
        ssl_context: server context that trusts the volunteers' CA only (``server_context``).
        door: who is connected.
        holder_of: address of the worker that the scheduler gave a key to, or None.
        ticket_for: (volunteer name, unit) to the ticket that the message towards it carries.
        refuse_task: called with the address and a task that may not go out; has to end that task.
    """

    ssl_context: ssl.SSLContext
    door: Door
    holder_of: Callable[[str], str | None]
    ticket_for: Callable[[str, UnitMessage], str]
    refuse_task: Callable[[str, schema.RefusedTask], None]

    def connector(self) -> Connector:
        """Nothing is dialled from here."""
        return NeverConnector()

    def listener(self, loc: str, handle_comm: Any) -> VolListener:
        """Return the listener on ``host:port``; Dask's own TLS settings don't apply to it."""
        return VolListener(self, loc, handle_comm)

    def local_address(self) -> str:
        """A name that nobody dials."""
        return "coordinator"


def server_context(volunteer_ca: str, certificate: str, key: str) -> ssl.SSLContext:
    """TLS 1.3 only, client certificates of ``volunteer_ca`` required; arguments are paths of PEM files."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cafile=volunteer_ca)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(certificate, key)
    return context


class SchedulerSideComm(VolComm):
    """A connection whose peer is a volunteer; usable by Dask once ``greet`` returned True."""

    def __init__(self, side: SchedulerSide, stream: Any, local_addr: str, peer_addr: str) -> None:
        super().__init__(stream, local_addr, peer_addr)
        limits = side.door.limits
        self._side = side
        self._limits = limits
        self._bucket = TokenBucket(limits.entries_per_s, limits.burst_entries)
        self.streams = False
        self.volunteer = ""
        self.nonce = ""
        self.address = ""
        stream.set_close_callback(self._ended)

    def _ended(self) -> None:
        self._closed = True
        self._side.door.leave(self)

    async def greet(self) -> bool:
        """Check certificate and hello and answer; False when the volunteer was refused (and told why)."""
        identity = peer_identity(self._extra.get("peercert"))
        if identity is None or identity.role != VOLUNTEER:
            self.violate(f"certificate is not a {VOLUNTEER}'s")
        self.volunteer = self.who = identity.name
        try:
            hello = check_hello(await self.read_plain(self._limits.max_hello_nbytes))
        except Violation as error:
            self.violate(f"hello: {error}")
        self.nonce = hello.nonce
        self.address = f"{PREFIX}{self.volunteer}.{self.nonce}"
        reason = self._side.door.admit(self, hello)
        answer = {"wire": WIRE_VERSION, "muster": muster_version()} | ({"refused": reason} if reason else {})
        await self._send(answer)
        if reason is not None:
            await self.close()
            return False
        self.remote_info = self.local_info = {"address": self.address}
        self.handshake_options: dict[str, Any] = {}
        return True

    async def read(self, **_options: Any) -> Any:
        """The next request (a dict) or batch of stream entries (a list), rebuilt."""
        while True:
            message = await self.read_plain(self._limits.max_message_nbytes)
            try:
                checked = self._check_batch(message) if self.streams else self._check_request(message)
            except Violation as error:
                self._side.door.counts["violations"] += 1
                self.violate(str(error))
            n_entries = len(message) if isinstance(message, list) else 1
            wait_s = self._bucket.take(n_entries, time.monotonic())
            if wait_s > 0:
                self._side.door.counts["paced"] += 1
                await asyncio.sleep(wait_s)
            if checked:
                return checked

    def _check_request(self, message: object) -> dict[str, Any]:
        request = schema.check_request(message, self.address, self._limits.max_threads)
        if request["op"] == "register-worker":
            if self._side.door.has_worker(self.volunteer):
                raise Violation("registers twice")
            self.streams = True
        return request

    def _check_batch(self, message: object) -> list[dict[str, Any]]:
        batch = entries(message, self._limits.max_batch)
        checked = (schema.check_stream(entry, self.address, self._side.holder_of) for entry in batch)
        return [entry for entry in checked if entry is not None]

    async def write(self, msg: Any, **_options: Any) -> int:
        """Send a reply or a batch of stream entries; tasks that may not go out are refused instead."""
        if not isinstance(msg, list):
            return await self._send(schema.outgoing_reply(msg))
        batch = []
        for entry in msg:
            try:
                out = schema.outgoing_stream(entry, self._ticket)
            except schema.RefusedTask as refused:
                self._side.door.counts["refused_tasks"] += 1
                asyncio.get_running_loop().call_soon(self._side.refuse_task, self.address, refused)
                continue
            if out is not None:
                batch.append(out)
        return await self._send(batch) if batch else 0

    def _ticket(self, unit: UnitMessage) -> str:
        return self._side.ticket_for(self.volunteer, unit)

    async def _send(self, message: object) -> int:
        return await self.write_plain(message, self._limits.max_outgoing_nbytes, self._limits.max_unsent_nbytes)

    def dismiss(self, reason: str) -> None:
        """Tell the volunteer why, as far as it listens, and cut the connection."""
        stream = self.stream
        if stream is not None and self.streams:
            with contextlib.suppress(StreamClosedError, OSError):
                stream.write(_close_frame(reason))
        self.abort()


def _close_frame(reason: str) -> bytes:
    """The frame that closes a task stream for ``reason``."""
    return encode([{"op": "close", "reason": reason[:300]}], 4096)


class VolListener(TLSListener):  # type: ignore[misc]
    """Accepts volunteers on ``host:port``."""

    prefix = PREFIX
    comm_class = SchedulerSideComm

    def __init__(self, side: SchedulerSide, loc: str, handle_comm: Any) -> None:
        self._side = side
        self._pending: set[Any] = set()
        super().__init__(loc, handle_comm)

    def _get_server_args(self, **_connection_args: Any) -> dict[str, Any]:
        return {"ssl_options": self._side.ssl_context}

    async def start(self) -> None:
        """Bind and accept; raises OSError when the address is taken."""
        buffer_nbytes = 2 * self._side.door.limits.max_message_nbytes
        self.tcp_server = TCPServer(max_buffer_size=buffer_nbytes, **self.server_args)
        self.tcp_server.handle_stream = self._handle_stream
        self.tcp_server.add_sockets(bind_sockets(self.port, address=self.ip, backlog=_BACKLOG))
        self.get_host_port()

    async def _handle_stream(self, stream: Any, address: tuple[Any, ...]) -> None:
        door = self._side.door
        if self.tcp_server is None or not door.has_room():
            stream.close()
            return
        peer = f"{PREFIX}{address[0]}:{address[1]}"
        door.pending += 1
        self._pending.add(stream)
        try:
            comm = await asyncio.wait_for(self._greet(stream, peer), door.limits.hello_timeout_s)
        except (TimeoutError, OSError, StreamClosedError) as error:
            door.counts["failed_hellos"] += 1
            log.info("%s did not get in: %s", peer, str(error) or type(error).__name__)
            stream.close()
            return
        finally:
            door.pending -= 1
            self._pending.discard(stream)
        if comm is None:
            return
        await self.comm_handler(comm)  # only begins to handle it: the door is left when the stream closes

    async def _greet(self, stream: Any, peer: str) -> SchedulerSideComm | None:
        await stream.wait_for_handshake()
        comm = SchedulerSideComm(self._side, stream, self.listen_address, peer)
        return comm if await comm.greet() else None

    def abort_handshaking_comms(self) -> None:
        """Close connections that have not finished their hello."""
        for stream in self._pending.copy():
            stream.close()
