"""Sources over a real S3 API (moto's server, on this machine), through s3fs."""

from __future__ import annotations

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from muster.datasets.reading import RangeBuffer, read_chunk
from muster.datasets.sources import Source, open_source
from muster.errors import SourceChangedError, SourceError

pytest.importorskip("s3fs")
server = pytest.importorskip("moto.server")


@pytest.fixture(scope="module")
def storage_options():
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    _, port = running.get_host_and_port()
    yield {"endpoint_url": f"http://127.0.0.1:{port}", "key": "k", "secret": "very-secret"}
    running.stop()


def write_parquet(fs, path: str, word: str) -> None:
    with fs.open(path, "wb") as file:
        pq.write_table(pa.table({"text": [word, "b"] * 100, "n": range(200)}), file, row_group_size=50)


def test_objects_are_planned_by_etag_and_read_by_range(storage_options, tmp_path):
    fs = fsspec.filesystem("s3", **storage_options)
    fs.mkdir("bucket")
    write_parquet(fs, "bucket/in/a.parquet", "a")
    for url in ("s3://bucket/in/a.parquet", "s3://bucket/in", "s3://bucket/in/*.parquet"):
        source = open_source(url, exchange_dir=tmp_path, storage_options=storage_options)
        (file,) = source.files
        assert (file.name, file.fingerprint[:5]) == ("a.parquet", "etag:")
        assert "very-secret" not in source.to_json()
        source = Source.from_json(source.to_json(), exchange_dir=tmp_path, storage_options=storage_options)
        found = []
        for ref in source.chunks(["text"], rows_per_chunk=70):
            ranges = {(o, n): source.read_range(0, o, n) for o, n in ref.ranges}
            found += read_chunk(ref, source.schema, RangeBuffer(ranges)).table.column("text").to_pylist()
        assert found == ["a", "b"] * 100
        source.check_unchanged(0)
    write_parquet(fs, "bucket/in/a.parquet", "c")
    with pytest.raises(SourceChangedError, match=r"a.parquet: the source changed under the running job"):
        source.check_unchanged(0)
    with pytest.raises(SourceError, match="found nothing there"):
        open_source("s3://bucket/none", exchange_dir=tmp_path, storage_options=storage_options)


def test_a_prefix_of_text_objects(storage_options, tmp_path):
    fs = fsspec.filesystem("s3", **storage_options)
    fs.mkdir("texts")
    for k in range(5):
        fs.pipe_file(f"texts/docs/{k}.md", b"hello %d" % k)
    source = open_source("s3://texts/docs", exchange_dir=tmp_path, storage_options=storage_options)
    (ref,) = source.chunks(["path", "text"])
    ranges = {(o, n): source.read_range(0, o, n) for o, n in ref.ranges}
    rows = read_chunk(ref, source.schema, RangeBuffer(ranges)).table.to_pylist()
    assert rows == [{"path": f"{k}.md", "text": f"hello {k}"} for k in range(5)]
    fs.pipe_file("texts/docs/3.md", b"HELLO 3")
    with pytest.raises(SourceChangedError, match=r"docs/3.md"):
        source.check_unchanged(0)
