"""The volunteer's client: whole chunks over several connections, resumed, renewed, and honest about what went wrong."""

from __future__ import annotations

import json
import os
import threading
import time

import pytest
from blake3 import blake3

from muster.cluster.bundle import read_bundle
from muster.cluster.volunteer import transfer
from muster.cluster.volunteer.assignment import parse_assignment
from muster.cluster.volunteer.transfer import GatewayClient, SettledError, SourceChangedError, TransferError
from muster.datasets.chunks import ChunkRef
from muster.errors import ConfigError


def test_a_chunk_of_many_pieces_arrives_whole(pool):
    client = pool.client()
    unit, ref = pool.big_units[0]
    assignment = client.redeem(pool.ticket(unit, job=pool.big_job))
    assert ChunkRef.from_json(assignment.chunk) == ref
    assert ref.input_nbytes > 3 * transfer.PIECE_NBYTES
    buffers = client.fetch(assignment, ref.ranges)
    data = pool.data.read_bytes()
    assert list(buffers) == [tuple(pair) for pair in ref.ranges]
    for (offset, length), view in buffers.items():
        assert view.readonly
        assert bytes(view) == data[offset : offset + length]


def test_many_chunks_at_once_share_the_connections(pool):
    client = pool.client()
    begun = [pool.begin(client) for _ in range(6)]
    data, failures = pool.data.read_bytes(), []

    def fetch(assignment, ref):
        for (offset, length), view in client.fetch(assignment, ref.ranges).items():
            if bytes(view) != data[offset : offset + length]:
                failures.append(assignment.attempt)

    threads = [threading.Thread(target=fetch, args=(a, r)) for _, a, r in begun]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_fetch_and_an_upload_by_file(pool, tmp_path):
    client, assignment, ref = pool.begin()
    client.fetch(assignment, ref.ranges)
    body = pool.honest_bytes(ref)
    path = tmp_path / "result.arrow"
    path.write_bytes(body)
    client.upload(assignment, path, blake3(body).hexdigest())
    client.upload(assignment, path, blake3(body).hexdigest())
    assert pool.outcome(assignment.attempt)[0] == "validated"


def test_an_expired_url_is_renewed_on_the_way(pool):
    client, assignment, ref = pool.begin()
    stale = assignment.__class__(
        **{
            **{name: getattr(assignment, name) for name in assignment.__slots__},
            "input_path": assignment.input_path.replace("exp=", "exp=1"),
        }
    )
    assert client.fetch(stale, ref.ranges).keys() == {tuple(pair) for pair in ref.ranges}


def test_ranges_outside_the_chunk_are_an_error_that_is_not_repeated(pool):
    client, assignment, ref = pool.begin()
    offset, length = ref.ranges[-1]
    started = time.monotonic()
    with pytest.raises(TransferError, match="416"):
        client.fetch(assignment, [(offset, length + 1)])
    assert time.monotonic() - started < 5


def test_a_settled_unit_is_dropped(pool):
    client = pool.client()
    with pytest.raises(SettledError):
        client.redeem(pool.ticket("ef" * 16))


def test_a_source_that_changed_is_nobodys_fault(pool, tmp_path):
    client, assignment, ref = pool.begin()
    before, stat = pool.data.read_bytes(), pool.data.stat()
    time.sleep(1.1)
    try:
        pool.data.write_bytes(before[:-1] + b" ")
        with pytest.raises(SourceChangedError):
            client.fetch(assignment, ref.ranges)
    finally:
        pool.data.write_bytes(before)
        os.utime(pool.data, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    time.sleep(1.1)
    assert client.fetch(assignment, ref.ranges)


def test_an_unreachable_gateway_is_given_up_in_time(pool):
    bundle = pool.bundle("vol-1")
    fields = {**bundle.to_dict(), "gateway": "https://127.0.0.1:1"}
    from muster.cluster.bundle import bundle_from_dict

    client = GatewayClient(bundle_from_dict(fields), retry_for_s=1.0)
    started = time.monotonic()
    with pytest.raises(TransferError, match="redeem"):
        client.redeem("x")
    assert time.monotonic() - started < 4
    client.close()


GOOD = {
    "attempt": "ab" * 16,
    "expires_s": 1.0,
    "recipe": "{}",
    "build": "ab",
    "schema": "AA",
    "chunk": "{}",
    "input": {"path": f"/v1/input/{'ab' * 16}?exp=1&sig={'x' * 43}", "etag": "abc"},
    "upload": {"path": f"/v1/upload/{'ab' * 16}?exp=1&sig={'x' * 43}", "max_nbytes": 10},
}


def test_a_good_assignment_is_read():
    assert parse_assignment(json.dumps(GOOD).encode(), "t").max_upload_nbytes == 10


@pytest.mark.parametrize(
    "change",
    [
        {"attempt": "../x"},
        {"attempt": 5},
        {"recipe": ""},
        {"build": ""},
        {"expires_s": "soon"},
        {"input": {"path": "https://evil.example/x", "etag": "a"}},
        {"input": {"path": "//evil.example/x", "etag": "a"}},
        {"input": {"path": GOOD["input"]["path"].replace("ab" * 16, "cd" * 16), "etag": "a"}},
        {"input": {"path": GOOD["input"]["path"], "etag": 'a"\r\nX: y'}},
        {"upload": {"path": GOOD["upload"]["path"] + "\n", "max_nbytes": 10}},
        {"upload": {"path": GOOD["upload"]["path"], "max_nbytes": True}},
        {"upload": {"path": GOOD["upload"]["path"], "max_nbytes": 1 << 60}},
        {"upload": []},
    ],
)
def test_an_assignment_of_another_form_is_refused(change):
    with pytest.raises(ValueError, match=r"."):
        parse_assignment(json.dumps({**GOOD, **change}).encode(), "t")


def test_a_bundle_is_read_back_and_anything_else_refused(pool, tmp_path):
    bundle = pool.bundle("vol-1")
    path = tmp_path / "vol.json"
    bundle.write(path)
    assert read_bundle(path, "volunteer") == bundle
    assert "PRIVATE" not in repr(bundle)
    with pytest.raises(ConfigError, match="exists"):
        bundle.write(path)
    with pytest.raises(ConfigError, match="operator"):
        read_bundle(path, "operator")
    for change in ({"gateway": "http://x:1"}, {"gateway": "https://x:1/path"}, {"scheduler": "x"}, {"extra": "y"}):
        path.write_text(json.dumps({**bundle.to_dict(), **change}))
        with pytest.raises(ConfigError):
            read_bundle(path, "volunteer")
