"""The manifest: root as RFC 6962 says, compact in memory, streamed through Parquet."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.datasets.manifest import (
    Manifest,
    ManifestRow,
    manifest_root,
    part_name,
    read_manifest,
    write_manifest,
)
from muster.datasets.merkle import MerkleHasher


def row(i, *, published=True, **changes):
    made = ManifestRow(
        index=i,
        file=f"data/file-{i // 100}.parquet",
        fingerprint=hashlib.md5(str(i // 100).encode()).hexdigest(),
        first_row=1000 * (i % 100),
        n_rows=1000,
        kept=990,
        rejected=10,
        unit=hashlib.md5(f"u{i}".encode()).hexdigest(),
        digest=hashlib.sha256(f"d{i}".encode()).hexdigest(),
        computed_by=f"contributor-{i % 7}",
    )
    if published:
        part = {"part": part_name(i), "part_blake3": hashlib.sha256(f"p{i}".encode()).hexdigest(), "part_nbytes": 5 + i}
        made = dataclasses.replace(made, **part)
    return dataclasses.replace(made, **changes)


def recursive_root(leaves):
    """RFC 6962 section 2.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return hashlib.sha256(b"\1" + recursive_root(leaves[:k]) + recursive_root(leaves[k:])).digest()


@given(st.lists(st.binary(max_size=8), max_size=70))
def test_the_tree_is_that_of_rfc_6962(leaves):
    tree = MerkleHasher()
    for leaf in leaves:
        tree.append(leaf)
    assert tree.root() == recursive_root(leaves).hex()


def test_known_root_of_rfc_6962_test_vectors():
    tree = MerkleHasher()
    for leaf in ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]:
        tree.append(bytes.fromhex(leaf))
    assert tree.root() == "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"


def test_the_root_covers_every_field_but_the_part():
    rows = [row(i) for i in range(5)]
    root = manifest_root(rows)
    assert root == recursive_root([r.leaf() for r in rows]).hex()
    assert json.loads(rows[0].leaf()) == ["muster-manifest-1", *dataclasses.astuple(rows[0])[:10]]
    assert manifest_root(row(i, published=False) for i in range(5)) == root
    for change in (
        {"file": "x"},
        {"fingerprint": "x"},
        {"first_row": 7},
        {"kept": 991, "rejected": 9},
        {"n_rows": 1001, "kept": 991},
        {"unit": "00" * 16},
        {"digest": "00" * 32},
        {"computed_by": "x"},
    ):
        assert manifest_root([*rows[:2], dataclasses.replace(rows[2], **change), *rows[3:]]) != root
    assert manifest_root(rows[:4]) != root


@pytest.mark.parametrize("n", [0, 1, 100, 9_000])
@pytest.mark.parametrize("published", [True, False])
def test_memory_and_parquet_hold_the_same_rows(n, published):
    rows = [row(i, published=published) for i in range(n)]
    manifest = Manifest(rows)
    assert len(manifest) == n
    assert list(manifest) == rows
    assert manifest.root() == manifest_root(rows)
    assert manifest.nbytes <= 200 * n
    assert manifest.column("kept").sum() == 990 * n
    file = io.BytesIO()
    assert write_manifest(iter(manifest), file) == n
    assert list(read_manifest(io.BytesIO(file.getvalue()))) == rows


def test_gaps_wrong_counts_and_other_files_are_refused():
    with pytest.raises(ValueError, match="expected chunk 1, found chunk 2"):
        manifest_root([row(0), row(2)])
    with pytest.raises(ValueError, match="expected chunk 0"):
        Manifest([row(1)])
    with pytest.raises(ValueError, match="expected chunk 0"):
        write_manifest([row(3)], io.BytesIO())
    with pytest.raises(ValueError, match="kept"):
        row(0, kept=1)
    with pytest.raises(ValueError, match="part"):
        Manifest([row(0, part="elsewhere.parquet")])
    with pytest.raises(ValueError, match="bytes, unlike"):
        Manifest([row(0), row(1, unit="00")])
    file = io.BytesIO()
    pq.write_table(__import__("pyarrow").table({"a": [1]}), file)
    with pytest.raises(ValueError, match="expected columns"):
        list(read_manifest(io.BytesIO(file.getvalue())))
    with pytest.raises(ValueError, match=r"Parquet|magic"):
        list(read_manifest(io.BytesIO(b"PAR1 not a file PAR1")))
