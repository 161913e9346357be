"""A pool without gateway: real certificates, a real scheduler process, volunteers in processes of their own."""

from __future__ import annotations

import json
import os
import pickle
import secrets
import select
import socket
import ssl
import struct
import subprocess
import sys
import time
from pathlib import Path

import msgpack
import pytest

from muster.cluster.bundle import Bundle
from muster.cluster.client import KeyState, PoolClient
from muster.cluster.coordinator.pki import create_pool_pki, issue_operator, issue_volunteer
from muster.cluster.edge.door import muster_version
from muster.cluster.unit import make_unit, unit_key

PROCESSES = Path(__file__).with_name("processes.py")


def job_id(ms: int = 0) -> str:
    """A job whose units take ``ms`` milliseconds each."""
    return secrets.token_hex(12) + f"{ms:08x}"


class Started:
    """A started process and what it reported when it was ready."""

    def __init__(self, role: str, options: dict, log_path: Path, timeout_s: float = 30.0, must_start: bool = True):
        self.log_path = log_path
        with log_path.open("ab") as log:
            command = [sys.executable, str(PROCESSES), role, json.dumps(options)]
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
        self.facts: dict = {}
        if must_start:
            readable, _, _ = select.select([self.process.stdout], [], [], timeout_s)
            line = self.process.stdout.readline() if readable else b""
            assert line, f"{role} did not start: {self.log()[-2000:]}"
            self.facts = json.loads(line)

    @property
    def pid(self) -> int:
        return self.process.pid

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def wait(self, timeout_s: float = 15.0) -> int:
        return self.process.wait(timeout_s)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(8)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process.stdout.close()


class EdgePool:
    """One pool of a test module."""

    def __init__(self, pool_dir: Path) -> None:
        self.pool_dir = pool_dir
        self.pki = create_pool_pki(pool_dir, ["127.0.0.1", "localhost"])
        self.ca = self.pki.operator_ca.read_text()
        self.pickle_log = pool_dir / "pickles.log"
        self.started: list[Started] = []
        self.scheduler = self.start_scheduler()
        self.operator = issue_operator(pool_dir, "tester")

    def start_scheduler(self, tls_port: int = 0, vol_port: int = 0, **more: object) -> Started:
        options = {
            "pool_dir": str(self.pool_dir),
            "tls_host": "127.0.0.1",
            "tls_port": tls_port,
            "vol_host": "127.0.0.1",
            "vol_port": vol_port,
            "refresh_s": 0.2,
            "limits": {"hello_timeout_s": 1.5},
            "pickle_log": str(self.pickle_log),
        } | more
        self.scheduler = Started("scheduler", options, self.pool_dir / "scheduler.log")
        self.started.append(self.scheduler)
        return self.scheduler

    @property
    def tls_port(self) -> int:
        return int(self.scheduler.facts["tls_port"])

    @property
    def vol_port(self) -> int:
        return int(self.scheduler.facts["vol_port"])

    def bundle(self, name: str, vol_port: int | None = None) -> Bundle:
        issued = issue_volunteer(self.pool_dir, name, f"owner of {name}")
        return Bundle(
            kind="volunteer",
            name=name,
            contributor=issued.contributor,
            pool="test",
            scheduler=f"127.0.0.1:{vol_port or self.vol_port}",
            gateway="https://127.0.0.1:1",
            server_name="127.0.0.1",
            ca=self.ca,
            cert=issued.cert_pem,
            key=issued.key_pem,
        )

    def scratch(self, name: str) -> Path:
        path = self.pool_dir / "scratch" / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def volunteer(self, name: str, *, vol_port: int | None = None, must_start: bool = True, **more: object) -> Started:
        options = {
            "bundle": self.bundle(name, vol_port).to_dict(),
            "scratch_dir": str(self.scratch(name)),
            "n_threads": 1,
            "pickle_log": str(self.scratch(name) / "pickles.log"),
        } | more
        started = Started("volunteer", options, self.scratch(name) / "log", must_start=must_start)
        self.started.append(started)
        return started

    def record(self, name: str, what: str = "ended") -> list[dict]:
        path = self.scratch(name) / "record.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [line for line in lines if line["what"] == what]

    def client(self, **more: object) -> PoolClient:
        address = f"tls://127.0.0.1:{self.tls_port}"
        return PoolClient(address, ca=self.ca, cert=self.operator.cert_pem, key=self.operator.key_pem, **more)

    def stop(self) -> None:
        for started in reversed(self.started):
            started.stop()


class RawPeer:
    """Anyone with a certificate, speaking the framing of ``vol://`` with arbitrary content."""

    def __init__(
        self, pool: EdgePool, cert: tuple[str, str] | None, *, hello: bool = True, nonce: str = "", wire: int = 1
    ) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=pool.ca)
        if cert is not None:
            path = pool.pool_dir / f"raw-{secrets.token_hex(4)}.pem"
            path.write_text(cert[1] + cert[0])
            context.load_cert_chain(path)
        raw = socket.create_connection(("127.0.0.1", pool.vol_port))
        self.socket = context.wrap_socket(raw, server_hostname="127.0.0.1")
        self.socket.settimeout(8)
        self._buffer = b""
        self.nonce = nonce or secrets.token_hex(8)
        if hello:
            self.send({"wire": wire, "muster": muster_version(), "nonce": self.nonce})
            self.answer = self.receive()

    def send(self, message: object) -> None:
        self.send_bytes(msgpack.packb(message, use_bin_type=True))

    def send_bytes(self, body: bytes) -> None:
        self.socket.sendall(struct.pack("!I", len(body)) + body)

    def receive(self) -> object:
        (nbytes,) = struct.unpack("!I", self._exactly(4))
        return msgpack.unpackb(self._exactly(nbytes), raw=False)

    def _exactly(self, n: int) -> bytes:
        while len(self._buffer) < n:
            data = self.socket.recv(1 << 16)
            if not data:
                raise EOFError("closed by the peer")
            self._buffer += data
        out, self._buffer = self._buffer[:n], self._buffer[n:]
        return out

    def register(self, **more: object) -> dict:
        metrics = {"task_counts": {}, "cpu": 1.0, "memory": 1000, "time": time.time()}
        fields = {"op": "register-worker", "status": "running", "nthreads": 1, "now": time.time(), "metrics": metrics}
        self.send(fields | more)
        return self.receive()

    def closed(self, within_s: float = 3.0) -> bool:
        """Whether the peer hangs up within the time, whatever it still says before."""
        self.socket.settimeout(within_s)
        try:
            while True:
                self.receive()
        except TimeoutError:
            return False
        except (EOFError, OSError):
            return True

    def close(self) -> None:
        self.socket.close()


def wait_for(condition, timeout_s: float = 20.0, what: str = "condition") -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s} s"
        time.sleep(0.05)


def submit_units(client: PoolClient, job: str, n: int, prefix: str = "", exclude: set[str] | None = None) -> list[str]:
    keys = []
    for _ in range(n):
        unit = (prefix + secrets.token_hex(16))[:32]
        key = unit_key(job, unit, 0)
        client.submit(make_unit(job, unit, 0), key, exclude)
        keys.append(key)
    return keys


def collect(client: PoolClient, n: int, timeout_s: float = 30.0) -> list[KeyState]:
    """The states of the next ``n`` keys that end, each released at once."""
    states = []
    deadline = time.monotonic() + timeout_s
    while len(states) < n:
        state = client.states.get(timeout=max(0.01, deadline - time.monotonic()))
        client.release(state.key)
        states.append(state)
    return states


class Bomb:
    """Unpickled, it would touch a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


class Tools:
    """The helpers above, for tests (test folders are no packages)."""

    Bomb = Bomb
    RawPeer = RawPeer
    job_id = staticmethod(job_id)
    wait_for = staticmethod(wait_for)
    submit_units = staticmethod(submit_units)
    collect = staticmethod(collect)


@pytest.fixture(scope="session")
def tools() -> type[Tools]:
    return Tools


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    pool = EdgePool(tmp_path_factory.mktemp("pool"))
    try:
        yield pool
    finally:
        pool.stop()


@pytest.fixture
def client(pool):
    with pool.client() as client:
        yield client


@pytest.fixture(scope="module")
def bombs(tmp_path_factory):
    return tmp_path_factory.mktemp("bombs")


@pytest.fixture
def bomb(bombs):
    return lambda name: pickle.dumps(Bomb(bombs / name))
