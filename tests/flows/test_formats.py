"""Every source format from the command line to a published dataset: the columns of a plain run, row by row."""

import gzip
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from command_line import local, muster
from small_jobs import expected, published

from muster.datasets.digest import table_digest

RECIPE = "text.minhash@1"
N_ROWS = 60
TABLE = pa.table(
    {
        "id": pa.array(range(N_ROWS)),
        "text": [f"row {i} holds a few words and é, the number {i * i}" for i in range(N_ROWS)],
    }
)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)


def json_lines(table: pa.Table) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_pylist()).encode()


def parquet_files() -> str:
    Path("files/deep").mkdir(parents=True)
    pq.write_table(TABLE.slice(0, 25), "files/a.parquet", row_group_size=10)
    pq.write_table(TABLE.slice(25, 0), "files/b.parquet")
    pq.write_table(TABLE.slice(25, 5), "files/c.parquet", compression="zstd")
    pq.write_table(TABLE.slice(30), "files/deep/d.parquet", row_group_size=7)
    return "files"


def parquet_glob() -> str:
    parquet_files()
    pq.write_table(TABLE.slice(30), "files/d.parquet")
    return "files/*.parquet"


def arrow_file(name: str = "source.arrow") -> str:
    with pa.ipc.new_file(name, TABLE.schema) as writer:
        writer.write_table(TABLE, max_chunksize=13)
    return name


def feather_file() -> str:
    feather.write_feather(TABLE, "source.feather", chunksize=17)
    return "source.feather"


def arrow_stream() -> str:
    with pa.ipc.new_stream("stream.arrow", TABLE.schema) as writer:
        writer.write_table(TABLE, max_chunksize=11)
    return "stream.arrow"


def plain_lines() -> str:
    Path("source.jsonl").write_bytes(json_lines(TABLE))
    return "source.jsonl"


def gzip_lines() -> str:
    Path("source.jsonl.gz").write_bytes(gzip.compress(json_lines(TABLE)))
    return "source.jsonl.gz"


def zstd_lines() -> str:
    with pa.CompressedOutputStream("source.jsonl.zst", "zstd") as file:
        file.write(json_lines(TABLE))
    return "source.jsonl.zst"


SOURCES = [parquet_files, parquet_glob, arrow_file, feather_file, arrow_stream, plain_lines, gzip_lines, zstd_lines]


def assert_as_a_plain_run(table: pa.Table, out: str = "out") -> pa.Table:
    """OUT holds for each row of ``table`` what the kernel gives in this process; returns OUT's rows."""
    wanted = expected(table, [RECIPE])
    found = published(Path(out))
    assert table_digest(found.select(wanted.column_names)) == table_digest(wanted)
    verified = muster("verify", out, "--recompute", 20)
    assert verified.status == 0, verified.err
    assert "20 random rows recomputed" in verified.out or table.num_rows < 20
    return found


@pytest.mark.parametrize("make", SOURCES, ids=lambda make: make.__name__)
def test_a_source_of_each_format_gives_the_columns_of_a_plain_run(make) -> None:
    done = local(make(), "--rows-per-chunk", 7, "--key", "id", "--with-columns", "text")
    assert done.status == 0, done.err
    assert f"{N_ROWS} published, 0 rejected, of {N_ROWS}" in done.out
    found = assert_as_a_plain_run(TABLE)
    assert found["id"].to_pylist() == TABLE["id"].to_pylist()
    assert found["text"].to_pylist() == TABLE["text"].to_pylist()
    assert found.column_names[:4] == ["_muster_file", "_muster_position", "id", "text"]


def test_a_folder_of_text_files() -> None:
    Path("texts/deep").mkdir(parents=True)
    names = sorted(f"{'deep/' * (i % 2)}{i:03}.txt" for i in range(N_ROWS))
    for name, text in zip(names, TABLE["text"].to_pylist(), strict=True):
        Path("texts", name).write_text(text)
    Path("texts/picture.png").write_bytes(b"\x89PNG")
    assert local("texts", "--rows-per-chunk", 7, "--with-columns", "path").status == 0
    assert assert_as_a_plain_run(TABLE)["path"].to_pylist() == names


def test_chunks_by_size_a_limit_and_a_renamed_column() -> None:
    renamed = TABLE.rename_columns(["id", "body"])
    pq.write_table(renamed, "source.parquet", row_group_size=20)
    done = local("source.parquet", "--chunk-mib", 0.0005, "--limit", 33, recipe=f"{RECIPE}:column=body")
    assert done.status == 0, done.err
    assert "33 published, 0 rejected, of 33" in done.out
    assert len(list(Path("out").glob("*.parquet"))) > 2
    assert_as_a_plain_run(TABLE.slice(0, 33))


def test_equal_files_and_equal_chunks_in_one_source_are_all_computed() -> None:
    Path("twins").mkdir()
    half = TABLE.slice(0, 10)
    pq.write_table(pa.concat_tables([half, half]), "twins/a.parquet", row_group_size=10)
    shutil.copy("twins/a.parquet", "twins/b.parquet")
    done = local("twins", "--rows-per-chunk", 10, "--key", "id")
    assert "40 published, 0 rejected, of 40" in done.out, done.err
    found = assert_as_a_plain_run(pa.concat_tables([half] * 4))
    assert found["_muster_file"].to_pylist() == ["a.parquet"] * 20 + ["b.parquet"] * 20
    assert found["_muster_position"].to_pylist() == [*range(20), *range(20)]


def test_the_dataset_is_read_by_others_without_the_files_beside_it() -> None:
    assert local(parquet_files(), "--rows-per-chunk", 7, "--key", "id").status == 0
    found = ds.dataset("out", format="parquet")
    assert found.count_rows() == N_ROWS
    assert found.to_table(filter=ds.field("id") == 42)["_muster_position"].to_pylist() == [12]
    polars = pytest.importorskip("polars")
    assert polars.scan_parquet("out/*.parquet").select(polars.len()).collect().item() == N_ROWS


def test_the_same_input_in_other_formats_gives_the_same_columns() -> None:
    digests = set()
    for number, make in enumerate([arrow_file, plain_lines, gzip_lines]):
        assert local(make(), out=f"out-{number}").status == 0
        found = published(Path(f"out-{number}"))
        digests.add(table_digest(found.drop_columns(["_muster_file"])))
    assert len(digests) == 1


def test_the_plan_counts_what_the_job_will_do_and_starts_nothing() -> None:
    for make, chunks in [(parquet_glob, 4 + 1 + 5), (plain_lines, 9), (zstd_lines, 9)]:
        done = muster("plan", make(), "out", "-r", RECIPE, "--rows-per-chunk", 7)
        assert done.status == 0, done.err
        assert f"chunks  {chunks} of {N_ROWS} rows" in done.out
        for words in ("to volunteers", "60 rows recomputed if nobody lies", "can't exceed 1.0", "cheaper at home"):
            assert words in done.out
    assert not Path("out").exists()
    wrong = muster("plan", "source.jsonl", "out", "-r", f"{RECIPE}:column=body")
    assert wrong.status == 2
    assert "source.jsonl: column body: expected string, found no such column" in wrong.message
