"""OUT that exists, a second run, and arguments that can't work, as a user meets them."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import assert_refused, local, muster

from muster.cluster.coordinator.bundles import PoolAddresses, create_operator_bundle, save_addresses
from muster.cluster.coordinator.pki import create_pool_pki
from muster.settings import settings

TABLE = pa.table({"id": [1, 2, 3], "text": ["to be or not", "that is the", "question"]})
MUSTER = Path(sys.executable).with_name("muster")


@pytest.fixture(autouse=True)
def _in_a_folder_with_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    pq.write_table(TABLE, "source.parquet")


def everything_in(folder: str) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def assert_left_alone(done, before: dict[str, bytes], *words: str) -> None:
    assert done.status == 2, done.err
    for word in words:
        assert word in done.message
    assert everything_in("out") == before
    assert not list(Path.cwd().glob(".out*"))


def test_a_folder_of_others_is_left_alone() -> None:
    Path("out").mkdir()
    Path("out/thesis.txt").write_text("years of work")
    before = everything_in("out")
    assert_left_alone(local("source.parquet"), before, "out exists and is not a dataset that Muster published")


def test_a_file_of_others_is_left_alone() -> None:
    Path("out").write_text("years of work")
    done = local("source.parquet")
    assert done.status == 2
    assert "out exists" in done.message
    assert Path("out").read_text() == "years of work"


def test_another_job_s_dataset_is_left_alone_and_described() -> None:
    assert local("source.parquet").status == 0
    before = everything_in("out")
    for done, words in [
        (local("source.parquet", "--limit", 2), "holds the dataset of another job, with other parameters"),
        (local("source.parquet", recipe="text.quality@1"), "with another recipe (text.minhash@1"),
        (local("source.parquet", recipe="text.minhash@1:ngram=3"), "with another recipe (text.minhash@1"),
        (muster("preprocess", "source.parquet", "out", "-r", "text.quality@1"), "with another recipe"),
    ]:
        assert_left_alone(done, before, words, "choose another OUT")
    pq.write_table(TABLE.slice(1), "other.parquet")
    assert_left_alone(local("other.parquet"), before, "with another source (source.parquet")


def test_a_second_run_says_so_and_does_nothing() -> None:
    assert local("source.parquet").status == 0
    before = everything_in("out")
    for out, pool in [("out", "local"), ("./out/", "local"), (Path("out").absolute(), "local"), ("out", "embedded")]:
        started_s = time.monotonic()
        done = muster("preprocess", "source.parquet", out, "-r", "text.minhash@1", "--pool", pool)
        assert done.status == 0, done.err
        assert "is complete already; nothing to do" in done.out
        assert time.monotonic() - started_s < 3
    assert everything_in("out") == before
    assert not (settings().pool_dir("embedded") / "registry.sqlite").exists()


def test_a_second_run_is_quick_in_a_process_of_its_own(tmp_path: Path) -> None:
    assert local("source.parquet").status == 0
    command = [MUSTER, "preprocess", "source.parquet", "out", "-r", "text.minhash@1", "--pool", "local"]
    started_s = time.monotonic()
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "nothing to do" in done.stdout
    assert time.monotonic() - started_s < 5  # about 0.6 s on an idle machine; no process is started


def test_an_out_that_cannot_be_made_is_refused_before_any_work() -> None:
    done = local("source.parquet", out="source.parquet/out")
    assert_refused(done, "source.parquet/out: can't be made", "source.parquet is not a folder")
    assert "compute" not in done.err
    if os.geteuid():
        Path("locked").mkdir(mode=0o500)
        assert_refused(local("source.parquet", out="locked/out"), "no permission to write in")


def test_an_out_inside_the_source_is_refused() -> None:
    Path("folder").mkdir()
    Path("source.parquet").rename("folder/source.parquet")
    done = local("folder", out="folder/out")
    assert_refused(done, "OUT folder/out lies inside SOURCE folder")
    assert not Path("folder/out").exists()


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("text.nonsense@1", "unknown kernel 'text.nonsense@1'; known kernels: "),
        ("text.quality", "a kernel is named name@version"),
        ("text.quality@9", "unknown kernel 'text.quality@9'"),
        ("text.minhash@1:ngrams=5", "there is no parameter 'ngrams'"),
        ("text.minhash@1:ngram=five", "ngram: expected a valid integer, found 'five'"),
        ("text.minhash@1:ngram=0", "ngram: expected greater than or equal to 1, found '0'"),
        ("text.minhash@1:ngram", "expected name=value after the colon, found 'ngram'"),
        ("text.minhash@1:column=body", "source.parquet: column body: expected string, found no such column"),
    ],
)
def test_a_wrong_recipe_is_refused(recipe: str, words: str) -> None:
    assert_refused(local("source.parquet", recipe=recipe), words)


def test_columns_to_carry_must_exist_and_not_clash() -> None:
    assert_refused(local("source.parquet", "--key", "nope"), "no column 'nope'", "id, text")
    assert_refused(local("source.parquet", "--with-columns", "id,nope"), "no column 'nope'")
    pq.write_table(TABLE.append_column("minhash_b00", pa.array([1, 2, 3])), "clash.parquet")
    assert_refused(local("clash.parquet", "--with-columns", "minhash_b00"), "'minhash_b00' would clash")


@pytest.fixture
def _bundle():
    path = settings().operator_bundle_path
    path.unlink(missing_ok=True)
    yield path
    path.unlink(missing_ok=True)


def pool(url: str):
    return muster("preprocess", "source.parquet", "out", "-r", "text.minhash@1", "--pool", url)


def test_a_pool_without_a_bundle_is_refused_with_the_way_to_get_one(_bundle: Path) -> None:
    assert_refused(pool("https://127.0.0.1:1"), "needs an operator's bundle", str(_bundle), "muster operator create")
    assert_refused(pool("http://127.0.0.1:1"), "expected embedded, local, or the https:// URL")
    assert_refused(pool("nonsense"), "expected embedded, local, or the https:// URL")


def test_a_broken_bundle_is_refused(_bundle: Path) -> None:
    _bundle.parent.mkdir(parents=True, exist_ok=True)
    _bundle.write_text(json.dumps({"v": 1}))
    _bundle.chmod(0o600)
    assert_refused(pool("https://127.0.0.1:1"), str(_bundle))


def test_a_pool_that_is_away_is_named(_bundle: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:  # bound and not listening: whoever connects is refused at once
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        pool_dir = tmp_path / "pools" / "away"
        create_pool_pki(pool_dir, ["127.0.0.1"])
        save_addresses(pool_dir, PoolAddresses(f"tls://{address}", address, f"https://{address}"))
        _bundle.parent.mkdir(parents=True, exist_ok=True)
        create_operator_bundle(pool_dir, name="ada", path=_bundle)
        assert_refused(
            pool(f"https://{address}"),
            f"scheduler at {address} can't be reached: Connection refused",
            "is the coordinator running",
        )
        assert_refused(pool("https://127.0.0.1:1"), f"is for the pool https://{address}, not for https://127.0.0.1:1")
