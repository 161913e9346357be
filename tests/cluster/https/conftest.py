"""A pool's HTTPS side: real certificates, a real gateway and a real intake process, a job over a real JSONL file."""

from __future__ import annotations

import base64
import itertools
import json
import random
import secrets
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pyarrow as pa
import pytest
from blake3 import blake3
from sqlalchemy import select, update

from muster.cluster.bundle import client_context
from muster.cluster.coordinator.bundles import PoolAddresses, make_bundle
from muster.cluster.coordinator.jobs import JobStore, NewUnit
from muster.cluster.coordinator.pki import create_pool_pki, issue_volunteer, load_secret
from muster.cluster.coordinator.registry import Registry
from muster.cluster.coordinator.tables import attempts, contributors
from muster.cluster.coordinator.tickets import TicketSigner
from muster.cluster.volunteer.transfer import GatewayClient
from muster.datasets.chunks import ChunkRef
from muster.datasets.exchange import Exchange
from muster.datasets.results import encode_ipc, result_schema
from muster.datasets.sources import open_source
from muster.kernels.recipe import Recipe

HEADER_TIMEOUT_S = 1.5
N_ROWS, ROW_CHARS, ROWS_PER_UNIT = 240, 30_000, 4
SERVICE = """
import json, sys
from muster.cluster.coordinator import gateway, intake
config = {"gateway": gateway.GatewayConfig, "intake": intake.IntakeConfig}[sys.argv[1]](**json.loads(sys.argv[2]))
{"gateway": gateway, "intake": intake}[sys.argv[1]].run(config, lambda r: print(json.dumps(r), flush=True))
"""


class RunningProcess:
    """A service in a process of its own, and what it said when it was ready."""

    def __init__(self, name: str, log: Path, **config: object) -> None:
        with log.open("ab") as err:
            command = [sys.executable, "-c", SERVICE, name, json.dumps(config)]
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=err)
        line = self.process.stdout.readline()
        assert line, log.read_text()
        self.ready = json.loads(line)

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(10)


class HttpsPool:
    """The pool, its job, and the means to act as any volunteer."""

    def __init__(self, root: Path) -> None:
        self.dir = root / "pool"
        self.pki = create_pool_pki(self.dir, ["127.0.0.1"])
        self.registry, self.jobs = Registry(self.dir), JobStore(self.dir)
        self.exchange = Exchange(self.dir / "exchange")
        self.tickets = TicketSigner(load_secret(self.pki.ticket_secret))
        self.recipe = Recipe.parse(["text.minhash@1"])
        self.schema = result_schema(self.recipe.output_schema)
        self.data = root / "rows.jsonl"
        self._write_rows()
        self.source = open_source(str(self.data), exchange_dir=self.dir / "exchange")
        self.job, self.units = self._add_job(ROWS_PER_UNIT)
        self.big_job, self.big_units = self._add_job(N_ROWS)
        self._next = itertools.count()
        log = root / "services.log"
        where = {"pool_dir": str(self.dir), "host": "127.0.0.1", "port": 0}
        self.gateway = RunningProcess("gateway", log, **where, header_timeout_s=HEADER_TIMEOUT_S)
        self.intake = RunningProcess("intake", log, pool_dir=str(self.dir))
        self.header_timeout_s = HEADER_TIMEOUT_S
        self.url = f"https://127.0.0.1:{self.gateway.ready['port']}"
        self._clients: list[GatewayClient] = []

    def _write_rows(self) -> None:
        rng = random.Random(7)
        words = ["".join(rng.choices("abcdefghij", k=6)) for _ in range(400)]
        with self.data.open("w") as file:
            for _ in range(N_ROWS):
                file.write(json.dumps({"text": " ".join(rng.choices(words, k=ROW_CHARS // 7))}) + "\n")

    def _add_job(self, rows_per_unit: int) -> tuple[str, list[tuple[str, ChunkRef]]]:
        job = secrets.token_hex(16)
        schema = base64.b64encode(self.source.schema.serialize().to_pybytes()).decode()
        self.jobs.open_job(job, spec="{}", source=self.source.to_json(), recipe=self.recipe.to_json(), schema=schema)
        refs = list(self.source.chunks(["text"], rows_per_chunk=rows_per_unit))
        units = [(secrets.token_hex(16), ref) for ref in refs]
        limit = self.recipe.max_result_nbytes
        self.jobs.add_units(
            job, [NewUnit(unit, ref.index, ref.to_json(), ref.n_rows, limit(ref.n_rows)) for unit, ref in units]
        )
        return job, units

    def bundle(self, name: str, contributor: str = "alice"):
        self.registry.enrol(name, contributor)
        addresses = PoolAddresses("tls://127.0.0.1:1", "127.0.0.1:1", self.url)
        return make_bundle("volunteer", self.dir, addresses, issue_volunteer(self.dir, name, contributor))

    def client(self, name: str = "vol-1", contributor: str = "alice", **options) -> GatewayClient:
        client = GatewayClient(self.bundle(name, contributor), **options)
        self._clients.append(client)
        return client

    def raw(self, name: str = "vol-1", contributor: str = "alice") -> httpx.Client:
        context = client_context(self.bundle(name, contributor))
        return httpx.Client(verify=context, base_url=self.url, trust_env=False, timeout=20)

    def fresh_unit(self) -> tuple[str, ChunkRef]:
        return self.units[next(self._next)]

    def ticket(self, unit: str, volunteer: str = "vol-1", *, job: str | None = None, ttl_s: float = 600) -> str:
        return self.tickets.issue(job or self.job, unit, 1, volunteer, time.time(), ttl_s)

    def begin(self, client: GatewayClient | None = None, volunteer: str = "vol-1"):
        """An assignment of a fresh unit, with its chunk."""
        unit, ref = self.fresh_unit()
        client = client or self.client(volunteer)
        return client, client.redeem(self.ticket(unit, volunteer)), ref

    def result(self, ref: ChunkRef, **changes) -> pa.Table:
        """A well-formed result of a chunk (its values are anybody's)."""
        columns = {"position": list(range(ref.first_row, ref.first_row + ref.n_rows)), "reject": [None] * ref.n_rows}
        for field in list(self.schema)[2:]:
            columns[field.name] = list(range(ref.n_rows))
        return pa.table({**columns, **changes}, schema=self.schema)

    def honest_bytes(self, ref: ChunkRef, **changes) -> bytes:
        return encode_ipc(self.result(ref, **changes), self.schema).to_pybytes()

    def put(self, raw: httpx.Client, assignment, body: bytes, **headers) -> httpx.Response:
        stated = {"X-Muster-Blake3": blake3(body).hexdigest(), **headers}
        return raw.put(assignment.upload_path, content=body, headers=stated)

    def outcome(self, attempt: str, timeout_s: float = 30.0) -> tuple[str, dict]:
        """State and outcome of an attempt once intake has answered."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            with self.registry.db.read() as c:
                row = c.execute(
                    select(attempts.c.state, attempts.c.outcome).where(attempts.c.attempt_id == attempt)
                ).one()
            if row.state not in ("started", "uploaded"):
                return row.state, json.loads(row.outcome)
            time.sleep(0.01)
        raise AssertionError(f"attempt {attempt} is still {row.state}")

    def upload_is_gone(self, attempt: str, timeout_s: float = 5.0) -> bool:
        """Whether intake removes the upload, as it does right after it has answered."""
        deadline = time.monotonic() + timeout_s
        while self.exchange.has_upload(attempt) and time.monotonic() < deadline:
            time.sleep(0.01)
        return not self.exchange.has_upload(attempt)

    def quarantine(self, contributor: str) -> None:
        with self.registry.db.write() as c:
            values = {"quarantined_s": time.time(), "reason": "lied"}
            c.execute(update(contributors).where(contributors.c.name == contributor).values(**values))

    def intake_children(self) -> list[psutil.Process]:
        return psutil.Process(self.intake.process.pid).children()

    def stop(self) -> None:
        for client in self._clients:
            client.close()
        assert self.gateway.stop() == 0
        assert self.intake.stop() == 0


@pytest.fixture(scope="session")
def pool(tmp_path_factory):
    pool = HttpsPool(tmp_path_factory.mktemp("https"))
    yield pool
    pool.stop()
