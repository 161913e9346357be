"""kill -9 of the flow at every stage, and the same command again: nothing is computed, drawn or published twice."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from blake3 import blake3
from small_jobs import volunteers, write_corpus

from muster.cluster.coordinator.jobs import JobStore
from muster.cluster.embedded import open_embedded
from muster.cluster.folder_lock import FolderLock
from muster.errors import JobError, PoolError
from muster.flows.pipeline import run
from muster.settings import settings
from muster.tasks import compute
from muster.tasks.job import PreprocessParams

HERE = Path(__file__).parent
N_ROWS, CHUNK_ROWS = 600, 50
GONE_WITHIN_S = 12.0  # 6 s are meant; the machine may be busy


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "corpus.parquet"
    write_corpus(path, N_ROWS, row_group_rows=CHUNK_ROWS)
    return path


@pytest.fixture(scope="module")
def uninterrupted(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The digests of what a run that nobody disturbs publishes."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    flow(corpus, folder)
    return data_files(folder / "out")


def params(corpus: Path, folder: Path) -> dict[str, Any]:
    chunks = {"rows_per_chunk": CHUNK_ROWS}
    return {"source": str(corpus), "out": str(folder / "out"), "recipe": ["text.quality@1"]} | chunks


def flow(corpus: Path, folder: Path, die: str | None = None) -> dict[str, Any]:
    """Run the job in a process of its own, which dies at ``die``; return its report."""
    order = {
        "params": params(corpus, folder),
        "pool": folder.name,
        "names": ["lags-1", "lags-2"],
        "family": str(folder / "family.json"),
        "die": die,
    }
    paths = os.pathsep.join([str(HERE), str(HERE.parent / "adversary")])
    done = subprocess.run(
        [sys.executable, "-P", HERE / "flow_process.py", json.dumps(order)],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=120,
    )
    if die is not None:
        assert done.returncode == -9, done.stderr
        return {}
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def data_files(out: Path) -> dict[str, str]:
    """Digests of the published rows, file by file; manifest and certificate name attempts and times."""
    return {path.name: blake3(path.read_bytes()).hexdigest() for path in out.glob("*.parquet")}


def assert_all_gone(family: Path) -> None:
    for pid, created in json.loads(family.read_text()):
        try:
            process = psutil.Process(pid)
            if abs(process.create_time() - created) < 1.0:
                process.wait(GONE_WITHIN_S)
        except psutil.NoSuchProcess:
            pass
        except psutil.TimeoutExpired:
            pytest.fail(f"{process} outlived its flow")


def registry(folder: Path) -> JobStore:
    return JobStore(settings().pool_dir(folder.name))


def only_job(store: JobStore) -> str:
    with store.db.read() as c:
        (job,) = c.exec_driver_sql("select job_id from jobs").scalars()
    return str(job)


def leaves(store: JobStore, kind: str) -> list[dict[str, Any]]:
    every = [json.loads(leaf) for leaf in store.ledger_leaves(only_job(store))]
    return [leaf for leaf in every if leaf["kind"] == kind]


def validated(store: JobStore) -> int:
    counts = store.attempts.counts(only_job(store))
    return sum(n for (_, state), n in counts.items() if state == "validated")


@pytest.mark.slow
def test_killed_while_units_are_entered(corpus: Path, tmp_path: Path, uninterrupted: dict[str, str]) -> None:
    flow(corpus, tmp_path, die="planning")
    store = registry(tmp_path)
    job = only_job(store)
    assert store.job(job).state == "planning"
    assert 0 < sum(store.count_units(job).values()) < N_ROWS // CHUNK_ROWS
    assert not leaves(store, "job-opened")
    report = flow(corpus, tmp_path)
    assert report["resumed_chunks"] == 0
    assert report["chunks"] == N_ROWS // CHUNK_ROWS
    assert len(leaves(store, "job-opened")) == 1
    assert data_files(tmp_path / "out") == uninterrupted
    store.close()


def test_killed_while_volunteers_compute(corpus: Path, tmp_path: Path, uninterrupted: dict[str, str]) -> None:
    flow(corpus, tmp_path, die="compute")
    store = registry(tmp_path)
    before = store.count_units(only_job(store))["accepted"]
    assert 3 <= before < N_ROWS // CHUNK_ROWS
    standing = {row.unit_id: row.attempt_id for row in store.accepted(only_job(store))}
    report = flow(corpus, tmp_path)  # at once: a dead run's lease and lock need no wait
    assert report["resumed_chunks"] == before
    after = {row.unit_id: row.attempt_id for row in store.accepted(only_job(store))}
    assert standing.items() <= after.items()
    again = [store.attempts.at(only_job(store), unit, 1) for unit in standing]
    assert all(sum(state == "validated" for *_, state in attempts) == 1 for attempts in again)
    assert data_files(tmp_path / "out") == uninterrupted
    assert_all_gone(tmp_path / "family.json")
    store.close()


def test_killed_in_the_final_audit(corpus: Path, tmp_path: Path, uninterrupted: dict[str, str]) -> None:
    flow(corpus, tmp_path, die="audit")
    assert_all_gone(tmp_path / "family.json")
    store = registry(tmp_path)
    (drawn,) = store.rounds(only_job(store))
    assert drawn.state == "drawn"
    computed = validated(store)
    report = flow(corpus, tmp_path)
    (concluded,) = store.rounds(only_job(store))
    assert (concluded.round, concluded.root, concluded.state) == (drawn.round, drawn.root, "clean")
    assert report["resumed_chunks"] == N_ROWS // CHUNK_ROWS
    assert validated(store) == computed
    draws = [{k: v for k, v in leaf.items() if "time" not in k} for leaf in leaves(store, "round-drawn")]
    assert all(draw == draws[0] for draw in draws)
    assert data_files(tmp_path / "out") == uninterrupted
    store.close()


def test_killed_between_publication_and_the_closing_of_the_job(
    corpus: Path, tmp_path: Path, uninterrupted: dict[str, str]
) -> None:
    flow(corpus, tmp_path, die="closing")
    store = registry(tmp_path)
    assert data_files(tmp_path / "out") == uninterrupted
    assert store.job(only_job(store)).state == "open"
    assert not leaves(store, "key-revealed")
    for _ in range(2):
        assert flow(corpus, tmp_path)["already_done"]
        assert store.job(only_job(store)).state == "published"
        assert len(leaves(store, "key-revealed")) == 1
        assert len(leaves(store, "certified")) == 1
    store.close()


def test_a_pool_folder_in_use_is_refused(tmp_path: Path) -> None:
    folder = settings().pool_dir(tmp_path.name)
    folder.mkdir(parents=True)
    lock = FolderLock(folder)
    with pytest.raises(PoolError, match=f"in use by process {os.getpid()}"):
        FolderLock(folder, wait_s=0.2)
    with pytest.raises(PoolError, match="in use"):
        open_embedded(folder, [])
    lock.release()
    FolderLock(folder, wait_s=0.2).release()


def test_a_second_flow_on_the_same_job_of_one_pool_is_refused(corpus: Path, tmp_path: Path) -> None:
    said: list[JobError] = []

    def on_open(job: Any) -> None:
        other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        created = psutil.Process(other.pid).create_time()
        here = compute.owner_name().rsplit(":", 2)[0]
        store, me = job.store, job.job.job_id
        compute.drop_lease(job)
        assert store.take_lease(me, f"{here}:{other.pid}:{created:.2f}", 30.0) is None
        with pytest.raises(JobError, match="is being run by") as refused:
            compute.take_lease(job)
        said.append(refused.value)
        other.kill()
        other.wait()
        compute.take_lease(job)  # its owner is dead: no wait

    run(
        PreprocessParams(**params(corpus, tmp_path)),
        volunteers=volunteers("honest-1"),
        pool_name=tmp_path.name,
        on_open=on_open,
    )
    assert "expires after" in str(said[0].hint)


@pytest.mark.parametrize("signum", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_local_job_resumes_and_its_workers_end_with_it(tmp_path: Path, signum: int) -> None:
    write_corpus(tmp_path / "corpus.parquet", 12_000, row_group_rows=1000)
    order = ["corpus.parquet", "out", "-r", "text.quality@1", "--rows-per-chunk", "40", "--pool", "local"]
    command = [Path(sys.executable).with_name("muster"), "preprocess", *order]
    environment = os.environ | {"MUSTER_HOME": ".state"}
    results = tmp_path / ".state" / "pools"
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as process:
        while sum(1 for _ in results.rglob("jobs/*/*.json")) < 40:  # more than are looked at before the first is due
            assert process.poll() is None
            time.sleep(0.02)
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signum)
        assert process.wait(20) == (-9 if signum == signal.SIGKILL else 130)
        _, alive = psutil.wait_procs(family, timeout=GONE_WITHIN_S)
        assert not alive
        assert "Traceback" not in process.stderr.read()
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "taken over from an earlier run" in done.stdout
    assert "12,000 published" in done.stdout
