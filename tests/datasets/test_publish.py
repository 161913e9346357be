"""Publication: whole or not at all, byte for byte, with and without passthrough columns, local and in a store."""

from __future__ import annotations

import contextlib
import dataclasses
import uuid

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from muster.datasets.certificate import certificate_body, sign_certificate
from muster.datasets.keystore import create_signing_key
from muster.datasets.manifest import Manifest, ManifestRow
from muster.datasets.publish import Publication
from muster.datasets.results import part_schema, result_schema, write_accepted
from muster.errors import OutputError

OUTPUT = pa.schema([("h", pa.uint64()), ("n", pa.int32())])
JOB = "job-1"
N_CHUNKS, N_ROWS = 3, 100


@dataclasses.dataclass(frozen=True)
class Rows:
    first_row: int
    n_rows: int


@dataclasses.dataclass(frozen=True)
class Work:
    """Accepted files of a small job."""

    rows: list
    kept: list
    rejects: list

    def publication_parts(self, publication, passthrough=None):
        manifest = Manifest()
        for row, (path, digest) in zip(self.rows, self.kept, strict=True):
            give = None if passthrough is None else lambda row=row: passthrough(row)
            manifest.append(publication.add_part(row, path, digest, give))
        return manifest


def accepted_work(folder, *, rejects=True):
    folder.mkdir(parents=True, exist_ok=True)
    rows, kept, bad = [], [], []
    for i in range(N_CHUNKS):
        first = i * N_ROWS
        drop = {first + 5, first + 9} if rejects and i != 1 else set()
        at = list(range(first, first + N_ROWS))
        columns = {
            "position": at,
            "reject": ["broken" if p in drop else None for p in at],
            "h": [None if p in drop else 2**63 + p for p in at],
            "n": [None if p in drop else -p for p in at],
        }
        table = pa.table(columns, schema=result_schema(OUTPUT))
        paths = folder / f"{i}.parquet", folder / f"{i}.rejects.parquet"
        info = write_accepted(table, Rows(first, N_ROWS), "in.parquet", *paths)
        kept.append((paths[0], info.kept_blake3))
        if info.rejected:
            bad.append((paths[1], info.rejects_blake3))
        numbers = (first, N_ROWS, info.kept, info.rejected)
        rows.append(ManifestRow(i, "in.parquet", "f" * 8, *numbers, f"{i:032x}", info.digest, "ann"))
    return Work(rows, kept, bad)


def passthrough_rows(row):
    at = range(row.first_row, row.first_row + row.n_rows)
    return pa.table({"text": [f"row {p}" for p in at], "id": pa.array(at, pa.int64())})


def publish(out, work, key, passthrough=None, job=JOB):
    with Publication(str(out), job) as publication:
        publication.begin()
        manifest = work.publication_parts(publication, passthrough)
        rejects = publication.add_rejects(work.rejects)
        file = publication.add_manifest(manifest)
        body = certificate_body(job, manifest, file, rejects, {"recipe": ["text.minhash@1"], "max_error": "0.001"})
        assert publication.state() == "partial"
        publication.complete(sign_certificate(body, key))
    return manifest


@pytest.fixture
def work(tmp_path):
    return accepted_work(tmp_path / "accepted")


@pytest.fixture
def key(tmp_path):
    return create_signing_key(tmp_path / "secrets" / "key.pem")


def listing(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_a_dataset_is_the_accepted_parts_byte_for_byte(tmp_path, work, key):
    out = tmp_path / "out"
    manifest = publish(out, work, key)
    names = [f"part-{i:05}.parquet" for i in range(N_CHUNKS)]
    assert listing(out) == [f"_muster/{n}" for n in ("certificate.json", "manifest.parquet", "rejects.parquet")] + names
    for row, (path, digest) in zip(manifest, work.kept, strict=True):
        assert (out / row.part).read_bytes() == path.read_bytes()
        assert row.part_blake3 == digest
    table = ds.dataset(out).to_table()
    assert table.num_rows == N_CHUNKS * N_ROWS - 4
    assert table.schema.equals(part_schema(OUTPUT))
    assert table["h"][0].as_py() == 2**63
    rejects = pq.read_table(out / "_muster/rejects.parquet")
    assert rejects["_muster_position"].to_pylist() == [5, 9, 205, 209]
    assert rejects["_muster_file"].to_pylist() == ["in.parquet"] * 4
    assert listing(tmp_path) == sorted([f"accepted/{p.name}" for p, _ in work.kept + work.rejects]
                                       + [f"out/{n}" for n in listing(out)] + ["secrets/key.pem"])  # fmt: skip


def test_passthrough_columns_stand_beside_their_rows(tmp_path, work, key):
    publish(tmp_path / "out", work, key, passthrough_rows)
    table = ds.dataset(tmp_path / "out").to_table()
    assert table.column_names == ["_muster_file", "_muster_position", "text", "id", "h", "n"]
    assert table["id"].equals(table["_muster_position"])
    assert table["text"].to_pylist() == [f"row {p}" for p in table["_muster_position"].to_pylist()]
    assert table["n"].to_pylist() == [-p for p in table["_muster_position"].to_pylist()]
    assert table.num_rows == N_CHUNKS * N_ROWS - 4


def test_other_readers_see_the_parts_only(tmp_path, work, key):
    publish(tmp_path / "out", work, key)
    glob = str(tmp_path / "out" / "*.parquet")
    readers = 0
    with contextlib.suppress(ImportError):
        import duckdb

        assert duckdb.sql(f"select count(*), min(n) from '{glob}'").fetchall() == [(296, -299)]
        readers += 1
    with contextlib.suppress(ImportError):
        import polars

        frame = polars.read_parquet(glob)
        assert (frame.height, frame["n"].min()) == (296, -299)
        readers += 1
    if not readers:
        pytest.skip("neither DuckDB nor Polars is installed")


def test_wrong_passthrough_is_refused_and_leaves_nothing(tmp_path, work, key):
    with pytest.raises(OutputError, match="expected 100 rows of passthrough columns, found 99"):
        publish(tmp_path / "out", work, key, lambda row: passthrough_rows(row).slice(1))
    with pytest.raises(OutputError, match="names of the recipe"):
        publish(tmp_path / "out", work, key, lambda row: passthrough_rows(row).rename_columns(["n", "id"]))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["accepted", "secrets"]


@pytest.mark.parametrize("which", ["kept", "rejects"])
@pytest.mark.parametrize("passthrough", [None, passthrough_rows])
def test_an_accepted_file_that_changed_is_noticed(tmp_path, work, key, which, passthrough):
    path = getattr(work, which)[1][0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(OutputError, match=f"{path.name}: accepted file changed"):
        publish(tmp_path / "out", work, key, passthrough)
    assert not (tmp_path / "out").exists()


def test_out_that_exists_is_left_alone(tmp_path, work, key):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    assert Publication(str(out), JOB).state() == "foreign"
    with pytest.raises(OutputError, match="exists and is not"):
        publish(out, work, key)
    assert listing(out) == ["mine.txt"]
    (out / "mine.txt").unlink()
    publish(out, work, key)
    assert Publication(str(out), JOB).state() == "complete"
    assert Publication(str(out), "another job").state() == "foreign"
    before = {n: (out / n).stat().st_mtime_ns for n in listing(out)}
    with pytest.raises(OutputError, match="already complete"):
        publish(out, work, key)
    assert {n: (out / n).stat().st_mtime_ns for n in listing(out)} == before


def test_what_appears_at_out_meanwhile_wins(tmp_path, work, key):
    out = tmp_path / "out"
    with pytest.raises(OutputError, match="exists and is not"), Publication(str(out), JOB) as publication:
        publication.begin()
        manifest = work.publication_parts(publication)
        publication.add_manifest(manifest)
        out.mkdir()
        (out / "other").write_text("x")
        publication.complete(b"{}")
    assert listing(out) == ["other"]
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_a_crashed_publication_is_invisible_and_starts_again(tmp_path, work, key):
    out = tmp_path / "out"
    crashed = Publication(str(out), JOB)
    crashed.begin()
    crashed.add_part(work.rows[0], *work.kept[0])
    assert not out.exists()
    assert Publication(str(out), JOB).state() == "partial"
    assert Publication(str(out), "another job").state() == "absent"
    publish(out, work, key)
    assert ds.dataset(out).count_rows() == 296
    assert Publication(str(out), JOB).state() == "complete"
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_without_rejects_there_is_no_rejects_file(tmp_path, key):
    publish(tmp_path / "out", accepted_work(tmp_path / "clean", rejects=False), key)
    assert not (tmp_path / "out/_muster/rejects.parquet").exists()


def test_a_store_shows_the_manifest_last(work, key):
    import fsspec

    fs = fsspec.filesystem("memory")
    root = f"/bucket-{uuid.uuid4().hex}/out"
    out = f"memory:/{root}"
    crashed = Publication(out, JOB)
    assert crashed.state() == "absent"
    crashed.begin()
    crashed.add_part(work.rows[0], *work.kept[0])
    fs.pipe_file(f"{root}/part-77777.parquet", b"left by the crash")
    assert Publication(out, JOB).state() == "partial"
    assert Publication(out, "another job").state() == "foreign"
    with pytest.raises(OutputError, match="exists and is not"):
        publish(out, work, key, job="another job")
    publish(out, work, key, passthrough_rows)
    assert Publication(out, JOB).state() == "complete"
    found = sorted(p.removeprefix(f"{root}/") for p in fs.find(root))
    assert found == [
        *(f"_muster/{n}" for n in ("certificate.json", "manifest.parquet", "rejects.parquet")),
        *(f"part-{i:05}.parquet" for i in range(N_CHUNKS)),
    ]
    times = {name: fs.created(f"{root}/{name}") for name in found}
    assert max(times, key=times.get) == "_muster/manifest.parquet"


def test_unknown_file_systems_are_a_clear_error():
    with pytest.raises(OutputError, match="nosuch"):
        Publication("nosuch://x/y", JOB)
