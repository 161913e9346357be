"""Processes that die, stop or are interrupted in mid-run: work goes on elsewhere, or ends clearly and resumes."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from small_jobs import preprocess, write_corpus

from muster.cluster.service import RunningService, Service
from muster.errors import PoolError

MUSTER = Path(sys.executable).with_name("muster")
N_ROWS, CHUNK_ROWS = 600, 50
N_CHUNKS = N_ROWS // CHUNK_ROWS

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("corpus") / "corpus.parquet"
    return path, write_corpus(path, N_ROWS, row_group_rows=CHUNK_ROWS)


def in_mid_run(action: Callable[[Any], None]) -> Callable[[Any], None]:
    """Do something to the open run's services once three results stand."""

    def watch(job: Any) -> None:
        while job.store.count_units(job.job.job_id).get("accepted", 0) < 3:
            time.sleep(0.02)
        action(job.pool.services)

    return lambda job: threading.Thread(target=watch, args=(job,), daemon=True).start()


def killing(path: Path, out: Path, action: Callable[[Any], None], **params: Any) -> Any:
    names, on_open = ("lags-1", "lags-2"), in_mid_run(action)
    job = {"recipe": ["text.quality@1"], "rows_per_chunk": CHUNK_ROWS} | params
    return preprocess(path, out, names, pool_name=out.parent.name, on_open=on_open, **job)


@pytest.mark.parametrize(
    "name",
    ["scheduler", pytest.param("gateway", marks=pytest.mark.slow), pytest.param("intake", marks=pytest.mark.slow)],
)
def test_a_dead_service_ends_the_run_by_name_and_the_next_run_resumes(corpus, tmp_path: Path, name: str) -> None:
    path, _ = corpus
    with pytest.raises(PoolError, match=rf"the pool's {name} process \(pid \d+\) died; see .*{name}\.log") as caught:
        killing(path, tmp_path / "out", lambda services: os.kill(services.coordinator.pids()[name], signal.SIGKILL))
    assert caught.value.exit_code == 2
    assert not (tmp_path / "out").exists()
    report = killing(path, tmp_path / "out", lambda _: None)
    assert report.resumed_chunks >= 3
    assert report.kept == N_ROWS


def test_without_a_volunteer_alive_the_work_is_done_at_home(corpus, tmp_path: Path) -> None:
    def kill_all(services: Any) -> None:
        for volunteer in services.volunteers.values():
            os.kill(volunteer.pid, signal.SIGKILL)

    report = killing(corpus[0], tmp_path / "out", kill_all)
    assert report.kept == N_ROWS
    assert 0 < report.chunks_at_home <= N_CHUNKS - 3


@pytest.mark.slow
def test_a_killed_volunteers_work_goes_on_elsewhere(corpus, tmp_path: Path) -> None:
    report = killing(
        corpus[0], tmp_path / "out", lambda services: os.kill(services.volunteers["lags-1"].pid, signal.SIGKILL)
    )
    assert report.kept == N_ROWS
    assert report.chunks_at_home == 0
    assert not report.caught


@pytest.mark.slow
def test_a_killed_intake_child_is_replaced(corpus, tmp_path: Path) -> None:
    def kill_children(services: Any) -> None:
        for child in psutil.Process(services.coordinator.pids()["intake"]).children():
            child.kill()

    report = killing(corpus[0], tmp_path / "out", kill_children)
    assert report.kept == N_ROWS
    assert not report.caught


@pytest.mark.slow
def test_a_stopped_volunteers_units_go_elsewhere_and_it_is_not_blamed(corpus, tmp_path: Path) -> None:
    def stop_for_a_while(services: Any) -> None:
        pid = services.volunteers["lags-1"].pid
        os.kill(pid, signal.SIGSTOP)
        time.sleep(10.0)
        os.kill(pid, signal.SIGCONT)

    report = killing(corpus[0], tmp_path / "out", stop_for_a_while, unit_timeout_s=4.0)
    assert report.kept == N_ROWS
    assert not report.caught


def test_a_service_that_dies_while_starting_is_said_to_have_stopped(tmp_path: Path) -> None:
    log = tmp_path / "broken.log"
    service = RunningService(Service("broken", "muster.no_such_module", None, str(log)))
    try:
        with pytest.raises(PoolError, match=r"broken process stopped while starting; its log .*no_such_module"):
            service.wait_ready(60.0)
    finally:
        service.join()


@pytest.mark.parametrize(
    ("signum", "whole_group", "status"),
    [
        (signal.SIGINT, True, 130),
        pytest.param(signal.SIGINT, False, 130, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, True, 143, marks=pytest.mark.slow),
        (signal.SIGTERM, False, 143),
    ],
)
def test_interrupted_the_command_is_quiet_and_leaves_nobody(
    tmp_path: Path, signum: int, whole_group: bool, status: int
) -> None:
    write_corpus(tmp_path / "corpus.parquet", 40_000, row_group_rows=1000)
    command = [MUSTER, "preprocess", "corpus.parquet", "out", "-r", "text.quality@1", "--rows-per-chunk", "40"]
    said = tmp_path / "said.txt"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")} | {"MUSTER_HOME": ".state"}
    with said.open("w") as stream:
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 60
        while "of 1,000 chunks" not in said.read_text():
            assert process.poll() is None and time.monotonic() < deadline, said.read_text()
            time.sleep(0.1)
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) >= 8  # fork server, three services, two volunteers, two referees …
        (os.killpg if whole_group else os.kill)(process.pid, signum)
        assert process.wait(20) == status
        _, alive = psutil.wait_procs(family, timeout=12)
        assert not alive
        assert "Traceback" not in said.read_text()
        assert "Warning" not in said.read_text()
        assert not (tmp_path / "out").exists()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
