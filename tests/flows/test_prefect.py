"""The flow in Prefect: a scheduled run on a real server and worker, its artifacts, cancellation, where files lie."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from small_jobs import expected, published, write_corpus

from muster.datasets.digest import table_digest
from muster.tasks.verify_dataset import verify

REPO = Path(__file__).resolve().parents[2]
STAGES = ["plan", "stage", "compute", "commit", "certify", "publish"]
N_ROWS = 2000
MINHASH = ["text.minhash@1"]


def until(found: Callable[[], Any], timeout_s: float, what: str) -> Any:
    """Return the first true value of ``found``."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := found():
            return value
        time.sleep(0.2)
    raise AssertionError(f"{what}: not within {timeout_s:g} s")


@contextmanager
def process(*argv: str, cwd: Path, env: dict[str, str], log: Path) -> Iterator[subprocess.Popen]:
    """Run a command while the block lasts; it and what it started are gone afterwards, in whatever way it ends."""
    with log.open("wb") as out:
        running = subprocess.Popen(
            [sys.executable, "-P", "-m", *argv], cwd=cwd, env=env, stdout=out, stderr=out, start_new_session=True
        )
    try:
        yield running
    finally:
        family = [psutil.Process(running.pid), *psutil.Process(running.pid).children(recursive=True)]
        running.terminate()
        _, alive = psutil.wait_procs(family, timeout=5)
        for one in alive:  # Prefect's worker is known to outlive SIGTERM
            one.kill()
        running.wait(5)


class Prefect:
    """A server, a worker and the repository's ``prefect.yaml`` deployed, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.folder = folder
        self.home = folder / "state"
        self.env = {
            **os.environ,
            "HOME": str(folder / "user"),
            "PWD": str(folder),  # as a shell would have it
            "MUSTER_HOME": str(self.home),
            "PREFECT_HOME": str(self.home / "prefect"),
            "PREFECT_API_URL": f"http://127.0.0.1:{self.port}/api",
            "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "1",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_WORKER_HEARTBEAT_SECONDS": "5",
        }
        (folder / "user").mkdir()
        (self.home / "prefect").mkdir(parents=True)
        self.api = httpx.Client(base_url=self.env["PREFECT_API_URL"], timeout=30)

    def start(self, *argv: str) -> Any:
        return process("prefect", *argv, cwd=self.folder, env=self.env, log=self.folder / f"{argv[0]}.log")

    def healthy(self) -> bool:
        try:
            return self.api.get("/health").is_success
        except httpx.TransportError:
            return False

    def post(self, path: str, body: Any) -> Any:
        answer = self.api.post(path, json=body)
        assert answer.is_success, answer.text
        return answer.json()

    def deploy(self) -> dict[str, Any]:
        """Deploy the repository's own prefect.yaml, as an operator does."""
        (self.folder / "prefect.yaml").write_bytes((REPO / "prefect.yaml").read_bytes())
        command = [sys.executable, "-P", "-m", "prefect", "deploy", "--all", "--no-prompt"]
        done = subprocess.run(command, cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        return self.api.get("/deployments/name/preprocess/nightly").json()

    def flow_runs(self, **where: Any) -> list[dict[str, Any]]:
        return self.post("/flow_runs/filter", {"sort": "EXPECTED_START_TIME_ASC", "flow_runs": where})

    def run(self, run_id: str) -> dict[str, Any]:
        return self.api.get(f"/flow_runs/{run_id}").json()

    def logs(self) -> str:
        return "\n".join(f"{p.name}: {p.read_text(errors='replace')[-3000:]}" for p in self.folder.glob("*.log"))


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prefect]:
    """A running server and worker with the deployment; both end with the module."""
    one = Prefect(tmp_path_factory.mktemp("prefect"))
    (one.folder / "data").mkdir()
    with one.start("server", "start", "--host", "127.0.0.1", "--port", str(one.port)):
        until(one.healthy, 120, "Prefect server")
        one.post("/work_pools/", {"name": "trusted", "type": "process"})
        with one.start("worker", "start", "--pool", "trusted", "--limit", "2"):
            one.deployment = one.deploy()
            yield one
    one.api.close()


@pytest.fixture(scope="module")
def scheduled(prefect: Prefect) -> dict[str, Any]:
    """A finished run that the server's scheduler made and a worker carried out."""
    table = write_corpus(prefect.folder / "data" / "corpus.parquet", N_ROWS)
    params = {"source": "data/*.parquet", "out": "published/of-{date}", "recipe": MINHASH, "rows_per_chunk": 500}
    schedule = {"active": True, "schedule": {"interval": 10, "anchor_date": "2026-01-01T00:00:00Z"}}
    path = f"/deployments/{prefect.deployment['id']}/schedules"
    (made,) = prefect.post(path, [{**schedule, "parameters": {"params": params}}])

    def first() -> dict[str, Any] | None:
        runs = [r for r in prefect.flow_runs() if r["parameters"]["params"]["out"] == params["out"]]
        return next((r for r in runs if r["state_type"] not in ("SCHEDULED", "PENDING")), None)

    run = until(first, 60, "a scheduled run that a worker has started")
    assert prefect.api.delete(f"{path}/{made['id']}").is_success  # one is enough

    def ended() -> dict[str, Any] | None:
        state = prefect.run(run["id"])
        return state if state["end_time"] else None

    return {**until(ended, 90, "end of the scheduled run"), "table": table}


def published_by(prefect: Prefect, run: dict[str, Any]) -> Path:
    return prefect.folder / "published" / f"of-{run['expected_start_time'][:10]}"


def test_a_scheduled_run_completes_and_publishes(prefect: Prefect, scheduled: dict[str, Any]) -> None:
    assert scheduled["state_type"] == "COMPLETED", prefect.logs()
    assert scheduled["auto_scheduled"] is True
    assert scheduled["created_by"]["type"] == "SCHEDULE"
    out = published_by(prefect, scheduled)
    wanted = expected(scheduled["table"], MINHASH)
    assert table_digest(published(out).select(wanted.column_names)) == table_digest(wanted)
    verify(str(out), keystore=prefect.home / "keystore.json")


def test_its_stages_are_task_runs_and_its_chunks_are_not(prefect: Prefect, scheduled: dict[str, Any]) -> None:
    where = {"sort": "EXPECTED_START_TIME_ASC", "flow_runs": {"id": {"any_": [scheduled["id"]]}}}
    # task runs reach the database through the server's event stream, a moment later
    names = until(lambda: _names(prefect.post("/task_runs/filter", where)), 20, "the task run publish")
    assert list(dict.fromkeys(names)) == STAGES
    assert len(names) < 20


def _names(task_runs: list[dict[str, Any]]) -> list[str]:
    done = [run["name"] for run in task_runs if run["state_type"] == "COMPLETED"]
    return done if "publish" in done and len(done) == len(task_runs) else []


def test_operators_see_progress_chunks_and_the_certificate(prefect: Prefect, scheduled: dict[str, Any]) -> None:
    found = prefect.post("/artifacts/filter", {"flow_runs": {"id": {"any_": [scheduled["id"]]}}})
    keyed = [one for one in found if one["key"]]
    assert sorted(one["key"] for one in keyed) == ["muster-chunks", "muster-progress", "muster-report"]
    of = {one["key"]: one for one in keyed}
    assert of["muster-progress"]["data"] == 100.0
    assert "published" in of["muster-progress"]["description"]
    job, *volunteers = json.loads(of["muster-chunks"]["data"])
    assert job["accepted"] == N_ROWS / 500
    assert job["in work"] == 0
    assert {row["chunks of"] for row in volunteers} <= {"local-1", "local-2", "trusted workers"}
    report = of["muster-report"]["data"]
    certificate = json.loads((published_by(prefect, scheduled) / "_muster" / "certificate.json").read_bytes())
    assert json.loads(report.split("```json\n")[1].split("\n```")[0]) == certificate
    assert "2,000 published" in report


def test_the_parameters_are_a_form(prefect: Prefect) -> None:
    schema = prefect.deployment["parameter_openapi_schema"]
    fields = schema["definitions"]["PreprocessParams"]["properties"]
    assert all(field["title"] for field in fields.values())
    assert fields["volunteers"]["minimum"] == 1
    assert fields["on_bad_row"]["enum"] == ["fail", "skip", "quarantine"]
    bad = {"parameters": {"params": {"source": "x", "out": "y", "recipe": MINHASH, "volunteers": 0}}}
    answer = prefect.api.post(f"/deployments/{prefect.deployment['id']}/create_flow_run", json=bad)
    assert answer.status_code == 409
    assert "volunteers" in answer.text or "minimum" in answer.text


def test_nothing_is_written_into_the_users_home(prefect: Prefect, scheduled: dict[str, Any]) -> None:
    assert scheduled["id"]
    assert list((prefect.folder / "user").iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_cancelled_run_and_all_its_processes_end_at_once(prefect: Prefect, scheduled: dict[str, Any]) -> None:
    run = start_long_run(prefect)
    before = set(members(prefect))
    assert len(before) > 5
    body = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
    prefect.post(f"/flow_runs/{run}/set_state", body)
    started_s = time.monotonic()
    until(lambda: not set(members(prefect)), 20, "end of the cancelled run's processes")
    assert time.monotonic() - started_s < 15
    until(lambda: prefect.run(run)["state_type"] == "CANCELLED", 20, "state Cancelled")
    assert not (prefect.folder / "published" / "long").exists()


def start_long_run(prefect: Prefect) -> str:
    write_corpus(prefect.folder / "long.parquet", 20_000)
    params = {"source": "long.parquet", "out": "published/long", "recipe": MINHASH, "rows_per_chunk": 20}
    run = prefect.post(f"/deployments/{prefect.deployment['id']}/create_flow_run", {"parameters": {"params": params}})
    where = {"flow_runs": {"id": {"any_": [run["id"]]}}, "artifacts": {"key": {"any_": ["muster-chunks"]}}}

    def computing() -> bool:
        found = prefect.post("/artifacts/filter", where)
        return bool(found) and json.loads(found[0]["data"])[0]["accepted"] > 0

    until(computing, 60, "a run that computes")
    return str(run["id"])


def members(prefect: Prefect) -> list[int]:
    """Return the processes of flow runs: those whose environment names this state folder and a flow run."""
    found = []
    for one in psutil.process_iter():
        try:
            env = one.environ()
            if env.get("MUSTER_HOME") == str(prefect.home) and "PREFECT__FLOW_RUN_ID" in env:
                found.append(one.pid)
        except psutil.Error:
            continue
    return found


def test_importing_the_flow_leaves_the_users_home_alone(tmp_path: Path) -> None:
    user, state = tmp_path / "user", tmp_path / "state"
    user.mkdir()
    env = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    env |= {"HOME": str(user), "USERPROFILE": str(user), "MUSTER_HOME": str(state)}
    command = [sys.executable, "-P", "-c", "import muster.flows.preprocess"]
    subprocess.run(command, cwd=tmp_path, env=env, check=True, timeout=120)
    assert list(user.iterdir()) == []
    assert (state / "prefect").is_dir()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_ends_a_run_on_an_ephemeral_server_with_all_its_processes(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus.parquet", 20_000)
    state = tmp_path / "state"
    env = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")} | {"MUSTER_HOME": str(state)}
    code = "from muster.cli.app import main; main()"
    argv = ["preprocess", "corpus.parquet", "out", "-r", MINHASH[0], "--rows-per-chunk", "20", "--prefect"]
    log = tmp_path / "log"
    with log.open("wb") as out:
        command = [sys.executable, "-P", "-c", code, *argv]
        running = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=out, stderr=out, start_new_session=True)
    try:
        computing = "'stage' - Finished"
        until(lambda: computing in log.read_text() or running.poll() is not None, 120, "the stage compute")
        assert running.poll() is None, log.read_text()
        family = psutil.Process(running.pid).children(recursive=True)
        assert len(family) > 5
        os.killpg(running.pid, signal.SIGINT)  # what a terminal does
        assert running.wait(30) == 130
        assert psutil.wait_procs(family, timeout=5)[1] == []
    finally:
        for one in psutil.process_iter():
            if one.pid == running.pid or state_of(one) == str(state):
                one.kill()
        running.wait(5)
    assert "Finished in state Crashed" in log.read_text()
    assert not (tmp_path / "out").exists()


def state_of(one: psutil.Process) -> str | None:
    try:
        return one.environ().get("MUSTER_HOME")
    except psutil.Error:
        return None
