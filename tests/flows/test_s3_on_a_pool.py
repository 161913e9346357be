"""A source in an object store, spoken to by its real API: the gateway reads it with the job's own credentials."""

from pathlib import Path

import pytest
from small_jobs import assert_identical, preprocess, write_corpus

moto_server = pytest.importorskip("moto.server")
s3fs = pytest.importorskip("s3fs")


@pytest.fixture
def bucket():
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    options = {"endpoint_url": f"http://{host}:{port}", "key": "k", "secret": "s"}
    s3fs.S3FileSystem(**options, skip_instance_cache=True).mkdir("corpus")
    yield options
    server.stop()


def test_volunteers_work_on_a_bucket_that_they_have_no_credentials_for(bucket, tmp_path: Path):
    table = write_corpus(tmp_path / "a.parquet", 1500)
    s3fs.S3FileSystem(**bucket).put(str(tmp_path / "a.parquet"), "corpus/in/a.parquet")
    out = tmp_path / "out"
    report = preprocess("s3://corpus/in/*.parquet", out, storage_options=bucket)
    assert report.kept == 1500
    assert report.chunks_at_home == 0
    assert_identical(out, table)
