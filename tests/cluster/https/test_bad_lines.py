"""Transfers over connections that break: everything arrives, and what has arrived is not fetched again."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from pathlib import Path

import pytest
from blake3 import blake3

from muster.cluster.bundle import bundle_from_dict
from muster.cluster.volunteer.transfer import GatewayClient
from muster.cluster.wan_sockets import accepted_options, listening_socket


class CuttingProxy:
    """Forwards TCP to the gateway; ``cut(n)`` gives the bytes after which the n-th connection is reset, or None."""

    def __init__(self, port: int, cut_down, cut_up) -> None:
        self._target, self._cut_down, self._cut_up = port, cut_down, cut_up
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.bytes_down = self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                n, self.connections = self.connections, self.connections + 1
                for source, sink, limit in ((near, far, self._cut_up(n)), (far, near, self._cut_down(n))):
                    threading.Thread(target=self._pump, args=(source, sink, limit, source is far), daemon=True).start()

    def _pump(self, source, sink, limit, down) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
                passed += len(data)
                self.bytes_down += len(data) * down
                if limit is not None and passed > limit:
                    break
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def through(pool):
    """Make a client that reaches the gateway through a cutting proxy."""
    made = []

    def make(cut_down=lambda n: None, cut_up=lambda n: None):
        proxy = CuttingProxy(pool.gateway.ready["port"], cut_down, cut_up)
        fields = {**pool.bundle("vol-1").to_dict(), "gateway": f"https://127.0.0.1:{proxy.port}"}
        client = GatewayClient(bundle_from_dict(fields), retry_for_s=60)
        made.append((client, proxy))
        return client, proxy

    yield make
    for client, proxy in made:
        client.close()
        proxy.close()


def test_a_fetch_goes_on_where_it_broke_off(pool, through):
    client, proxy = through(cut_down=lambda n: 700_000)
    unit, ref = pool.big_units[0]
    assignment = client.redeem(pool.ticket(unit, job=pool.big_job))
    (offset, length), view = next(iter(client.fetch(assignment, ref.ranges).items()))
    assert bytes(view) == pool.data.read_bytes()[offset : offset + length]
    assert proxy.connections > 6
    assert proxy.bytes_down < 1.25 * length


def test_an_upload_is_repeated_until_it_is_whole(pool, through, tmp_path):
    client, proxy = through(cut_up=lambda n: 3000 if n < 3 else None)
    unit, ref = pool.fresh_unit()
    assignment = pool.client().redeem(pool.ticket(unit))
    body = pool.honest_bytes(ref)
    path = tmp_path / "result.arrow"
    path.write_bytes(body)
    client.upload(assignment, path, blake3(body).hexdigest())
    assert pool.outcome(assignment.attempt)[0] == "validated"
    assert proxy.connections > 3


@pytest.mark.skipif(sys.platform != "linux", reason="BBR is Linux's")
def test_both_ends_use_bbr_where_the_kernel_allows(pool):
    if "bbr" not in Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control").read_text().split():
        pytest.skip("this kernel doesn't allow bbr")
    with listening_socket("127.0.0.1", 0) as listener, socket.socket() as client:
        for option in accepted_options():
            client.setsockopt(*option)
        client.connect(listener.getsockname())
        listener.setblocking(True)
        accepted, _ = listener.accept()
        with accepted:
            for end in (client, accepted):
                assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0") == b"bbr"
                assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
