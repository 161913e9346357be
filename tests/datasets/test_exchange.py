"""The exchange folder: whole files or none, never overwritten, names that stay inside."""

from __future__ import annotations

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from muster.datasets.exchange import Exchange, UploadRefusedError
from muster.errors import PoolError


@pytest.fixture
def exchange(tmp_path):
    return Exchange(tmp_path / "exchange")


def files(exchange):
    return sorted(p.name for p in exchange.root.rglob("*") if p.is_file())


def test_an_upload_appears_whole_and_is_never_overwritten(exchange):
    upload = exchange.begin_upload("a1", 10)
    upload.write(b"abc")
    assert not exchange.has_upload("a1")
    rival = exchange.begin_upload("a1", 10)
    rival.write(b"zzz")
    stored = upload.commit(blake3(b"abc").hexdigest())
    assert (stored.nbytes, stored.blake3) == (3, blake3(b"abc").hexdigest())
    with pytest.raises(UploadRefusedError) as refused:
        rival.commit()
    assert refused.value.kind == "exists"
    with pytest.raises(UploadRefusedError):
        exchange.begin_upload("a1", 10)
    assert exchange.upload_path("a1").read_bytes() == b"abc"
    assert files(exchange) == ["a1"]
    exchange.remove_upload("a1")
    assert files(exchange) == []


def test_uploads_are_bounded_and_hashed(exchange):
    upload = exchange.begin_upload("a2", 5)
    upload.write(b"12345")
    with pytest.raises(UploadRefusedError) as refused:
        upload.write(b"6")
    assert refused.value.kind == "too-big"
    upload.abort()
    upload = exchange.begin_upload("a2", 5)
    upload.write(b"12345")
    with pytest.raises(UploadRefusedError) as refused:
        upload.commit("0" * 64)
    assert refused.value.kind == "wrong-digest"
    assert files(exchange) == []


def test_accepted_files_are_committed_together(exchange):
    with exchange.begin_accepted("a3") as pending:
        pending.kept.write_bytes(b"kept")
        pending.rejects.write_bytes(b"rejects")
        kept, rejects = exchange.commit_accepted("a3", pending)
    assert kept.read_bytes() == b"kept"
    assert rejects.read_bytes() == b"rejects"
    assert exchange.accepted_paths("a3") == (kept, rejects)
    with exchange.begin_accepted("a3") as pending, pytest.raises(UploadRefusedError):
        pending.kept.write_bytes(b"other")
        exchange.commit_accepted("a3", pending)
    assert kept.read_bytes() == b"kept"
    assert files(exchange) == ["a3.parquet", "a3.rejects.parquet"]


def test_without_rejects_there_is_no_rejects_file_and_a_half_commit_can_be_repeated(exchange):
    with exchange.begin_accepted("a4") as pending:
        pending.rejects.write_bytes(b"old")
        exchange.root.joinpath("accepted", "a4", "a4.rejects.parquet").write_bytes(b"half a commit")
        pending.kept.write_bytes(b"k")
        assert exchange.commit_accepted("a4", pending)[1].read_bytes() == b"old"
    with exchange.begin_accepted("a5") as pending:
        assert exchange.commit_accepted("a5", pending)[1] is None
    with pytest.raises(PoolError):
        exchange.accepted_paths("a6")


def test_sweep_removes_only_old_temporary_files(exchange):
    exchange.begin_upload("a8", 5).commit()
    upload = exchange.begin_upload("a7", 5)
    upload.write(b"1")
    assert exchange.sweep(60.0) == 0
    assert exchange.sweep(-60.0) == 1
    assert len(files(exchange)) == 1


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "", ".", "..", ".hidden", "a..b", "a\\b", "a\0b", "x" * 200, "a\n", "é", "C:x"]
)
def test_bad_names_are_refused(exchange, name):
    for call in (
        exchange.upload_path,
        exchange.accepted_paths,
        lambda n: exchange.begin_upload(n, 1),
    ):
        with pytest.raises(PoolError, match="not a "):
            call(name)


@given(st.text(max_size=20))
def test_no_name_leaves_its_area(tmp_path_factory, name):
    root = (tmp_path_factory.getbasetemp() / "hypothesis").resolve()
    exchange = Exchange(root)
    try:
        exchange.begin_upload(name, 1).abort()
    except PoolError:
        return
    assert (root / "uploads") in exchange._path("uploads", name).resolve().parents
