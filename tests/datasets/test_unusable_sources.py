"""Sources that can't be used: each is refused with a message that names the file and what is wrong with it."""

from __future__ import annotations

import gzip
import os
import random
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from muster.datasets.sources import open_source
from muster.errors import SourceError


def corrupt_parquet(folder: Path) -> str:
    pq.write_table(pa.table({"text": ["a"]}), folder / "x.parquet")
    data = bytearray((folder / "x.parquet").read_bytes())
    data[-60:-20] = os.urandom(40)
    (folder / "x.parquet").write_bytes(data)
    return "x.parquet: corrupt Parquet footer"


def cut_parquet(folder: Path) -> str:
    pq.write_table(pa.table({"text": ["a"]}), folder / "x.parquet")
    (folder / "x.parquet").write_bytes((folder / "x.parquet").read_bytes()[:-5])
    return "x.parquet: corrupt Parquet footer: expected the file to end with"


def cut_arrow(folder: Path) -> str:
    feather.write_feather(pa.table({"text": ["a"]}), str(folder / "x.feather"))
    (folder / "x.feather").write_bytes((folder / "x.feather").read_bytes()[:-5])
    return "x.feather: corrupt Arrow footer"


def cut_gzip(folder: Path) -> str:
    data = gzip.compress(b"".join(orjson.dumps({"n": random.random()}) + b"\n" for _ in range(5000)))
    (folder / "x.jsonl.gz").write_bytes(data[: len(data) // 2])
    return r"x.jsonl.gz: row \d{4}: the compressed file is truncated"


def cut_zstd(folder: Path) -> str:
    raw = b"".join(orjson.dumps({"n": random.random()}) + b"\n" for _ in range(5000))
    data = pa.Codec("zstd").compress(raw, asbytes=True)
    (folder / "x.jsonl.zst").write_bytes(data[: len(data) // 2])
    return r"x.jsonl.zst: row \d+: the compressed file is truncated"


def cut_stream(folder: Path) -> str:
    with pa.ipc.new_stream(str(folder / "x.arrows"), pa.schema([("n", pa.int64())])) as writer:
        for _ in range(3):
            writer.write_table(pa.table({"n": list(range(1000))}))
    data = (folder / "x.arrows").read_bytes()
    (folder / "x.arrows").write_bytes(data[: len(data) - 4000])
    return "x.arrows: row 2000: the Arrow stream is truncated"


def mixed_types(folder: Path) -> str:
    pq.write_table(pa.table({"text": ["a"]}), folder / "a.parquet")
    pq.write_table(pa.table({"text": [1]}), folder / "b.parquet")
    return r"b.parquet: column text: expected string \(as in a.parquet\), found int64"


def missing_column(folder: Path) -> str:
    pq.write_table(pa.table({"text": ["a"], "id": [1]}), folder / "a.parquet")
    pq.write_table(pa.table({"text": ["b"]}), folder / "b.parquet")
    return r"b.parquet: column id: expected int64 \(as in a.parquet\), found none"


def mixed_formats(folder: Path) -> str:
    pq.write_table(pa.table({"text": ["a"]}), folder / "a.parquet")
    (folder / "b.jsonl").write_bytes(b"{}\n")
    return r"expected files of one format, found a.parquet \(parquet\), b.jsonl \(jsonl\)"


def csv(folder: Path) -> str:
    (folder / "a.csv").write_text("a,b\n")
    return "found only files of formats that come later: 1 of CSV"


def empty_parquet(folder: Path) -> str:
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), folder / "e.parquet")
    return r"expected rows, found none in e.parquet"


def empty_lines(folder: Path) -> str:
    (folder / "e.jsonl").write_bytes(b"\n \r\n")
    return r"expected rows with columns, found none in e.jsonl \(4 bytes\)"


def not_lines(folder: Path) -> str:
    (folder / "e.json").write_bytes(b'[\n {"a": 1},\n {"a": 2}\n]\n')
    return r"e.json: line 1: invalid JSON: expected a value or '\]' at column 2; 3 of the first 4 lines"


def nothing(folder: Path) -> str:
    return "expected data, found an empty folder"


@pytest.mark.parametrize(
    "spoil",
    [corrupt_parquet, cut_parquet, cut_arrow, cut_gzip, cut_zstd, cut_stream, mixed_types, missing_column,
     mixed_formats, csv, empty_parquet, empty_lines, not_lines, nothing],
)  # fmt: skip
def test_unusable_sources_are_named(spoil, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    message = spoil(folder)
    with pytest.raises(SourceError, match=message):
        open_source(str(folder), exchange_dir=tmp_path / "ex")
    left = list((tmp_path / "ex").rglob("*")) if (tmp_path / "ex").exists() else []
    assert [p for p in left if p.is_file()] == []


def test_missing_path_and_columns(tmp_path):
    with pytest.raises(SourceError, match="expected a file, a folder or a glob"):
        open_source(str(tmp_path / "no"), exchange_dir=tmp_path)
    pq.write_table(pa.table({"text": ["a"], "n": [1]}), tmp_path / "a.parquet")
    source = open_source(str(tmp_path / "a.parquet"), exchange_dir=tmp_path)
    with pytest.raises(SourceError, match=r"a.parquet: column body: expected string, found no such column") as caught:
        source.input_schema(pa.schema([("body", pa.string())]))
    assert "text (string), n (int64)" in (caught.value.hint or "")
    with pytest.raises(SourceError, match=r"a.parquet: column n: expected string, found int64"):
        source.input_schema(pa.schema([("n", pa.string())]))
    assert source.input_schema(pa.schema([("text", pa.large_string())])) == pa.schema([("text", pa.string())])
