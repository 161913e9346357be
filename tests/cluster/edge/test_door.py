"""Who gets in and who stays: certificates, versions, superseding, refusal, time-outs, restarts."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import pytest

from muster.cluster.coordinator.registry import Registry
from muster.cluster.edge.door import SUPERSEDED


@pytest.fixture
def cert(pool):
    def make(name: str) -> tuple[str, str]:
        bundle = pool.bundle(name)
        return bundle.cert, bundle.key

    return make


def test_no_certificate_or_an_operators_gets_no_hello(pool, tools):
    for pair in (None, (pool.operator.cert_pem, pool.operator.key_pem)):
        with pytest.raises((OSError, EOFError)):
            tools.RawPeer(pool, pair)


def test_a_certificate_of_another_role_is_refused(pool, tools, monkeypatch):
    from muster.cluster.coordinator import pki

    monkeypatch.setattr(pki, "VOLUNTEER", "gardener")
    issued = pki.issue_volunteer(pool.pool_dir, "flora", "flora")
    assert issued.role == "gardener"
    with pytest.raises((OSError, EOFError)):
        tools.RawPeer(pool, (issued.cert_pem, issued.key_pem))
    tools.wait_for(lambda: "certificate is not a volunteer's" in pool.scheduler.log(), what="the reason in the log")


def test_another_wire_version_is_told_what_to_install(pool, cert, tools):
    peer = tools.RawPeer(pool, cert("vol-1"), wire=7)
    assert peer.answer["refused"].startswith("version: this pool speaks wire version 1")
    assert "install muster-compute==" in peer.answer["refused"]
    assert peer.closed()


def test_silence_and_half_a_hello_end_after_the_time_out(pool, cert, tools):
    plain = socket.create_connection(("127.0.0.1", pool.vol_port))
    quiet = tools.RawPeer(pool, cert("vol-1"), hello=False)
    slow = tools.RawPeer(pool, cert("vol-1"), hello=False)
    slow.socket.sendall(b"\x00\x00")
    began_s = time.monotonic()
    assert quiet.closed(4)
    assert slow.closed(4)
    assert 0.5 < time.monotonic() - began_s < 4
    plain.settimeout(3)
    with contextlib.suppress(ConnectionResetError):
        assert plain.recv(1) == b""
    plain.close()


def test_a_newer_hello_supersedes_the_older_process(pool, cert, tools, client):
    pair = cert("vol-1")
    older = tools.RawPeer(pool, pair)
    assert older.register()["status"] == "OK"
    assert [v.address for v in client.volunteers()] == [f"vol://vol-1.{older.nonce}"]
    newer = tools.RawPeer(pool, pair)
    assert newer.register()["status"] == "OK"
    farewell = older.receive()
    assert farewell == [{"op": "close", "reason": SUPERSEDED}]
    assert older.closed()
    tools.wait_for(lambda: [v.address for v in client.volunteers()] == [f"vol://vol-1.{newer.nonce}"])
    newer.close()
    tools.wait_for(lambda: client.volunteers() == [], what="nobody left")


def test_one_process_registers_once_and_claims_bounded_threads(pool, cert, tools, client):
    pair = cert("vol-1")
    first = tools.RawPeer(pool, pair)
    assert first.register(nthreads=10**6, name="tls://127.0.0.1:1", resources={"gold": 5})["status"] == "OK"
    second = tools.RawPeer(pool, pair, nonce=first.nonce)
    with pytest.raises((OSError, EOFError)):
        second.register()
    (volunteer,) = client.volunteers()
    assert (volunteer.name, volunteer.nthreads) == ("vol-1", 1024)
    first.close()
    second.close()


def test_connections_of_one_certificate_are_limited(pool, cert, tools):
    pair = cert("vol-1")
    first = tools.RawPeer(pool, pair)
    others = [tools.RawPeer(pool, pair, nonce=first.nonce) for _ in range(7)]
    assert all(set(peer.answer) == {"wire", "muster"} for peer in others)
    over = tools.RawPeer(pool, pair, nonce=first.nonce)
    assert "8 connections" in over.answer["refused"]
    for peer in (first, *others, over):
        peer.close()


def test_quarantine_cuts_the_live_connection_and_refuses_the_next(pool, tools, client):
    registry = Registry(pool.pool_dir)
    registry.enrol("liar", "owner of liar")
    volunteer = pool.volunteer("liar")
    assert [v.name for v in client.volunteers()] == ["liar"]
    _quarantine(registry, "owner of liar", "row 17 differs")
    tools.wait_for(lambda: client.volunteers() == [], timeout_s=5, what="the liar being cut off")
    tools.wait_for(lambda: "refuses this volunteer: quarantined: row 17 differs" in volunteer.log(), what="the reason")
    assert volunteer.process.poll() is None, "it waits: people may lift a quarantine"
    volunteer.stop()
    again = pool.volunteer("liar", must_start=False)
    assert again.wait() != 0
    assert "PoolError: the pool refuses this volunteer: quarantined: row 17 differs" in again.log()


def _quarantine(registry: Registry, contributor: str, reason: str) -> None:
    from sqlalchemy import update

    from muster.cluster.coordinator.tables import contributors

    with registry.db.write() as connection:
        values = {"quarantined_s": time.time(), "reason": reason}
        connection.execute(update(contributors).where(contributors.c.name == contributor).values(**values))


def test_an_unreachable_pool_is_a_clear_error(pool):
    started = pool.volunteer("vol-6", vol_port=9, must_start=False)
    assert started.wait() != 0
    assert "PoolError: the pool at 127.0.0.1:9: [Errno 111] Connection refused" in started.log()


class Relay:
    """A TCP relay to the pool's door for volunteers that can cut what goes through it."""

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._pairs: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._server.accept()
                far = socket.create_connection(self._target)
                self._pairs += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        for end in self._pairs:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._pairs = []

    def close(self) -> None:
        self._server.close()
        self.cut()


def test_a_cut_while_computing_costs_nothing_but_the_connection(pool, tools, client):
    relay = Relay(pool.vol_port)
    volunteer = pool.volunteer("vol-8", vol_port=relay.port)
    keys = tools.submit_units(client, tools.job_id(800), 2)
    tools.wait_for(lambda: len(pool.record("vol-8", "began")) == 2, what="at work")
    relay.cut()
    tools.wait_for(lambda: volunteer.log().count("registered as") == 2, what="the volunteer being back")
    assert {s.status for s in tools.collect(client, 2)} == {"finished"}
    ended = [line["unit"] for line in pool.record("vol-8")]
    assert {key.split("-")[1][:32] for key in keys} == set(ended)
    assert len(ended) == 4, "the threads of the first connection went on; the gateway takes the first result"
    volunteer.stop()
    relay.close()


def test_volunteers_come_back_after_a_scheduler_restart(pool, tools):
    """Runs last: replaces the module's scheduler."""
    volunteer = pool.volunteer("vol-7")
    ports = (pool.tls_port, pool.vol_port)
    pool.scheduler.stop()
    pool.start_scheduler(*ports)
    with pool.client() as client:
        tools.wait_for(lambda: [v.name for v in client.volunteers()] == ["vol-7"], what="the volunteer being back")
        addresses = [line.split()[2] for line in volunteer.log().splitlines() if "registered as" in line]
        assert len(set(addresses)) == 2, "a fresh nonce"
        tools.submit_units(client, tools.job_id(), 5)
        assert {s.status for s in tools.collect(client, 5)} == {"finished"}
