"""Embedded runs one after another in one process leave nothing behind; a volunteer listens to nobody."""

import gc
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest
from small_jobs import preprocess, write_corpus

SMALL = {"recipe": ["text.quality@1"], "rows_per_chunk": 100}


def test_a_volunteer_has_no_listening_socket(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus.parquet", 200, row_group_rows=100)
    seen: list[tuple[int, int]] = []

    def look(job: Any) -> None:
        for service in job.pool.services.volunteers.values():
            process = psutil.Process(service.pid)
            family = [process, *process.children(recursive=True)]
            sockets = [c for member in family for c in member.net_connections("all")]
            listening = [c for c in sockets if c.status == psutil.CONN_LISTEN]
            assert not listening
            seen.append((len(sockets), len(listening)))

    preprocess(tmp_path / "corpus.parquet", tmp_path / "out", on_open=look, **SMALL)
    assert len(seen) == 2
    assert all(n_sockets > 0 for n_sockets, _ in seen)  # the connections to the pool were there to be seen


@pytest.mark.slow
def test_five_runs_leave_no_descriptor_thread_process_or_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))  # others use the system's
    write_corpus(tmp_path / "corpus.parquet", 200, row_group_rows=100)
    found: list[dict[str, int]] = []
    for number in range(5):
        preprocess(tmp_path / "corpus.parquet", tmp_path / f"out-{number}", pool_name=tmp_path.name, **SMALL)
        gc.collect()
        me = psutil.Process()
        found.append(
            {
                "descriptors": me.num_fds() if os.name == "posix" else 0,
                "threads": threading.active_count(),
                "processes": len(me.children(recursive=True)),
                "temporary": len(list((tmp_path / "temporary").iterdir())),
            }
        )
    # the first run starts what stays: the fork server and the event loop
    assert found[1:] == [found[1]] * 4
