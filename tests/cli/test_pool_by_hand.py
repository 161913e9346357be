"""A pool whose parts are started by hand, as the README shows it: two terminals, then a job, then Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

MUSTER = Path(sys.executable).with_name("muster")
READY_S = 60.0

pytestmark = pytest.mark.skipif(os.name != "posix", reason="Ctrl-C is sent as SIGINT")


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("MUSTER_", "PREFECT_"))}


def muster(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [MUSTER, *arguments], cwd=folder, env=environment(), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done


@contextmanager
def terminal(folder: Path, *arguments: str, says: str):
    """A command in the foreground of its own terminal: wait until it says something, and press Ctrl-C at the end."""
    log = folder / f"terminal-{arguments[0]}.txt"
    with log.open("w") as stream:
        process = subprocess.Popen(
            [MUSTER, *arguments],
            cwd=folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + READY_S
        while says not in log.read_text():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        yield log.read_text()
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(30) in (0, 130), log.read_text()
        _, alive = psutil.wait_procs(family, timeout=10)
        assert not alive, f"Ctrl-C left {alive}"
        assert "Traceback" not in log.read_text()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


def write_corpus(path: Path) -> int:
    sources = sorted(Path(os.__file__).parent.glob("*.py"))
    with path.open("w", encoding="utf-8") as stream:
        for source in sources:
            text = source.read_text(encoding="utf-8", errors="replace")
            stream.write(json.dumps({"path": source.name, "text": text}) + "\n")
    return len(sources)


def test_a_pool_of_two_terminals_does_a_job(tmp_path) -> None:
    rows = write_corpus(tmp_path / "corpus.jsonl")
    ports = [f"--{name}-port=0" for name in ("gateway", "volunteer", "operator")]
    with terminal(tmp_path, "coordinator", *ports, says="muster invite") as said:
        (url,) = {word for word in said.split() if word.startswith("https://")}
        muster(tmp_path, "invite", "--contributor", "Ada", "--bundle", "ada.json")
        muster(tmp_path, "operator", "create", "me")
        for secret in (tmp_path / "ada.json", tmp_path / ".muster" / "operator.json"):
            assert secret.stat().st_mode & 0o077 == 0
        with terminal(tmp_path, "volunteer", "run", "--bundle", "ada.json", "--cores", "1", says="has joined"):
            job = ["corpus.jsonl", "scored", "-r", "text.quality@1", "--with-columns", "path", "--pool", url]
            done = muster(tmp_path, "preprocess", *job)
            assert f"{rows:,}" in done.stdout
            assert "complete already" in muster(tmp_path, "preprocess", *job).stdout
    muster(tmp_path, "verify", "scored")
