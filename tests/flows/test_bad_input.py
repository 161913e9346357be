"""Bad input through the command line: exit status 2, the place named, nothing half published, nothing lost."""

import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import assert_refused, local, muster, nothing_published

from muster.errors import SourceChangedError
from muster.flows.pipeline import run
from muster.tasks.job import PreprocessParams
from muster.tasks.progress import Progress

GOOD = pa.table({"id": [1, 2, 3], "text": ["to be or not", "that is the", "question"]})


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)


def parquet(name: str, table: pa.Table = GOOD, **options) -> bytes:
    pq.write_table(table, name, **options)
    return Path(name).read_bytes()


def lines(n: int, **at: bytes) -> bytes:
    """Return ``n`` JSON lines; ``l5=b"…"`` replaces line 5 (counted from 1)."""
    made = [json.dumps({"id": i, "text": f"row {i} of some words"}).encode() for i in range(n)]
    for name, line in at.items():
        made[int(name[1:]) - 1] = line
    return b"\n".join(made) + b"\n"


def flipped(data: bytes, first: int, last: int) -> bytes:
    return data[:first] + bytes(byte ^ 0xFF for byte in data[first:last]) + data[last:]


# -- sources that can't be used at all ---------------------------------------------------------------------------------


def test_a_parquet_file_cut_short_is_named() -> None:
    Path("cut.parquet").write_bytes(parquet("cut.parquet")[:-20])
    assert_refused(local("cut.parquet"), "cut.parquet: corrupt Parquet footer", "PAR1")


def test_a_damaged_parquet_footer_is_named() -> None:
    data = parquet("footer.parquet")
    Path("footer.parquet").write_bytes(flipped(data, len(data) - 60, len(data) - 30))
    assert_refused(local("footer.parquet"), "footer.parquet: corrupt Parquet footer")


def test_damaged_parquet_pages_are_named_with_the_rows() -> None:
    texts = pa.table({"text": [f"row {i} " * 40 for i in range(100)]})
    data = parquet("page.parquet", texts, use_dictionary=False)
    Path("page.parquet").write_bytes(flipped(data, 4, 40))
    assert_refused(local("page.parquet"), "page.parquet: rows 0 to 99: can't be decoded")


def test_a_truncated_gzip_is_named_with_the_row_reached() -> None:
    packed = gzip.compress(lines(2000))
    Path("cut.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    done = local("cut.jsonl.gz")
    assert_refused(done, "cut.jsonl.gz: row ", "truncated or damaged")


def test_what_is_not_gzip_is_refused() -> None:
    Path("plain.jsonl.gz").write_bytes(lines(3))
    assert_refused(local("plain.jsonl.gz"), "plain.jsonl.gz", "Not a gzipped file")


def test_a_file_without_a_line_of_json_is_refused() -> None:
    Path("prose.jsonl").write_text("Once upon a time\nthere was a file\n")
    assert_refused(local("prose.jsonl"), "prose.jsonl: line 1", "invalid JSON")


def test_a_missing_column_is_named_beside_those_that_exist() -> None:
    parquet("body.parquet", pa.table({"body": ["a"], "n": [1]}))
    assert_refused(
        local("body.parquet"),
        "body.parquet: column text: expected string, found no such column",
        "body (string), n (int64)",
    )


def test_a_wrongly_typed_column_is_named_with_both_types() -> None:
    parquet("typed.parquet", pa.table({"text": [1, 2]}))
    assert_refused(local("typed.parquet"), "typed.parquet: column text: expected string, found int64")
    Path("typed.jsonl").write_text('{"text": 4}\n{"text": 5}\n')
    assert_refused(local("typed.jsonl"), "typed.jsonl: column text: expected string, found int64")


def test_files_whose_schemas_differ_are_named() -> None:
    Path("mixed").mkdir()
    parquet("mixed/a.parquet")
    parquet("mixed/b.parquet", pa.table({"id": ["x"], "text": ["y"]}))
    assert_refused(local("mixed"), "b.parquet: column id: expected int64 (as in a.parquet), found string")


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("empty.jsonl", b"", "found none in empty.jsonl (0 bytes)"),
        ("blank.jsonl", b"\n\n  \n", "found none in blank.jsonl"),
        ("empty.jsonl.gz", gzip.compress(b""), "found none in empty.jsonl.gz"),
        ("empty.parquet", b"", "empty.parquet: expected a Parquet file, found 0 bytes"),
        ("table.csv", b"a,b\n1,2\n", "come later: 1 of CSV"),
        ("data.bin", b"\0\1", "none of a format that can be read"),
    ],
)
def test_a_source_without_data_is_refused(name: str, data: bytes, words: str) -> None:
    Path(name).write_bytes(data)
    assert_refused(local(name), name, words)


def test_a_parquet_file_without_rows_an_empty_folder_and_nothing_at_all_are_refused() -> None:
    parquet("none.parquet", GOOD.slice(0, 0))
    assert_refused(local("none.parquet"), "none.parquet: expected rows, found none")
    Path("folder").mkdir()
    assert_refused(local("folder"), "folder: expected data, found an empty folder")
    assert_refused(local("nowhere.parquet"), "nowhere.parquet", "found nothing there")
    assert_refused(local("x*.parquet"), "x*.parquet", "a glob without a match")
    assert_refused(local("gopher://host/x"), "gopher://host/x")


# -- rows that can't be read -------------------------------------------------------------------------------------------

BAD_ROWS = [
    ("bad.jsonl", lines(1500, l1201=b'{"text": "oops'), 1200, "row 1200 (line 1201): invalid JSON: expected a value"),
    ("list.jsonl", lines(20, l7=b"[]"), 6, "row 6 (line 7): expected a JSON object, found an array"),
    ("type.jsonl", lines(20, l9=b'{"text": 5}'), 8, "row 8 (line 9): column text: expected string, found an integer"),
    ("latin1.jsonl", lines(20, l3=b'{"text": "caf\xe9"}'), 2, "row 2 (line 3): invalid UTF-8 at byte 13"),
    ("bad.jsonl.gz", gzip.compress(lines(20, l5=b"{")), 4, "row 4 (line 5): invalid JSON"),
]


def make_bad(name: str, data: bytes | None) -> None:
    if data is not None:
        Path(name).write_bytes(data)
    elif name == "binary.parquet":
        parquet(name, pa.table({"text": pa.array([b"fine", b"caf\xe9", None], pa.binary())}))
    else:
        Path(name).mkdir()
        Path(name, "a.txt").write_text("fine")
        Path(name, "b.txt").write_bytes(b"caf\xe9")


@pytest.mark.parametrize(
    ("name", "data", "position", "words"),
    [
        *BAD_ROWS,
        ("binary.parquet", None, 1, "row 1: column text: invalid UTF-8 at byte 3"),
        ("folder", None, 1, "row 1: b.txt: column text: invalid UTF-8 at byte 3"),
    ],
)
def test_a_bad_row_ends_the_job_or_is_counted(name: str, data: bytes | None, position: int, words: str) -> None:
    make_bad(name, data)
    for _ in range(2):  # the second time the chunk has a result already
        assert_refused(local(name), f"{name}: {words}", "--on-bad-row quarantine")
    done = local(name, "--on-bad-row", "quarantine")
    assert done.status == 0, done.err
    rejects = pq.read_table("out/_muster/rejects.parquet").to_pylist()
    assert [(row["_muster_file"], row["_muster_position"]) for row in rejects] == [(name, position)]
    assert rejects[0]["reason"] in words or rejects[0]["reason"].startswith(words.partition(": ")[2])
    n_rows = pq.read_table("out").num_rows
    assert f"{n_rows:,} published, 1 rejected, of {n_rows + 1:,}" in done.out
    assert position not in pq.read_table("out")["_muster_position"].to_pylist()
    assert muster("verify", "out").status == 0


def test_skipped_rows_are_counted_and_not_listed() -> None:
    Path("bad.jsonl").write_bytes(lines(100, l5=b"{", l50=b"[]", l99=b"x"))
    done = local("bad.jsonl", "--on-bad-row", "skip", "--rows-per-chunk", 10)
    assert "97 published, 3 rejected, of 100" in done.out
    assert not Path("out/_muster/rejects.parquet").exists()
    assert pq.read_table("out").num_rows == 97
    assert muster("verify", "out").status == 0


def test_of_several_bad_rows_the_first_is_named() -> None:
    Path("bad.jsonl").write_bytes(lines(60, l13=b"{", l14=b"{", l35=b"{"))
    for _ in range(3):
        assert_refused(local("bad.jsonl", "--rows-per-chunk", 10), "row 12 (line 13)")


def test_a_carried_value_that_cannot_be_read_ends_the_job_or_is_null_in_its_column_alone() -> None:
    Path("carry.jsonl").write_bytes(lines(1200, l1101=b'{"id": "x", "text": "words"}', l1150=b"{"))
    options = ("--with-columns", "text,id", "--rows-per-chunk", 100)
    Path("whole.jsonl").write_bytes(lines(1200, l1101=b'{"id": "x", "text": "words"}'))
    assert_refused(
        local("whole.jsonl", *options), "whole.jsonl: row 1100 (line 1101): column id: expected int64", "--with-columns"
    )
    done = local("carry.jsonl", *options, "--on-bad-row", "quarantine")
    assert "1,199 published, 1 rejected, of 1,200" in done.out
    assert "1 values of the carried columns can't be read and are null" in done.out
    row = {row["_muster_position"]: row for row in pq.read_table("out").to_pylist()}[1100]
    assert (row["id"], row["text"]) == (None, "words")
    assert row["minhash_b00"] is not None
    assert pq.read_table("out")["id"].null_count == 1
    assert json.loads(Path("out/_muster/certificate.json").read_text())["carried_nulls"] == 1
    assert muster("verify", "out").status == 0


# -- a source that changes under the running job -----------------------------------------------------------------------


@pytest.mark.parametrize("change", ["cut", "written again", "gone"])
def test_a_source_that_changes_ends_a_local_job_and_what_was_done_is_kept(change: str) -> None:
    data = lines(4000)
    source = Path("source.jsonl")
    source.write_bytes(data)
    os.utime(source, ns=(0, 0))
    params = PreprocessParams(
        source="source.jsonl", out="out", recipe=["text.minhash@1"], pool="local", rows_per_chunk=50
    )

    def meddle(progress: Progress) -> None:
        if progress.stage == "compute" and source.exists() and not source.stat().st_mtime_ns:
            {"cut": lambda: source.write_bytes(data[:200]), "gone": source.unlink}.get(
                change, lambda: os.utime(source)
            )()

    with pytest.raises(SourceChangedError, match=r"source\.jsonl") as caught:
        run(params, on_progress=meddle)
    assert caught.value.exit_code == 2
    assert nothing_published()
    source.write_bytes(data)
    report = run(params)
    assert report.resumed_chunks > 0
    assert report.kept == 4000
