"""The whole way of a unit: scheduler, edge, volunteers, gateway and intake, each a real process, on a real file."""

from __future__ import annotations

import base64
import json
import secrets
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from muster.cluster.coordinator.jobs import NewUnit
from muster.cluster.embedded import EmbeddedVolunteer, open_embedded
from muster.cluster.unit import make_unit, unit_key
from muster.datasets.digest import table_digest
from muster.datasets.reading import read_chunk
from muster.datasets.results import build_result
from muster.datasets.sources import open_source
from muster.kernels.recipe import Recipe

N_ROWS = 2000


@pytest.fixture(scope="module")
def source_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "text.parquet"
    words = [secrets.token_hex(3) for _ in range(500)]
    rows = [" ".join(words[(i * k) % 500] for k in range(1, 20 + i % 40)) for i in range(N_ROWS)]
    rows[17] = None
    pq.write_table(pa.table({"id": np.arange(N_ROWS), "text": rows}), path, row_group_size=250)
    return path


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    pool = open_embedded(tmp_path_factory.mktemp("home") / "pool", [EmbeddedVolunteer(n, n) for n in ("ada", "bob")])
    yield pool
    pool.close()


class Job:
    """A job entered by hand: what ``tasks`` does, without its decisions."""

    def __init__(self, pool, source_path) -> None:
        self.pool = pool
        self.job_id = secrets.token_hex(16)
        self.source = open_source(str(source_path), exchange_dir=pool.exchange.root)
        self.recipe = Recipe.parse(["text.quality@1"])
        self.schema = self.source.input_schema(self.recipe.input_schema)
        encoded = base64.b64encode(self.schema.serialize().to_pybytes()).decode()
        pool.jobs.open_job(
            self.job_id, spec="{}", source=self.source.to_json(), recipe=self.recipe.to_json(), schema=encoded
        )
        self.units = {}

    def enter(self, refs) -> None:
        new = []
        for ref in refs:
            unit = secrets.token_hex(16)
            self.units[unit] = ref
            limit = self.recipe.max_result_nbytes(ref.n_rows)
            new.append(NewUnit(unit, ref.index, ref.to_json(), ref.n_rows, limit))
        self.pool.jobs.add_units(self.job_id, new)
        self.pool.jobs.set_job(self.job_id, "open", n_rows=N_ROWS)

    def submit(self, unit: str, issue: int = 1) -> str:
        key = unit_key(self.job_id, unit, issue)
        self.pool.client.submit(make_unit(self.job_id, unit, issue), key)
        return key

    def states(self, n: int) -> dict:
        states = {}
        while len(states) < n:
            state = self.pool.client.states.get(timeout=60)
            self.pool.client.release(state.key)
            states[state.key] = state
        return states

    def events(self, n: int, kind: str) -> list:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            found = [e for e in self.pool.jobs.attempts.events_after(self.job_id, 0) if e.kind == kind]
            if len(found) >= n:
                return found
            time.sleep(0.05)
        raise AssertionError(f"{len(found)} of {n} events {kind}: {self.pool.jobs.attempts.counts(self.job_id)}")


@pytest.fixture
def job(pool, source_path):
    return Job(pool, source_path)


def test_results_are_those_of_the_recipe_and_settled_work_is_dropped(pool, job):
    job.enter(job.source.chunks(job.schema.names, rows_per_chunk=250))
    keys = [job.submit(unit) for unit in job.units]
    states = job.states(len(keys))
    assert {(s.status, s.error_text) for s in states.values()} == {("finished", "")}
    validated = job.events(8, "validated")
    assert len({e.unit_id for e in validated}) == 8
    for event in validated:
        ref = job.units[event.unit_id]
        rows = read_chunk(ref, job.schema, job.source.byte_source(ref.file))
        positions = np.arange(ref.first_row, ref.first_row + ref.n_rows)
        expected = build_result(positions, rows.reject, job.recipe.run(rows.table))
        assert json.loads(event.outcome)["digest"] == table_digest(expected)
    for name in ("ada", "bob"):
        assert list((pool.pool_dir / "scratch" / name / "work" / "finished").iterdir()) == []
    stale = job.submit(validated[0].unit_id, issue=7)  # not the issue that the registry waits for
    state = job.states(1)[stale]
    assert (state.status, state.error_text) == ("error", "settled")


def test_a_chunk_that_can_not_be_read_is_a_failed_attempt_with_the_reason(job):
    (ref,) = job.source.chunks(job.schema.names, rows_per_chunk=250, limit=250)
    fields = json.loads(ref.to_json())
    fields["ranges"] = [[at, length // 2] for at, length in fields["ranges"]]
    job.enter([type(ref).from_json(json.dumps(fields))])
    key = job.submit(*job.units)
    state = job.states(1)[key]
    assert state.status == "error"
    assert state.error_text.startswith("input: ")
    assert state.volunteer in ("ada", "bob")
    (failed,) = job.events(1, "failed")
    assert failed.volunteer == state.volunteer
    assert json.loads(failed.outcome)["kind"] == "input"


def test_the_volunteers_have_no_listening_socket(pool):
    import psutil

    for service in pool.services.volunteers.values():
        sockets = psutil.Process(service.pid).net_connections(kind="inet")
        assert [s for s in sockets if s.status == psutil.CONN_LISTEN] == []
