"""Publication: from accepted files to a Parquet dataset that readers see whole or not at all.

What it does: puts the parts (byte for byte as accepted, or rewritten with passthrough columns), the rejects and the
manifest at OUT, re-hashing everything it reads, and makes the dataset visible when the certificate is there.
What it does not do: decide what is accepted, sign (``certificate``), or know stores (``publish_targets``).

The dataset: ``part-00000.parquet`` … by chunk, ``_muster/manifest.parquet``, ``_muster/certificate.json`` and, if any
row was rejected, ``_muster/rejects.parquet``. Dataset readers (pyarrow, Spark, and the glob ``OUT/*.parquet`` for
DuckDB and Polars) see the parts only, because of the folder and its underscore.

Order of calls: ``begin``, ``add_part`` for each chunk, ``add_rejects``, ``add_manifest``, ``complete``.

Invariants: a byte that is published was hashed when it was read and equals what intake reported; memory is bounded by
one part with its passthrough columns.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from blake3 import blake3

from muster.datasets.exchange import file_blake3
from muster.datasets.manifest import Manifest, ManifestRow, part_name, write_manifest
from muster.datasets.parts import REJECTS_SCHEMA, encode_parquet, parquet_options, part_schema
from muster.datasets.publish_targets import (
    CERTIFICATE_FILE,
    MANIFEST_FILE,
    MAX_CERTIFICATE_NBYTES,
    REJECTS_FILE,
    State,
    open_target,
)
from muster.errors import OutputError

Passthrough = Callable[[], pa.Table]
_REJECTS_BLOCK = 1 << 16


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """A file of the dataset, for the certificate; ``rows`` are chunks for the manifest, rejects for the rejects."""

    name: str
    nbytes: int
    blake3: str
    rows: int


class Publication:
    """One dataset being published for one job. Use as a context manager: on an error nothing of it stays."""

    def __init__(self, out_url: str, job: str, storage_options: dict[str, Any] | None = None) -> None:
        self.out_url = out_url
        self._target = open_target(out_url, job, storage_options)
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._manifest: Path | None = None
        self._unfinished = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._unfinished:
            self._target.abort()
        if self._scratch is not None:
            self._scratch.cleanup()

    def state(self) -> State:
        """What is at OUT: ``absent``, ``partial`` and ``complete`` (of this job), or ``foreign``."""
        return self._target.state()

    def require_writable(self) -> None:
        """OutputError if it is plain before any work that OUT can't be written."""
        self._target.require_writable()

    def begin(self) -> None:
        """Start; what a crashed publication of this job left is removed. OutputError if OUT is taken."""
        self._target.begin()
        self._unfinished = True

    def add_part(
        self, row: ManifestRow, kept: Path, expected_blake3: str, passthrough: Passthrough | None = None
    ) -> ManifestRow:
        """Publish the part of one chunk; returns its row with the part fields set.

        Args:
            row: the chunk.
            kept: the accepted file of its kept rows.
            expected_blake3: what intake reported of it.
            passthrough: gives the passthrough columns of *all* rows of the chunk, in position order.

        Raises:
            OutputError: the file is not what intake reported, or the passthrough has another number of rows.
        """
        name = part_name(row.index)
        if passthrough is None:
            data = pa.py_buffer(kept.read_bytes())  # the very bytes that are hashed are written, to a file of their own
            _require_hash(kept.name, str(blake3(data).hexdigest()), expected_blake3)
            digest = expected_blake3
        else:
            data = _with_passthrough(row, kept, expected_blake3, passthrough())
            digest = str(blake3(data).hexdigest())
        self._target.put_bytes(name, data)
        return replace(row, part=name, part_blake3=digest, part_nbytes=data.size)

    def add_rejects(self, files: Iterable[tuple[Path, str]]) -> PublishedFile | None:
        """Publish all rejects, in chunk order, as one file; None if there are none.

        Args:
            files: each accepted file of rejects with the blake3 that intake reported.

        Raises:
            OutputError: a file is not what intake reported.
        """
        path = self._scratch_path("rejects.parquet")
        rows = _write_rejects(files, path)
        if rows == 0:
            return None
        self._target.put_file(REJECTS_FILE, path)
        return PublishedFile(REJECTS_FILE, path.stat().st_size, file_blake3(path), rows)

    def add_manifest(self, manifest: Manifest) -> PublishedFile:
        """Write the manifest (it becomes visible with ``complete``); the result goes into the certificate."""
        self._manifest = self._scratch_path("manifest.parquet")
        with self._manifest.open("wb") as file:
            rows = write_manifest(manifest, file)
        nbytes, digest = self._manifest.stat().st_size, file_blake3(self._manifest)
        return PublishedFile(MANIFEST_FILE, nbytes, digest, rows)

    def complete(self, certificate: bytes) -> None:
        """Add the certificate (see ``certificate.sign_certificate``) and make the dataset visible.

        Raises:
            OutputError: something took OUT meanwhile, or the certificate is too long.
            ValueError: ``add_manifest`` was not called.
        """
        if self._manifest is None:
            raise ValueError("add_manifest comes before complete")
        if len(certificate) > MAX_CERTIFICATE_NBYTES:
            raise OutputError(f"certificate of {len(certificate)} bytes, at most {MAX_CERTIFICATE_NBYTES} allowed")
        self._target.put_bytes(CERTIFICATE_FILE, certificate)
        self._target.reveal(self._manifest)
        self._unfinished = False

    def _scratch_path(self, name: str) -> Path:
        if self._scratch is None:
            self._scratch = tempfile.TemporaryDirectory(prefix="muster-publish-")
        return Path(self._scratch.name, name)


def _with_passthrough(row: ManifestRow, kept: Path, expected_blake3: str, columns: pa.Table) -> pa.Buffer:
    """The part with the passthrough columns between position and kernel columns."""
    data = kept.read_bytes()
    _require_hash(kept.name, str(blake3(data).hexdigest()), expected_blake3)
    if columns.num_rows != row.n_rows:
        text = f"expected {row.n_rows} rows of passthrough columns, found {columns.num_rows}"
        raise OutputError(f"{row.file}, rows from {row.first_row}: {text}")
    with pq.ParquetFile(pa.BufferReader(data)) as file:
        part = file.read(use_threads=False)
    if columns.num_rows != part.num_rows:
        columns = columns.take(pc.subtract(part.column(1).combine_chunks(), row.first_row))
    clash = set(columns.column_names) & set(part.column_names)
    if clash:
        raise OutputError(f"passthrough columns {sorted(clash)} have names of the recipe's output")
    schema = part_schema(pa.schema(list(part.schema)[2:]), list(columns.schema))
    arrays = [*part.columns[:2], *columns.columns, *part.columns[2:]]
    return encode_parquet(pa.Table.from_arrays(arrays, schema=schema))


def _write_rejects(files: Iterable[tuple[Path, str]], path: Path) -> int:
    """Concatenate files of rejects; returns the number of rows."""
    rows, block, n_block = 0, [], 0
    with pq.ParquetWriter(path, REJECTS_SCHEMA, **parquet_options(REJECTS_SCHEMA)) as writer:
        for source, expected_blake3 in files:
            data = source.read_bytes()
            _require_hash(source.name, str(blake3(data).hexdigest()), expected_blake3)
            with pq.ParquetFile(pa.BufferReader(data)) as file:
                block.append(file.read(use_threads=False))
            n_block += block[-1].num_rows
            if n_block >= _REJECTS_BLOCK:
                writer.write_table(pa.concat_tables(block).unify_dictionaries())
                rows, block, n_block = rows + n_block, [], 0
        if block:
            writer.write_table(pa.concat_tables(block).unify_dictionaries())
    return rows + n_block


def _require_hash(name: str, found: str, expected: str) -> None:
    if found != expected:
        raise OutputError(f"{name}: accepted file changed: expected blake3 {expected}, found {found}")
