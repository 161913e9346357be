"""A scheduler turns hostile, with the real certificate or a stolen one: volunteers execute nothing that it sends.

The bombs are pickles that would touch a file.
"""

from __future__ import annotations

import pickle
import secrets
import socket
import ssl
import struct
import threading
import time

import msgpack
from distributed.comm.tcp import _add_frames_header
from distributed.protocol.core import dumps
from distributed.protocol.serialize import ToPickle

from muster.cluster.unit import make_unit


class EvilScheduler:
    """Serves one volunteer with the given certificate: answers each registration, then sends the next frame."""

    def __init__(self, pool, certificate: str, frames: list[bytes]) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        context.load_verify_locations(cafile=str(pool.pki.volunteer_ca))
        context.verify_mode = ssl.CERT_REQUIRED
        self._context = context
        self._frames = iter(frames)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self.seen: list[str] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                raw, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(raw,), daemon=True).start()

    def _talk(self, raw) -> None:
        try:
            peer = self._context.wrap_socket(raw, server_side=True)
            peer.settimeout(10)
            _receive(peer)
            _send(peer, {"wire": 1, "muster": "0"})
            if _receive(peer)["op"] != "register-worker":
                return
            _send(peer, {"status": "OK", "time": time.time(), "heartbeat-interval": 60, "worker-plugins": {"p": "x"}})
            self.seen.append("registered")
            peer.sendall(next(self._frames, b""))
            while True:
                _receive(peer)
        except (OSError, EOFError) as error:
            self.seen.append(f"ended: {error}")

    def close(self) -> None:
        self._server.close()


def _receive(peer):
    header = peer.recv(4)
    if len(header) < 4:
        raise EOFError("closed")
    (nbytes,) = struct.unpack("!I", header)
    body = b""
    while len(body) < nbytes:
        piece = peer.recv(nbytes - len(body))
        if not piece:
            raise EOFError("closed")
        body += piece
    return msgpack.unpackb(body, raw=False)


def _send(peer, message) -> None:
    body = msgpack.packb(message)
    peer.sendall(struct.pack("!I", len(body)) + body)


def _frame(entries) -> bytes:
    body = msgpack.packb(entries)
    return struct.pack("!I", len(body)) + body


TASK = {"op": "compute-task", "key": "k", "run_id": 1, "priority": [0], "stimulus_id": "s"}
UNIT = make_unit("ab" * 16, "cd" * 16, 0)


def _evil_frames(bomb_class, path) -> dict[str, bytes]:
    stock, _, _ = _add_frames_header(
        dumps([{"op": "compute-task", "key": "k", "run_spec": ToPickle(bomb_class(path))}])
    )
    return {
        "stock frames": b"".join(stock),
        "pickled task": _frame([TASK | {"run_spec": pickle.dumps(bomb_class(path)), "unit": UNIT}]),
        "run": _frame([{"op": "run", "function": "x"}]),
        "upload_file": _frame([{"op": "upload_file", "filename": "a.py", "data": "x", "load": True}]),
        "plugin-add": _frame([{"op": "plugin-add", "plugin": "x"}]),
        "acquire-replicas": _frame([{"op": "acquire-replicas", "who_has": {"a": ["tls://127.0.0.1:1"]}}]),
        "other fields in a unit": _frame([TASK | {"unit": UNIT[:-1] + ',"url":"file:///etc/passwd"}'}]),
        "no unit": _frame([TASK]),
    }


def test_a_scheduler_with_the_real_certificate_can_not_make_a_volunteer_execute(pool, bombs, tools):
    frames = list(_evil_frames(tools.Bomb, bombs / "volunteer").values())
    certificate = str(pool.pki.scheduler_cert)
    schedulers = [EvilScheduler(pool, certificate, frames[n::3]) for n in range(3)]
    started = [pool.volunteer(f"naive-{n}", vol_port=s.port, must_start=False) for n, s in enumerate(schedulers)]
    for n, (evil_scheduler, volunteer) in enumerate(zip(schedulers, started, strict=True)):
        expected = len(frames[n::3])
        tools.wait_for(lambda v=volunteer, e=expected: v.log().count("broke the protocol") >= e, what=f"naive-{n}")
        assert pool.record(f"naive-{n}", "began") == []
        volunteer.stop()
        evil_scheduler.close()
    assert list(bombs.iterdir()) == []


def test_a_volunteers_certificate_can_not_pose_as_the_scheduler(pool):
    pair = pool.pool_dir / f"pose-{secrets.token_hex(4)}.pem"
    stolen = pool.bundle("thief")
    pair.write_text(stolen.key + stolen.cert)
    impostor = EvilScheduler(pool, str(pair), [])
    victim = pool.volunteer("victim", vol_port=impostor.port, must_start=False)
    assert victim.wait() != 0
    assert "its certificate is not this pool's" in victim.log()
    assert "registered" not in impostor.seen
    impostor.close()
