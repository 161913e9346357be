"""Certificates and offline verification: one flipped byte anywhere is found and named."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from muster.datasets.certificate import canonical_json, key_id, read_certificate, sign_certificate
from muster.datasets.keystore import KeyStore, create_signing_key, load_signing_key
from muster.datasets.verify import dataset_manifest, verify_dataset
from muster.errors import ConfigError, VerificationError

_SPEC = importlib.util.spec_from_file_location("published_work", Path(__file__).with_name("test_publish.py"))
published_work = importlib.util.module_from_spec(_SPEC)
sys.modules["published_work"] = published_work
_SPEC.loader.exec_module(published_work)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    key = create_signing_key(folder / "key.pem")
    store = KeyStore(folder / "keys.json")
    store.pin("operator", key.public_key().public_bytes_raw())
    work = published_work.accepted_work(folder / "accepted")
    published_work.publish(folder / "out", work, key, published_work.passthrough_rows)
    return folder / "out", store, key


@pytest.fixture
def out(made, tmp_path):
    copy = tmp_path / "out"
    shutil.copytree(made[0], copy)
    return copy


def refused(out, store, **options):
    with pytest.raises(VerificationError) as err:
        verify_dataset(str(out), store, **options)
    assert err.value.exit_code == 3
    return err.value.message


def resign(out, key, change):
    path = out / "_muster/certificate.json"
    document = json.loads(path.read_bytes())
    del document["signature"]
    change(document)
    path.write_bytes(sign_certificate(document, key))


def test_an_untouched_dataset_verifies(made):
    out, store, key = made
    report = verify_dataset(str(out), store)
    assert (report.n_parts, report.input_rows, report.kept, report.rejected) == (3, 300, 296, 4)
    assert report.key_name == "operator"
    assert report.key_id == key_id(key.public_key().public_bytes_raw())
    assert report.certificate["max_error"] == "0.001"
    assert report.nbytes == sum(p.stat().st_size for p in out.rglob("*") if p.is_file())
    assert [row.index for row in dataset_manifest(str(out))] == [0, 1, 2]


@pytest.mark.parametrize(
    "name", ["part-00001.parquet", "_muster/manifest.parquet", "_muster/rejects.parquet", "_muster/certificate.json"]
)
def test_one_flipped_byte_is_found_in_each_kind_of_file(out, made, name):
    path = out / name
    data = path.read_bytes()
    step = max(1, len(data) // 25) if name != "_muster/certificate.json" else 7
    for at in [*range(0, len(data), step), len(data) - 1]:
        path.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        assert name in refused(out, made[1])
    path.write_bytes(data + b"\n")
    assert name in refused(out, made[1])
    path.write_bytes(data[:-1])
    assert name in refused(out, made[1])
    path.unlink()
    assert name in refused(out, made[1])
    path.write_bytes(data)
    verify_dataset(str(out), made[1])


def test_added_and_swapped_files_are_found(out, made):
    for name in ("part-00003.parquet", "extra.txt", "sub/part-00000.parquet", "_muster/other", ".hidden"):
        path = out / name
        path.parent.mkdir(exist_ok=True)
        shutil.copy(out / "part-00000.parquet", path)
        assert name in refused(out, made[1])
        path.unlink()
    (out / "sub").rmdir()
    one, two = out / "part-00000.parquet", out / "part-00002.parquet"
    data = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(data)
    assert "part-00000.parquet" in refused(out, made[1])


def test_unknown_keys_fail_unless_any_key_will_do(out, made, tmp_path):
    empty = KeyStore(tmp_path / "empty.json")
    assert "not pinned" in refused(out, empty)
    assert verify_dataset(str(out), empty, unsafe_any_key=True).key_name is None
    resign(out, Ed25519PrivateKey.generate(), lambda document: None)
    assert "not pinned" in refused(out, made[1])


def test_every_field_is_signed(out, made):
    path = out / "_muster/certificate.json"
    document = json.loads(path.read_bytes())
    for name in document:
        changed = {**document, name: "x" if name != "muster" else 1.0}
        path.write_bytes(json.dumps(changed, sort_keys=True, separators=(",", ":")).encode() + b"\n")
        assert "certificate.json" in refused(out, made[1])
    changed = {**document, "added": 1}
    path.write_bytes(canonical_json(changed) + b"\n")
    assert "signature does not fit" in refused(out, made[1])
    path.write_bytes(json.dumps(document, sort_keys=True).encode() + b"\n")
    assert "not canonical" in refused(out, made[1])


def test_a_signed_document_that_does_not_fit_the_files_fails(out, made):
    _, store, key = made
    changes = {
        "Merkle root": lambda d: d["manifest"].update(root="00" * 32),
        "input rows": lambda d: d["rows"].update(input=301),
        "kept rows": lambda d: d["rows"].update(kept=297),
        "rows of rejects": lambda d: d["rows"].update(rejected=5),
        "rejects.parquet: expected rows": lambda d: d["rejects"].update(rows=5),
        "parts 4": lambda d: d["parts"].update(count=4),
        "manifest.parquet: expected blake3": lambda d: d["manifest"].update(blake3="00" * 32),
        "rejects.parquet: expected size": lambda d: d["rejects"].update(nbytes=1),
        "rows of rejects 4, found 0": lambda d: d.update(rejects=None),
        "expected field 'rows'": lambda d: d.pop("rows"),
        "expected field": lambda d: d.update(parts=[]),
    }
    original = (out / "_muster/certificate.json").read_bytes()
    for text, change in changes.items():
        resign(out, key, change)
        assert text in refused(out, store)
        (out / "_muster/certificate.json").write_bytes(original)


def test_no_dataset_at_all(tmp_path, made):
    assert "found nothing" in refused(tmp_path / "nowhere", made[1])
    (tmp_path / "some").mkdir()
    (tmp_path / "some/file").touch()
    assert "certificate.json" in refused(tmp_path / "some", made[1])


@pytest.mark.parametrize("value", [0.5, float("nan"), 2**53, {1: 2}, b"x", {"a": [object()]}])
def test_canonical_json_has_no_surprises(value):
    with pytest.raises(ValueError, match="certificate"):
        canonical_json(value)


def test_canonical_json_is_sorted_ascii():
    assert canonical_json({"b": [1, None, True], "a": "é\n"}) == b'{"a":"\\u00e9\\n","b":[1,null,true]}'


@pytest.mark.parametrize(
    "data", [b"", b"[]\n", b"{}\n", b"[" * 100_000, b"\xff\n", b'{"muster":1}\n', b" " * (1 << 21)]
)
def test_other_bytes_are_not_certificates(data):
    with pytest.raises(VerificationError, match=r"certificate\.json"):
        read_certificate(data)


def test_signing_keys_are_private_and_never_overwritten(tmp_path):
    path = tmp_path / "deep" / "key.pem"
    key = create_signing_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_signing_key(path).private_bytes_raw() == key.private_bytes_raw()
    with pytest.raises(ConfigError, match="never overwritten"):
        create_signing_key(path)
    path.chmod(0o640)
    if os.name == "posix":
        with pytest.raises(ConfigError, match="open to others"):
            load_signing_key(path)
    path.chmod(0o600)
    path.write_text("not a key")
    with pytest.raises(ConfigError, match="PEM"):
        load_signing_key(path)
    with pytest.raises(ConfigError, match="can't be read"):
        load_signing_key(tmp_path / "none.pem")


def test_pins_never_change_silently(tmp_path):
    store = KeyStore(tmp_path / "keys.json")
    one, two = b"1" * 32, b"2" * 32
    pin = store.pin("ann", one)
    assert store.pin("ann", one) == pin
    again = KeyStore(tmp_path / "keys.json")
    assert again.keys == [pin]
    assert again.find(one) == pin
    assert again.find(two) is None
    for name, key in (("ann", two), ("bob", one)):
        with pytest.raises(ConfigError, match="pinned already"):
            again.pin(name, key)
    with pytest.raises(ConfigError, match="32 bytes"):
        again.pin("bob", b"short")
    path = tmp_path / "keys.json"
    path.write_text(path.read_text().replace(pin.key_id, "0" * 32))
    with pytest.raises(ConfigError, match="ids that fit"):
        KeyStore(path)
    path.write_text("{")
    with pytest.raises(ConfigError, match="not a key store"):
        KeyStore(path)
