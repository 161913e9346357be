"""Offline verification of a published dataset: is every byte what the certificate's signer published?

What it does: checks the signature against pinned keys, the manifest's digest and Merkle root, every part's size, blake3
and row count, the rejects, the sums of rows, and that no file is missing or added.
What it does not do: recompute rows (``muster verify --recompute`` does), or judge the certificate's statement.

Invariants: nothing is written; memory is one manifest batch and the names of the files; the first thing that is wrong
is a ``VerificationError`` that names the file, what was expected and what was found.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from blake3 import blake3

from muster.datasets.certificate import read_certificate
from muster.datasets.keystore import KeyStore
from muster.datasets.manifest import ManifestRow, part_name, read_manifest
from muster.datasets.merkle import MerkleHasher
from muster.datasets.publish_targets import (
    CERTIFICATE_FILE,
    MANIFEST_FILE,
    MAX_CERTIFICATE_NBYTES,
    REJECTS_FILE,
    open_location,
)
from muster.errors import OutputError, VerificationError

_PIECE_NBYTES = 1 << 22


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was verified. ``key_name`` is None if the key is not pinned (and ``unsafe_any_key`` was given)."""

    certificate: Mapping[str, Any]
    key_id: str
    key_name: str | None
    n_parts: int
    input_rows: int
    kept: int
    rejected: int
    nbytes: int


def verify_dataset(
    out_url: str,
    keystore: KeyStore,
    unsafe_any_key: bool = False,
    storage_options: dict[str, Any] | None = None,
) -> VerifyReport:
    """Verify a dataset at a path or fsspec URL.

    Args:
        out_url: the dataset.
        keystore: the keys that may have signed it.
        unsafe_any_key: accept a key that is not pinned; says nothing about who published the dataset.
        storage_options: for the file system.

    Raises:
        VerificationError: at the first place that is wrong.
        OutputError: the URL can't be opened at all.
    """
    return _Verifier(out_url, storage_options).run(keystore, unsafe_any_key=unsafe_any_key)


def dataset_manifest(out_url: str, storage_options: dict[str, Any] | None = None) -> Iterator[ManifestRow]:
    """The manifest rows of a dataset, streamed; for a dataset that ``verify_dataset`` has passed."""
    fs, root = open_location(out_url, storage_options)
    with fs.open(f"{root}/{MANIFEST_FILE}", "rb") as file:
        yield from read_manifest(cast("BinaryIO", file))


class _Verifier:
    def __init__(self, out_url: str, storage_options: dict[str, Any] | None) -> None:
        self._fs: fsspec.AbstractFileSystem
        self._fs, self._root = open_location(out_url, storage_options)
        self._url = out_url
        self._n_bytes = 0

    def run(self, keystore: KeyStore, *, unsafe_any_key: bool) -> VerifyReport:
        names = self._files()
        certificate = self._certificate(names)
        public_key = bytes.fromhex(certificate["signature"]["public_key"])
        pin = keystore.find(public_key)
        key = str(certificate["signature"]["key_id"])
        if pin is None and not unsafe_any_key:
            text = f"{CERTIFICATE_FILE}: signed by key {key}, which is not pinned in {keystore.path.name}"
            hint = "pin the publisher's key after checking it with them, or use --unsafe-any-key"
            raise VerificationError(text, hint=hint)
        claims = _Claims.of(certificate)
        self._check_bytes(MANIFEST_FILE, names, claims.manifest_nbytes, claims.manifest_blake3)
        rejected = self._check_rejects(names, claims)
        kept, n_parts = self._check_parts(names, claims)
        extra = names - {CERTIFICATE_FILE, MANIFEST_FILE} - ({REJECTS_FILE} if claims.rejects_rows else set())
        if extra:
            raise VerificationError(f"{min(extra)}: expected no such file, found one that the manifest does not list")
        name = None if pin is None else pin.name
        nbytes = self._n_bytes
        return VerifyReport(certificate, key, name, n_parts, claims.input_rows, kept, rejected, nbytes)

    def _files(self) -> set[str]:
        try:
            found = self._fs.find(self._root)
        except FileNotFoundError:
            found = []
        except OSError as err:
            raise OutputError(f"{self._url}: can't be listed: {err}") from err
        if not found:
            raise VerificationError(f"{self._url}: expected a dataset, found nothing")
        return {str(path).removeprefix(self._root).lstrip("/") for path in found}

    def _certificate(self, names: set[str]) -> dict[str, Any]:
        if CERTIFICATE_FILE not in names:
            raise VerificationError(f"{self._url}: expected {CERTIFICATE_FILE}, found no such file")
        with self._fs.open(self._path(CERTIFICATE_FILE), "rb") as file:
            data = bytes(file.read(MAX_CERTIFICATE_NBYTES + 1))
        self._n_bytes += len(data)
        return read_certificate(data)

    def _check_parts(self, names: set[str], claims: _Claims) -> tuple[int, int]:
        """Every part against the manifest, the manifest against the root and the sums; returns kept rows and parts."""
        tree, sums = MerkleHasher(), {"n_rows": 0, "kept": 0, "rejected": 0}
        for row in self._manifest_rows():
            tree.append(row.leaf())
            if row.part != part_name(row.index):
                text = f"{MANIFEST_FILE}: chunk {row.index}: expected part {part_name(row.index)}, found {row.part!r}"
                raise VerificationError(text)
            self._check_bytes(row.part, names, row.part_nbytes, row.part_blake3)
            self._check_count(row.part, row.kept)
            names.discard(row.part)
            for name in sums:
                sums[name] += getattr(row, name)
        _expect(MANIFEST_FILE, "Merkle root", claims.root, tree.root())
        _expect(MANIFEST_FILE, "input rows", claims.input_rows, sums["n_rows"])
        _expect(MANIFEST_FILE, "kept rows", claims.kept, sums["kept"])
        _expect(MANIFEST_FILE, "rejected rows", claims.rejected, sums["rejected"])
        _expect(CERTIFICATE_FILE, "kept + rejected rows", claims.input_rows, claims.kept + claims.rejected)
        _expect(CERTIFICATE_FILE, "parts", claims.n_parts, tree.n_leaves)
        return sums["kept"], tree.n_leaves

    def _manifest_rows(self) -> Iterator[ManifestRow]:
        try:
            with self._fs.open(self._path(MANIFEST_FILE), "rb") as file:
                yield from read_manifest(cast("BinaryIO", file))
        except (pa.ArrowException, ValueError, TypeError, OSError) as err:
            raise VerificationError(f"{MANIFEST_FILE}: can't be read: {err}") from err

    def _check_rejects(self, names: set[str], claims: _Claims) -> int:
        if claims.rejects_rows:
            self._check_bytes(REJECTS_FILE, names, claims.rejects_nbytes, claims.rejects_blake3)
            self._check_count(REJECTS_FILE, claims.rejects_rows)
        if not claims.rejects_skipped:
            _expect(CERTIFICATE_FILE, "rows of rejects", claims.rejected, claims.rejects_rows)
        return claims.rejected

    def _check_bytes(self, name: str, names: set[str], nbytes: int, digest: str) -> None:
        if name not in names:
            raise VerificationError(f"{name}: expected a file of {nbytes} bytes, found none")
        hasher, found = blake3(), 0
        with self._fs.open(self._path(name), "rb") as file:
            while piece := file.read(_PIECE_NBYTES):
                hasher.update(piece)
                found += len(piece)
        self._n_bytes += found
        _expect(name, "size in bytes", nbytes, found)
        _expect(name, "blake3", digest, str(hasher.hexdigest()))

    def _check_count(self, name: str, expected: int) -> None:
        try:
            with self._fs.open(self._path(name), "rb") as file, pq.ParquetFile(file) as parquet:
                found = parquet.metadata.num_rows
        except (pa.ArrowException, OSError) as err:
            raise VerificationError(f"{name}: expected a Parquet file: {err}") from err
        _expect(name, "rows", expected, found)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


@dataclass(frozen=True, slots=True)
class _Claims:
    """What a certificate says of the files, with its types checked (a signed document may still be nonsense)."""

    input_rows: int
    kept: int
    rejected: int
    n_parts: int
    root: str
    manifest_nbytes: int
    manifest_blake3: str
    rejects_rows: int
    rejects_nbytes: int
    rejects_blake3: str
    rejects_skipped: bool  # the job was told to count bad rows and not to list them

    @staticmethod
    def of(certificate: Mapping[str, Any]) -> _Claims:
        try:
            rows, manifest = certificate["rows"], certificate["manifest"]
            rejects = certificate["rejects"] or {"rows": 0, "nbytes": 0, "blake3": ""}
            claims = _Claims(
                rows["input"],
                rows["kept"],
                rows["rejected"],
                certificate["parts"]["count"],
                manifest["root"],
                manifest["nbytes"],
                manifest["blake3"],
                rejects["rows"],
                rejects["nbytes"],
                rejects["blake3"],
                certificate.get("on_bad_row") == "skip",
            )
        except (KeyError, TypeError, IndexError) as err:
            raise VerificationError(f"{CERTIFICATE_FILE}: expected field {err}, found none") from None
        return claims


def _expect(place: str, what: str, expected: object, found: object) -> None:
    if expected != found:
        raise VerificationError(f"{place}: expected {what} {expected}, found {found}")
