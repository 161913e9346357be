"""Damaged bytes and odd folders: a clear error or a result, never another exception."""

from __future__ import annotations

import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from muster.datasets.reading import RangeBuffer, read_chunk
from muster.datasets.sources import open_source
from muster.errors import SourceError


def write(folder, fmt):
    table = pa.table({"text": ["abc", None, "d" * 50, "\u20ac"] * 50, "n": list(range(200))})
    if fmt != "jsonl":
        views = pa.array(["longer than twelve bytes", None, "", "short"] * 50, pa.string_view())
        table = table.append_column("v", views).append_column("d", table["text"].combine_chunks().dictionary_encode())
    path = folder / f"x.{fmt}"
    if fmt == "parquet":
        pq.write_table(table, path, row_group_size=60)
    elif fmt == "arrow":
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=60)
    elif fmt == "arrows":
        with pa.ipc.new_stream(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=60)
    elif fmt == "text":
        path.mkdir()
        for k in range(20):
            (path / f"{k}.txt").write_text("abc" * k)
    else:
        path.write_bytes(b'{"text": "abc", "n": 1}\n' * 200)
    return path


@pytest.mark.parametrize("fmt", ["parquet", "arrow", "arrows", "jsonl", "text"])
def test_damaged_ranges_give_a_source_error_or_rows(fmt, tmp_path):
    rng = random.Random(fmt)
    source = open_source(str(write(tmp_path, fmt)), exchange_dir=tmp_path / "ex")
    refs = list(source.chunks(source.schema.names, rows_per_chunk=70))
    errors = 0
    for _ in range(300):
        ref = rng.choice(refs)
        some = sorted(rng.sample(range(ref.first_row, ref.first_row + ref.n_rows), 5))
        positions = rng.choice([None, some])
        pieces = {(o, n): bytearray(source.read_range(0, o, n)) for o, n in ref.ranges}
        for data in pieces.values():
            for _ in range(rng.randint(1, 4)):
                data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            buffer = RangeBuffer({k: bytes(v) for k, v in pieces.items()})
            rows = read_chunk(ref, source.schema, buffer, positions)
        except SourceError:
            errors += 1
        else:
            rows.table.validate(full=True)
            assert rows.table.num_rows == len(rows.reject) == (5 if positions else ref.n_rows)
    assert errors > 0


def test_a_folder_of_code_is_text_even_with_json_in_it(tmp_path):
    folder = tmp_path / "repo"
    (folder / ".git").mkdir(parents=True)
    (folder / ".git" / "config.txt").write_text("hidden")
    (folder / "pkg").mkdir()
    (folder / "pkg" / "__init__.py").write_text("")
    (folder / "package.json").write_text('{"a": 1}')
    (folder / "LICENSE").write_text("free")
    (folder / "logo.png").write_bytes(b"\x89PNG")
    source = open_source(str(folder), exchange_dir=tmp_path / "ex")
    (ref,) = source.chunks(["path", "nbytes"])
    assert ref.input_nbytes < 5000
    table = read_chunk(ref, source.schema, source.byte_source(0)).table
    assert table.to_pydict() == {"path": ["LICENSE", "package.json", "pkg/__init__.py"], "nbytes": [4, 8, 0]}


def test_a_file_too_big_for_text_is_a_reject(tmp_path):
    folder = tmp_path / "t"
    folder.mkdir()
    (folder / "a.txt").write_text("one")
    with (folder / "b.txt").open("wb") as file:
        file.truncate((256 << 20) + 1)
    (folder / "c.txt").write_text("two")
    source = open_source(str(folder), exchange_dir=tmp_path / "ex")
    (ref,) = source.chunks(["text"])
    assert ref.input_nbytes < 10_000
    rows = read_chunk(ref, source.schema, source.byte_source(0))
    assert rows.table.column("text").to_pylist() == ["one", None, "two"]
    assert rows.reject.to_pylist() == [None, "b.txt: 268435457 bytes, larger than 256 MiB", None]


def test_a_long_file_list_is_cut_by_rows_and_bytes(tmp_path):
    folder = tmp_path / "t"
    folder.mkdir()
    for k in range(4200):  # more than one batch of the list
        (folder / f"{k:05}.txt").write_bytes(b"x" * (k % 50))
    source = open_source(str(folder), exchange_dir=tmp_path / "ex")
    for sized in ({"rows_per_chunk": 1000}, {"chunk_nbytes": 60_000}, {}):
        found = []
        for ref in source.chunks(["path", "text"], **sized):
            data = RangeBuffer({(o, n): source.read_range(0, o, n) for o, n in ref.ranges})
            found += read_chunk(ref, source.schema, data).table.to_pylist()
        assert found == [{"path": f"{k:05}.txt", "text": "x" * (k % 50)} for k in range(4200)]
