"""Every format, planned and read back: by ranges alone, whole and in part, bad rows included."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import fsspec
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from muster.datasets.chunks import ChunkRef, chunk_fingerprint
from muster.datasets.reading import RangeBuffer, read_chunk
from muster.datasets.sources import Source, open_source
from muster.errors import SourceChangedError

BAD = b"abc\xff\xfed"
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "text": st.none() | st.text(max_size=30) | st.just(BAD),
            "n": st.none() | st.integers(-(1 << 63), (1 << 63) - 1),
            "tags": st.none() | st.lists(st.none() | st.text(max_size=3), max_size=3),
        }
    ),
    min_size=1,
    max_size=60,
)
SCHEMA = pa.schema([("text", pa.string()), ("n", pa.int64()), ("tags", pa.list_(pa.string()))])
FORMATS = ["parquet", "arrow", "arrows", "jsonl", "jsonl.gz", "jsonl.zst", "text"]


def table_of(rows: list[dict]) -> pa.Table:
    raw = [r["text"].encode() if isinstance(r["text"], str) else r["text"] for r in rows]
    data = pa.array(raw, pa.binary())
    text = pa.Array.from_buffers(pa.string(), len(data), data.buffers())
    return pa.table(
        [text, pa.array([r["n"] for r in rows], pa.int64()), pa.array([r["tags"] for r in rows], SCHEMA[2].type)],
        schema=SCHEMA,
    )


def json_line(row: dict) -> bytes:
    if row["text"] == BAD:
        return b'{"n":1,"text":"' + BAD + b'"}'
    return orjson.dumps(row)


def write(folder: Path, fmt: str, rows: list[dict], group: int) -> Path:
    path = folder / f"data.{fmt}"
    if fmt == "parquet":
        pq.write_table(table_of(rows), path, row_group_size=group, write_statistics=False)
    elif fmt in {"arrow", "arrows"}:
        new = pa.ipc.new_file if fmt == "arrow" else pa.ipc.new_stream
        with new(str(path), SCHEMA) as writer:
            writer.write_table(table_of(rows), max_chunksize=group)
    elif fmt == "text":
        path.mkdir()
        for k, row in enumerate(rows):
            text = row["text"] or ""
            (path / f"{k:04}.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    else:
        data = b"\n".join(json_line(row) for row in rows) + b"\n\n  \n"
        if fmt == "jsonl.gz":
            data = gzip.compress(data)
        if fmt == "jsonl.zst":
            data = pa.Codec("zstd").compress(data, asbytes=True)
        path.write_bytes(data)
    return path


def fetch(source: Source, ref: ChunkRef) -> RangeBuffer:
    assert ChunkRef.from_json(ref.to_json()) == ref
    return RangeBuffer({(o, n): source.read_range(ref.file, o, n) for o, n in ref.ranges})


def expected(fmt: str, rows: list[dict]) -> list[tuple]:
    out = []
    for k, row in enumerate(rows):
        text = row["text"]
        if text == BAD:
            where = 18 if fmt.startswith("jsonl") else 3
            prefix = "" if fmt.startswith("jsonl") else "column text: "
            prefix = f"{k:04}.txt: {prefix}" if fmt == "text" else prefix
            nulls = (None,) if fmt == "text" else (None, None, None)
            out.append((*nulls, f"{prefix}invalid UTF-8 at byte {where}"))
        elif fmt == "text":
            out.append((text or "", None))
        else:
            out.append((text, row["n"], row["tags"], None))
    return out


def tuples(rows) -> list[tuple]:
    columns = [rows.table.column(name).to_pylist() for name in rows.table.schema.names]
    return list(zip(*columns, rows.reject.to_pylist(), strict=True))


@pytest.mark.parametrize("fmt", FORMATS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS, group=st.integers(1, 20), data=st.data())
def test_chunks_cover_every_row_once_and_subsets_agree(fmt, rows, group, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("s")
    kinds = [{"text": "", "n": 1, "tags": ["a"]}]  # JSON lines need one row to guess the types from
    rows = kinds + rows
    source = open_source(str(write(folder, fmt, rows, group)), exchange_dir=folder / "ex")
    columns = ["text"] if fmt == "text" else ["text", "n", "tags"]
    sized = data.draw(st.sampled_from([{"rows_per_chunk": 1}, {"rows_per_chunk": 7}, {"chunk_nbytes": 200}, {}]))
    limit = data.draw(st.none() | st.integers(1, 70))
    refs = list(source.chunks(columns, limit=limit, **sized))
    again = Source.from_json(source.to_json(), exchange_dir=folder / "ex")
    assert list(again.chunks(columns, limit=limit, **sized)) == refs
    found, at = [], 0
    schema = pa.schema([source.schema.field(name) for name in columns])
    for index, ref in enumerate(refs):
        assert (ref.index, ref.first_row) == (index, at)
        if "rows_per_chunk" in sized and index + 1 < len(refs):
            assert ref.n_rows == sized["rows_per_chunk"]
        at += ref.n_rows
        whole = read_chunk(ref, schema, fetch(again, ref))
        assert whole.table.schema == schema
        whole.table.validate(full=True)
        found += tuples(whole)
        picks = sorted(data.draw(st.sets(st.integers(0, ref.n_rows - 1), max_size=4)))
        part = read_chunk(ref, schema, source.byte_source(ref.file), [ref.first_row + p for p in picks])
        assert tuples(part) == [tuples(whole)[p] for p in picks]
    assert found == expected(fmt, rows)[:limit]


def test_wide_parquet_reads_only_the_needed_columns(tmp_path):
    n = 1000
    cols = {f"c{k}": np.arange(n) * k for k in range(20)}
    cols["text"] = [f"row {k % 7}" for k in range(n)]
    cols["deep"] = [{"a": [k], "b": str(k)} for k in range(n)]
    pq.write_table(pa.table(cols), tmp_path / "w.parquet", row_group_size=300)
    source = open_source(str(tmp_path / "w.parquet"), exchange_dir=tmp_path / "ex")
    refs = list(source.chunks(["deep", "text"], rows_per_chunk=250))
    assert refs[0].columns == ("text", "deep")
    got = pa.concat_tables([read_chunk(r, source.schema, fetch(source, r)).table for r in refs])
    assert got.column("text").to_pylist() == cols["text"]
    assert got.column("deep").to_pylist() == cols["deep"]
    assert refs[-1].input_nbytes < (tmp_path / "w.parquet").stat().st_size / 2
    other = source.with_columns(refs[1], ["c3"])
    assert (other.first_row, other.n_rows) == (250, 250)
    assert read_chunk(other, source.schema, fetch(source, other)).table.column("c3").to_pylist() == [
        k * 3 for k in range(250, 500)
    ]


def test_dictionary_and_large_types_become_plain(tmp_path):
    ex = tmp_path / "ex"
    plain = ["a", None, "b", "a"]
    for name, column in {
        "dict": pa.array(plain).dictionary_encode(),
        "large": pa.array(plain, pa.large_string()),
        "view": pa.array(plain, pa.string_view()),
    }.items():
        path = tmp_path / f"{name}.arrow"
        with pa.ipc.new_file(str(path), pa.schema([("text", column.type)])) as writer:
            writer.write_table(pa.table({"text": column}), max_chunksize=3)
        source = open_source(str(path), exchange_dir=ex)
        assert source.schema == pa.schema([("text", pa.string())])
        rows = [
            tuples(read_chunk(r, source.schema, fetch(source, r))) for r in source.chunks(["text"], rows_per_chunk=2)
        ]
        assert [t for part in rows for t, _ in part] == plain
    feather.write_feather(pa.table({"text": plain}), str(tmp_path / "f.feather"), compression="zstd")
    source = open_source(str(tmp_path / "f.feather"), exchange_dir=ex)
    assert [
        t for r in source.chunks(["text"]) for t, _ in tuples(read_chunk(r, source.schema, fetch(source, r)))
    ] == plain


def test_files_are_ordered_by_name_and_widened(tmp_path):
    pq.write_table(pa.table({"n": pa.array([1, 2], pa.int32()), "text": ["a", "b"]}), tmp_path / "b.parquet")
    (tmp_path / "a").mkdir()
    pq.write_table(pa.table({"text": pa.array(["x"], pa.large_string()), "n": [1 << 40]}), tmp_path / "a" / "z.parquet")
    (tmp_path / "_muster").mkdir()
    pq.write_table(pa.table({"other": [1]}), tmp_path / "_muster" / "manifest.parquet")
    (tmp_path / "notes.md").write_text("not data")
    source = open_source(str(tmp_path), exchange_dir=tmp_path / ".ex")
    assert [f.name for f in source.files] == ["a/z.parquet", "b.parquet"]
    assert source.schema.field("n").type == pa.int64()
    refs = list(source.chunks(["n"]))
    assert [r.index for r in refs] == [0, 1]
    assert [tuples(read_chunk(r, source.schema, fetch(source, r))) for r in refs] == [
        [(1 << 40, None)],
        [(1, None), (2, None)],
    ]
    globbed = open_source(str(tmp_path / "*.parquet"), exchange_dir=tmp_path / ".ex")
    assert [f.name for f in globbed.files] == ["b.parquet"]


def test_binary_column_can_be_read_as_text(tmp_path):
    pq.write_table(pa.table({"text": pa.array([b"ok", b"0123456789abcdefg\xff", None])}), tmp_path / "b.parquet")
    source = open_source(str(tmp_path / "b.parquet"), exchange_dir=tmp_path / "ex")
    schema = source.input_schema(pa.schema([("text", pa.string())]))
    (ref,) = source.chunks(["text"])
    assert tuples(read_chunk(ref, schema, fetch(source, ref))) == [
        ("ok", None),
        (None, "column text: invalid UTF-8 at byte 17"),
        (None, None),
    ]


@pytest.mark.parametrize("fmt", FORMATS)
def test_a_changed_source_is_named(fmt, tmp_path):
    rows = [{"text": f"t{k}", "n": k, "tags": []} for k in range(10)]
    path = write(tmp_path, fmt, rows, 5)
    source = open_source(str(path), exchange_dir=tmp_path / "ex")
    (ref,) = source.chunks(["text"])
    source.check_unchanged(0)
    victim = path / "0003.txt" if fmt == "text" else path
    victim.write_bytes(victim.read_bytes() + b" ")
    with pytest.raises(SourceChangedError, match=victim.name):
        source.check_unchanged(0)
    if fmt == "text":
        with pytest.raises(SourceChangedError, match=victim.name):
            fetch(source, ref)
    victim.unlink()
    with pytest.raises(SourceChangedError, match=victim.name):
        source.check_unchanged(0)


def test_text_content_is_compared_with_its_fingerprint(tmp_path):
    folder = tmp_path / "t"
    folder.mkdir()
    (folder / "a.py").write_text("one")
    (folder / "b.bin").write_text("not text")
    stat = (folder / "a.py").stat()
    source = open_source(str(folder), exchange_dir=tmp_path / "ex")
    (ref,) = source.chunks(["text", "path", "nbytes"])
    assert tuples(read_chunk(ref, source.schema, fetch(source, ref))) == [("a.py", "one", 3, None)]
    (folder / "a.py").write_text("two")
    os.utime(folder / "a.py", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    source.check_unchanged(0)  # nothing that a cheap look could see
    with pytest.raises(SourceChangedError, match=r"a.py: .* other content than was listed"):
        read_chunk(ref, source.schema, fetch(source, ref))


def test_fingerprints_follow_the_content(tmp_path):
    path = write(tmp_path, "jsonl", [{"text": "a", "n": 1, "tags": []}] * 3, 1)
    first = open_source(str(path), exchange_dir=tmp_path / "ex")
    os.utime(path, ns=(1, 1))
    again = open_source(str(path), exchange_dir=tmp_path / "ex")
    assert again.fingerprint() == first.fingerprint()
    assert again.files[0].version != first.files[0].version
    (ref,) = first.chunks(["text"])
    assert chunk_fingerprint(ref, first.schema) == chunk_fingerprint(next(again.chunks(["text"])), again.schema)
    assert chunk_fingerprint(ref, first.schema) != chunk_fingerprint(ref, first.schema, {"on_bad_row": "fail"})
    path.write_bytes(path.read_bytes().replace(b"a", b"b", 1))
    assert open_source(str(path), exchange_dir=tmp_path / "ex").fingerprint() != first.fingerprint()


def test_staged_blobs_are_found_again(tmp_path):
    path = write(tmp_path, "jsonl.gz", [{"text": "a", "n": 1, "tags": []}] * 3, 1)
    first = open_source(str(path), exchange_dir=tmp_path / "ex")
    blob = tmp_path / "ex" / "blobs" / first.files[0].blob
    before = blob.stat()
    assert open_source(str(path), exchange_dir=tmp_path / "ex").files == first.files
    assert blob.stat().st_mtime_ns == before.st_mtime_ns


@pytest.mark.parametrize("fmt", ["parquet", "jsonl", "jsonl.gz", "text"])
def test_any_fsspec_file_system(fmt, tmp_path):
    rows = [{"text": f"t{k}", "n": k, "tags": []} for k in range(10)]
    local = write(tmp_path, fmt, rows, 4)
    memory = fsspec.filesystem("memory")
    memory.put(str(local), f"/bucket-{fmt}/{local.name}", recursive=True)
    source = open_source(f"memory://bucket-{fmt}", exchange_dir=tmp_path / "ex")
    refs = list(source.chunks(["text"], rows_per_chunk=3))
    got = [t for r in refs for t, _ in tuples(read_chunk(r, source.schema, fetch(source, r)))]
    assert got == [row["text"] for row in rows]
    source.check_unchanged(0)
    victim = f"/bucket-{fmt}/{local.name}" + ("/0001.txt" if fmt == "text" else "")
    memory.pipe_file(victim, b"x")
    with pytest.raises(SourceChangedError, match=victim.rpartition("/")[2]):
        source.check_unchanged(0)
    memory.rm(f"/bucket-{fmt}", recursive=True)
