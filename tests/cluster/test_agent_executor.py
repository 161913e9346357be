"""The executor's own promises: cores, one thread a unit, finished work kept, errors told apart. Stages are replaced."""

from __future__ import annotations

import base64
import subprocess
import sys
import threading
import time

import pyarrow as pa
import pytest

from muster.cluster.bundle import Bundle
from muster.cluster.coordinator.pki import create_pool_pki, issue_volunteer
from muster.cluster.unit import UnitError, UnitMessage
from muster.cluster.volunteer.assignment import Assignment
from muster.cluster.volunteer.execute import Executor, FailedAttempt
from muster.cluster.volunteer.spool import Spool
from muster.cluster.volunteer.transfer import SettledError, SourceChangedError, TransferError
from muster.datasets.reading import RangeBuffer
from muster.datasets.sources import open_source
from muster.kernels.recipe import Recipe

JOB = "ab" * 16
SCHEMA = pa.schema([("text", pa.string())])


def message(n: int, issue: int = 1) -> UnitMessage:
    return UnitMessage(JOB, f"{n:032x}", issue, "t")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    pool_dir = tmp_path_factory.mktemp("pool")
    pki = create_pool_pki(pool_dir, ["127.0.0.1"])
    issued = issue_volunteer(pool_dir, "ada", "ada")
    return Bundle(
        kind="volunteer",
        name="ada",
        contributor="ada",
        pool="p",
        scheduler="127.0.0.1:1",
        gateway="https://127.0.0.1:1",
        server_name="127.0.0.1",
        ca=pki.operator_ca.read_text(),
        cert=issued.cert_pem,
        key=issued.key_pem,
    )


@pytest.fixture(scope="module")
def chunk(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    path = folder / "a.jsonl"
    path.write_text('{"text": "one two three"}\n{"text": "four"}\n')
    source = open_source(str(path), exchange_dir=folder)
    (ref,) = source.chunks(["text"], rows_per_chunk=10)
    return ref, path.read_bytes()


class Scripted(Executor):
    """An executor whose gateway is a list of answers; everything between is the real thing."""

    recipe = Recipe.parse(["text.quality@1"]).to_json()
    build = Recipe.parse(["text.quality@1"]).identity

    def __init__(self, bundle, chunk, scratch, n_compute=1) -> None:
        super().__init__(bundle, n_compute=n_compute, scratch=scratch)
        self.ref, self.data = chunk
        self.chunk = self.ref.to_json()
        self.uploads: list[bytes] = []
        self.upload_errors: list[Exception] = []
        self.fetch_errors: list[Exception] = []
        self.computed: list[float] = []
        self.computing = self.most_computing = self.fetching = self.most_fetching = 0
        self.told: list[tuple[str, str]] = []
        self.gateway.fail = lambda _assignment, kind, text: self.told.append((kind, text))
        self.gateway.fetch = self._scripted_fetch
        self.settled: set[str] = set()

    def redeem(self, message):
        if message.unit in self.settled:
            raise SettledError("the unit is settled")
        schema = base64.b64encode(SCHEMA.serialize().to_pybytes()).decode()
        return Assignment(message.unit, "t", 1e12, self.recipe, self.build, schema, self.chunk, "", "", "", 1 << 20)

    def _scripted_fetch(self, _assignment, ranges):
        if self.fetch_errors:
            raise self.fetch_errors.pop(0)
        self.fetching += 1
        self.most_fetching = max(self.most_fetching, self.fetching)
        time.sleep(0.05)
        self.fetching -= 1
        return {(at, n): self.data[at : at + n] for at, n in ranges}

    def compute(self, recipe, ref, rows):
        self.computing += 1
        self.most_computing = max(self.most_computing, self.computing)
        time.sleep(0.05)
        table = super().compute(recipe, ref, rows)
        self.computing -= 1
        self.computed.append(time.monotonic())
        return table

    def upload(self, assignment, finished):
        if self.upload_errors:
            raise self.upload_errors.pop(0)
        self.uploads.append(finished.path.read_bytes())
        self.settled.add(assignment.attempt)


@pytest.fixture
def make(bundle, chunk, tmp_path):
    made = []

    def make(**more):
        made.append(Scripted(bundle, chunk, tmp_path, **more))
        return made[-1]

    yield make
    for executor in made:
        executor.close()


def run_together(executor, messages) -> list[str]:
    outcomes = []

    def one(m):
        try:
            executor(m)
            outcomes.append("ok")
        except UnitError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=one, args=(m,)) for m in messages]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(outcomes)


def test_transfers_overlap_but_computing_keeps_to_the_cores(make):
    executor = make(n_compute=2)
    assert run_together(executor, [message(n) for n in range(12)]) == ["ok"] * 12
    assert executor.most_computing == 2
    assert executor.most_fetching > 2
    assert executor._busy == {}


def test_one_unit_is_worked_on_by_one_thread_at_a_time(make):
    executor = make(n_compute=4)
    assert run_together(executor, [message(5)] * 4) == ["ok", "settled", "settled", "settled"]
    assert len(executor.computed) == 1


def test_finished_work_waits_for_its_upload_and_is_not_computed_again(make):
    executor = make()
    executor.upload_errors = [TransferError("no route")]
    with pytest.raises(UnitError, match=r"^transfer: upload: no route"):
        executor(message(1))
    assert executor.told == [], "the attempt stays open"
    again = make()  # the process was restarted
    again(message(1, issue=2))
    assert (len(executor.computed), len(again.computed), len(again.uploads)) == (1, 0, 1)
    assert again.spool.find(message(1).unit, Recipe.from_json(Scripted.recipe).identity) is None


def test_work_that_is_settled_meanwhile_is_dropped_quietly(make):
    executor = make()
    executor.upload_errors = [SettledError("too late")]
    with pytest.raises(UnitError, match=r"^settled$"):
        executor(message(1))
    assert executor.told == []
    assert list((executor.spool._folder).iterdir()) == []


def test_another_build_of_the_kernels_computes_nothing(make):
    executor = make()
    executor.build = "0" * 64
    with pytest.raises(UnitError, match=r"^kernel: this volunteer has another build"):
        executor(message(1))
    assert not executor.computed
    assert [kind for kind, _ in executor.told] == ["kernel"]


def test_failures_are_told_apart(make, chunk):
    executor = make()
    executor.fetch_errors = [SourceChangedError("etag"), TransferError("slow"), SettledError("gone")]
    for n, expected in enumerate(["source: the source has changed: etag", "transfer: fetch: slow", "settled"]):
        with pytest.raises(UnitError, match=f"^{expected}$"):
            executor(message(n))
    executor.recipe = '{"v":1,"steps":[{"kernel":"os.system@1","params":{}}]}'
    with pytest.raises(UnitError, match=r"^kernel: this volunteer can't run the recipe: "):
        executor(message(3))
    executor.recipe = Scripted.recipe
    executor.chunk = "{}"
    with pytest.raises(UnitError, match=r"^input: the assignment's chunk is malformed"):
        executor(message(4))
    executor.chunk = chunk[0].to_json()
    executor.compute = lambda *_: 1 / 0
    with pytest.raises(UnitError, match=r"^kernel: ZeroDivisionError"):
        executor(message(5))
    assert [kind for kind, _ in executor.told] == ["source", "kernel", "input", "kernel"]
    assert executor._cores.acquire(blocking=False), "a failure gives its core back"


def test_error_texts_are_bounded():
    assert len(str(FailedAttempt("kernel", "x" * 10_000))) == 1500


def test_a_misbehaving_volunteer_needs_one_method(bundle, chunk, tmp_path):
    class Liar(Scripted):
        def produce(self, ref, table):
            return table.slice(0, 1)

    executor = Liar(bundle, chunk, tmp_path)
    executor(message(1))
    (payload,) = executor.uploads
    assert pa.ipc.open_stream(payload).read_all().num_rows == 1
    executor.close()


def test_input_is_dropped_before_computing(make, chunk):
    import gc
    import weakref

    class Watched(RangeBuffer):
        pass

    executor = make()
    alive = []
    honest = executor.compute

    def fetch(_assignment, ref):
        buffer = Watched({(at, n): chunk[1][at : at + n] for at, n in ref.ranges})
        alive.append(weakref.ref(buffer))
        return buffer

    def compute(*stage):
        gc.collect()
        alive.append(alive[0]() is None)
        return honest(*stage)

    executor.fetch, executor.compute = fetch, compute
    executor(message(1))
    assert alive[1] is True


def test_spool_keeps_whole_intact_files_only(tmp_path):
    spool = Spool(tmp_path / "s")
    finished = spool.put("0" * 32, "f" * 64, b"result")
    assert Spool(tmp_path / "s").find("0" * 32, "f" * 64) == finished
    assert spool.find("0" * 32, "e" * 64) is None
    assert spool.find("1" * 32, "f" * 64) is None
    finished.path.write_bytes(b"tampered")
    assert spool.find("0" * 32, "f" * 64) is None
    assert not finished.path.exists()
    (tmp_path / "s" / ".partial").write_bytes(b"half")
    Spool(tmp_path / "s")
    assert list((tmp_path / "s").iterdir()) == []


def test_spool_is_bounded(tmp_path):
    spool = Spool(tmp_path / "s", max_nbytes=250)
    kept = [spool.put(f"{n:032x}", "f" * 64, bytes([n]) * 100) for n in range(5)]
    assert sum(f.path.exists() for f in kept) == 2
    assert kept[-1].path.exists()
    spool.drop(kept[-1])
    spool.drop(kept[-1])


def test_a_volunteers_process_loads_nothing_of_the_coordinator():
    script = "import sys, muster.cluster.volunteer.agent; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    forbidden = ("muster.cluster.coordinator", "muster.tasks", "muster.trust", "sqlalchemy", "prefect", "starlette")
    assert [name for name in loaded if name.startswith(forbidden)] == []
