"""``muster verify`` on a dataset that someone changed: exit status 3 and the exact place."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from blake3 import blake3
from command_line import local, muster

from muster.datasets.certificate import sign_certificate
from muster.datasets.keystore import load_signing_key
from muster.datasets.manifest import Manifest, read_manifest, write_manifest
from muster.settings import settings

N_ROWS = 60
FILES = [
    "part-00000.parquet",
    "part-00005.parquet",
    "_muster/manifest.parquet",
    "_muster/certificate.json",
    "_muster/rejects.parquet",
]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("job")
    rows = [json.dumps({"id": i, "text": f"row {i} of a few words"}) for i in range(N_ROWS)]
    rows[13] = "{"
    (folder / "source.jsonl").write_text("\n".join(rows))
    done = local(
        folder / "source.jsonl",
        "--rows-per-chunk",
        10,
        "--on-bad-row",
        "quarantine",
        "--key",
        "id",
        out=f"{folder}/out",
    )
    assert done.status == 0, done.err
    return folder


@pytest.fixture
def out(job: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(job / "out", tmp_path / "copy"))


def assert_wrong(out: Path, *words: str, options: tuple[object, ...] = ()) -> None:
    done = muster("verify", out, *options)
    assert done.status == 3, done.out + done.err
    assert done.out == ""
    for word in words:
        assert word in done.message, done.message


def test_an_untouched_dataset_passes_also_as_a_copy(out: Path) -> None:
    done = muster("verify", out, "--recompute", 1000)
    assert done.status == 0, done.err
    assert "59 rows in 6 parts" in done.out and "1 rejects" in done.out and "signed by operator" in done.out
    assert "59 random rows recomputed here from the source: all identical" in done.out
    assert "trusted, unaudited" in done.out


@pytest.mark.parametrize("place", ["first", "middle", "last"])
@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_is_found_in_its_file(out: Path, name: str, place: str) -> None:
    data = bytearray((out / name).read_bytes())
    data[{"first": 0, "middle": len(data) // 2, "last": -1}[place]] ^= 1
    (out / name).write_bytes(data)
    assert_wrong(out, name)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_gone_cut_or_longer_is_named(out: Path, name: str) -> None:
    data = (out / name).read_bytes()
    (out / name).write_bytes(data[:-1])
    assert_wrong(out, name)
    (out / name).write_bytes(data + b"\n")
    assert_wrong(out, name)
    (out / name).unlink()
    assert_wrong(out, name)


def test_a_file_too_many_and_swapped_parts_are_named(out: Path) -> None:
    (out / "part-00009.parquet").write_bytes(b"PAR1")
    assert_wrong(out, "part-00009.parquet: expected no such file")
    (out / "part-00009.parquet").unlink()
    a, b = out / "part-00003.parquet", out / "part-00004.parquet"
    a.rename(out / "x")
    b.rename(a)
    (out / "x").rename(b)
    assert_wrong(out, "part-00003.parquet: expected")


def test_what_is_no_dataset_is_said_to_be_none(tmp_path: Path) -> None:
    assert_wrong(tmp_path / "nothing", "expected a dataset, found nothing")
    (tmp_path / "notes.txt").write_text("x")
    assert_wrong(tmp_path, "expected _muster/certificate.json, found no such file")


def test_a_key_that_nobody_pinned_is_refused_unless_any_will_do(out: Path, tmp_path: Path) -> None:
    options = ("--keystore", tmp_path / "other.json")
    assert_wrong(out, "signed by key", "not pinned in other.json", "--unsafe-any-key", options=options)
    done = muster("verify", out, *options, "--unsafe-any-key")
    assert done.status == 0, done.err
    assert "UNPINNED KEY" in done.out


def forge(out: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change part 2, then make manifest, digests and signature fit, as a thief of the operator's key could."""
    part = out / "part-00002.parquet"
    pq.write_table(change(pq.read_table(part)), part)
    data = part.read_bytes()
    forged = Manifest()
    with (out / "_muster/manifest.parquet").open("rb") as file:
        for row in read_manifest(file):
            mine = {"part_blake3": blake3(data).hexdigest(), "part_nbytes": len(data)}
            forged.append(replace(row, **mine) if row.index == 2 else row)
    with (out / "_muster/manifest.parquet").open("wb") as file:
        write_manifest(forged, file)
    manifest = (out / "_muster/manifest.parquet").read_bytes()
    body = json.loads((out / "_muster/certificate.json").read_text())
    del body["signature"]
    body["manifest"] |= {"blake3": blake3(manifest).hexdigest(), "nbytes": len(manifest)}
    body["parts"]["nbytes"] = int(forged.column("part_nbytes").sum())
    key = load_signing_key(settings().home / "keys" / "operator.pem")
    (out / "_muster/certificate.json").write_bytes(sign_certificate(body, key))


def test_recomputation_finds_a_row_that_was_changed_and_signed_again(out: Path) -> None:
    def change(part: pa.Table) -> pa.Table:
        values = part["minhash_b03"].to_pylist()
        values[7] ^= 1
        at = part.schema.get_field_index("minhash_b03")
        return part.set_column(at, part.schema.field(at), pa.array(values, pa.uint64()))

    forge(out, change)
    assert muster("verify", out).status == 0  # every byte is as signed: only recomputation can tell
    place = "part-00002.parquet: source.jsonl, row 27, column minhash_b03: expected "
    assert_wrong(out, place, options=("--recompute", N_ROWS))


def test_recomputation_finds_rows_that_were_moved(out: Path) -> None:
    def change(part: pa.Table) -> pa.Table:
        names = [name for name in part.column_names if name.startswith("minhash")]
        swapped = part.take(pa.array([1, 0, *range(2, part.num_rows)]))
        return pa.table({name: (swapped if name in names else part)[name] for name in part.column_names})

    forge(out, change)
    assert_wrong(out, "source.jsonl, row 20, column minhash_b00", options=("--recompute", N_ROWS))


def test_a_source_that_changed_since_is_not_blamed_on_the_dataset(job: Path, out: Path) -> None:
    source = job / "source.jsonl"
    data = source.read_bytes()
    source.write_bytes(data.replace(b"row 5 ", b"row 6 "))
    try:
        done = muster("verify", out, "--recompute", 5)
        assert done.status == 2
        assert "not the source that" in done.message
        assert muster("verify", out).status == 0
    finally:
        source.write_bytes(data)
