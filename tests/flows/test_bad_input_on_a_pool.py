"""Bad rows and changing sources on a real embedded pool: the same outcome as at home, and nobody is blamed."""

import json
import threading
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from command_line import local, muster, nothing_published
from small_jobs import preprocess, published

from muster.datasets.digest import table_digest
from muster.errors import BadRowError, SourceChangedError
from muster.tasks.run import Run

N_ROWS = 1000
BAD = {77: b'{"text": "oops', 500: b'{"text": "caf\xe9"}', 501: b'{"text": 5}'}
RECIPE = ["text.minhash@1"]


def rows() -> list[bytes]:
    return [json.dumps({"id": i, "text": f"row {i} of a few words"}).encode() for i in range(N_ROWS)]


@pytest.fixture
def bad_source(tmp_path: Path) -> Path:
    source = tmp_path / "bad.jsonl"
    source.write_bytes(b"\n".join(BAD.get(i, line) for i, line in enumerate(rows())))
    return source


@pytest.mark.parametrize("choice", ["quarantine", pytest.param("skip", marks=pytest.mark.slow)])
def test_bad_rows_are_counted_as_at_home(bad_source: Path, tmp_path: Path, choice: str) -> None:
    report = preprocess(bad_source, tmp_path / "out", recipe=RECIPE, on_bad_row=choice, key="id")
    assert (report.rows, report.kept, report.rejected) == (N_ROWS, N_ROWS - 3, 3)
    assert not report.caught
    options = ("--on-bad-row", choice, "--rows-per-chunk", 250, "--key", "id")
    assert local(bad_source, *options, out=str(tmp_path / "home")).status == 0
    found, wanted = published(tmp_path / "out"), published(tmp_path / "home")
    assert table_digest(found) == table_digest(wanted)
    assert sorted({*range(N_ROWS)} - {*found["_muster_position"].to_pylist()}) == sorted(BAD)
    listed = tmp_path / "out/_muster/rejects.parquet"
    assert listed.exists() == (choice == "quarantine")
    if listed.exists():
        assert table_digest(pq.read_table(listed)) == table_digest(
            pq.read_table(tmp_path / "home/_muster/rejects.parquet")
        )
        assert pq.read_table(listed)["_muster_position"].to_pylist() == sorted(BAD)
    assert muster("verify", tmp_path / "out", "--recompute", 50).status == 0


def test_a_bad_row_ends_the_job_and_a_second_run_does_not_forget_it(bad_source: Path, tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(BadRowError, match=r"bad\.jsonl: row (77 \(line 78\)|500 \(line 501\)): invalid") as caught:
            preprocess(bad_source, tmp_path / "out", recipe=RECIPE, pool_name="bad-rows")
        assert caught.value.exit_code == 2
        assert nothing_published(tmp_path)


def test_a_false_reject_does_not_end_the_job(tmp_path: Path) -> None:
    source = tmp_path / "good.jsonl"
    source.write_bytes(b"\n".join(rows()))
    report = preprocess(source, tmp_path / "out", ("honest-1", "hides-1"), recipe=RECIPE)
    assert report.kept == N_ROWS
    assert report.rejected == 0
    assert {c.contributor for c in report.caught} <= {"hides-1"}


def rewrite(source: Path) -> None:
    source.write_bytes(source.read_bytes().replace(b"row 7", b"row 8"))


def cut(source: Path) -> None:
    source.write_bytes(source.read_bytes()[:500])


@pytest.mark.parametrize("change", [rewrite, pytest.param(cut, marks=pytest.mark.slow)])
def test_a_source_that_changes_ends_the_job_and_blames_nobody(tmp_path: Path, change) -> None:
    source = tmp_path / "source.jsonl"
    data = b"\n".join(rows())
    source.write_bytes(data)

    def later(run: Run) -> None:
        while not run.store.count_units(run.job.job_id):
            time.sleep(0.01)
        change(source)

    def on_open(run: Run) -> None:
        threading.Thread(target=later, args=(run,), daemon=True).start()

    with pytest.raises(SourceChangedError, match=r"source\.jsonl: the source changed under the running job") as caught:
        preprocess(
            source, tmp_path / "out", recipe=RECIPE, pool_name=change.__name__, on_open=on_open, rows_per_chunk=50
        )
    assert "run the job again" in str(caught.value.hint)
    assert nothing_published(tmp_path)
    source.write_bytes(data)
    report = preprocess(source, tmp_path / "out", recipe=RECIPE, pool_name=change.__name__, rows_per_chunk=50)
    assert report.kept == N_ROWS
    assert not report.caught
    assert report.chunks_at_home == 0  # the same content, written again, is served to volunteers again
