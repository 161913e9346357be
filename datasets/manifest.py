"""The manifest: one row for each chunk of a dataset, what was computed for it and in which part it lies.

What it does: holds the rows of a job compactly, gives the Merkle root that a commit fixes, writes and reads
``_muster/manifest.parquet`` as a stream.
What it does not do: decide which result a chunk has, or check files against it (``verify``).

The root is the RFC 6962 tree hash over the chunks in order; a leaf is the compact JSON array ``["muster-manifest-1",
index, file, fingerprint, first_row, n_rows, kept, rejected, unit, digest, computed_by]``. The part's name, digest
and size are not in it: they come to be after the root is fixed, and the certificate signs the manifest file for them.

Invariants: chunks are numbered 0, 1, 2 … without gaps; kept + rejected = n_rows; a part's name follows from its index;
in memory a chunk takes about 130 bytes, plus each distinct file name, fingerprint and computing party once.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass, fields
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from muster.datasets.merkle import MerkleHasher

MANIFEST_VERSION = "muster-manifest-1"
MANIFEST_SCHEMA = pa.schema(
    [
        ("index", pa.int64()),
        ("file", pa.string()),
        ("fingerprint", pa.string()),
        ("first_row", pa.int64()),
        ("n_rows", pa.int64()),
        ("kept", pa.int64()),
        ("rejected", pa.int64()),
        ("unit", pa.string()),
        ("digest", pa.string()),
        ("computed_by", pa.string()),
        ("part", pa.string()),
        ("part_blake3", pa.string()),
        ("part_nbytes", pa.int64()),
    ]
)
_INTS = ("first_row", "n_rows", "kept", "rejected", "part_nbytes")
_TEXTS = ("file", "fingerprint", "computed_by")
_HEXES = ("unit", "digest", "part_blake3")
_BATCH_ROWS = 1 << 13


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One chunk. ``unit`` and ``digest`` are hex; ``computed_by`` is a contributor's pseudonym or the trusted party.

    The part fields are empty until the part is written.

    Raises:
        ValueError: kept + rejected is not n_rows, or a number is negative.
    """

    index: int
    file: str
    fingerprint: str
    first_row: int
    n_rows: int
    kept: int
    rejected: int
    unit: str
    digest: str
    computed_by: str
    part: str = ""
    part_blake3: str = ""
    part_nbytes: int = 0

    def __post_init__(self) -> None:
        if min(self.index, self.first_row, self.kept, self.rejected) < 0 or self.kept + self.rejected != self.n_rows:
            text = f"{self.kept} kept + {self.rejected} rejected of {self.n_rows} rows from {self.first_row}"
            raise ValueError(f"manifest, chunk {self.index}: {text}")

    def leaf(self) -> bytes:
        """The canonical bytes of the row for the Merkle tree (without the part fields)."""
        return orjson.dumps([MANIFEST_VERSION, *astuple(self)[:10]])


def part_name(index: int) -> str:
    """Name of a chunk's part: ``part-00000.parquet`` and so on."""
    return f"part-{index:05}.parquet"


def manifest_root(rows: Iterable[ManifestRow]) -> str:
    """Hex of the Merkle root over rows in chunk order.

    Raises:
        ValueError: a chunk is missing or out of order.
    """
    tree = MerkleHasher()
    for expected, row in enumerate(rows):
        _check_order(row, expected)
        tree.append(row.leaf())
    return tree.root()


class Manifest:
    """The rows of a job in memory, about 130 bytes a chunk; iterating makes ``ManifestRow`` objects one at a time."""

    def __init__(self, rows: Iterable[ManifestRow] = ()) -> None:
        self._ints = {name: array("q") for name in _INTS}
        self._codes = {name: array("i") for name in _TEXTS}
        self._texts: dict[str, int] = {}
        self._names: list[str] = []
        self._hexes = {name: bytearray() for name in _HEXES}
        self._widths: dict[str, int] = {}
        for row in rows:
            self.append(row)

    def append(self, row: ManifestRow) -> None:
        """Append the next chunk.

        Raises:
            ValueError: it is not the next one, or its hex fields are not as long as those before.
        """
        _check_order(row, len(self))
        if row.part not in ("", part_name(row.index)):
            raise ValueError(f"manifest, chunk {row.index}: part {row.part!r}, expected {part_name(row.index)}")
        raw = {name: bytes.fromhex(getattr(row, name)) for name in ("unit", "digest")}
        raw["part_blake3"] = bytes.fromhex(row.part_blake3) or bytes(32)
        for name, value in raw.items():
            if self._widths.setdefault(name, len(value)) != len(value):
                raise ValueError(f"manifest, chunk {row.index}: {name} has {len(value)} bytes, unlike those before")
        for name in _TEXTS:
            self._codes[name].append(self._code(getattr(row, name)))
        for name, value in raw.items():
            self._hexes[name] += value
        for name in _INTS:
            self._ints[name].append(getattr(row, name))

    def __len__(self) -> int:
        return len(self._ints["n_rows"])

    def __iter__(self) -> Iterator[ManifestRow]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> ManifestRow:
        if not 0 <= index < len(self):
            raise IndexError(index)
        values: dict[str, Any] = {name: self._ints[name][index] for name in _INTS}
        values |= {name: self._names[self._codes[name][index]] for name in _TEXTS}
        for name in _HEXES:
            width = self._widths[name]
            values[name] = self._hexes[name][index * width : (index + 1) * width].hex()
        written = values["part_nbytes"] > 0
        values["part"] = part_name(index) if written else ""
        values["part_blake3"] = values["part_blake3"] if written else ""
        return ManifestRow(index=index, **values)

    def column(self, name: str) -> npt.NDArray[np.int64]:
        """Copy of ``first_row``, ``n_rows``, ``kept``, ``rejected`` or ``part_nbytes`` of all chunks as int64."""
        return np.array(self._ints[name], np.int64)

    def root(self) -> str:
        """The Merkle root; see ``manifest_root``."""
        return manifest_root(self)

    @property
    def nbytes(self) -> int:
        """Bytes held, without the distinct texts."""
        buffers = [*self._ints.values(), *self._codes.values()]
        return sum(b.itemsize * len(b) for b in buffers) + sum(map(len, self._hexes.values()))

    def _code(self, text: str) -> int:
        code = self._texts.get(text)
        if code is None:
            code = self._texts[text] = len(self._names)
            self._names.append(text)
        return code


def write_manifest(rows: Iterable[ManifestRow], sink: BinaryIO) -> int:
    """Write rows as Parquet, ``_BATCH_ROWS`` at a time; returns how many. ValueError if a chunk is out of order."""
    names = [field.name for field in fields(ManifestRow)]
    n, block = 0, []
    with pq.ParquetWriter(sink, MANIFEST_SCHEMA, compression="zstd", compression_level=1) as writer:
        for row in rows:
            _check_order(row, n)
            n += 1
            block.append(astuple(row))
            if len(block) == _BATCH_ROWS:
                writer.write_batch(_batch(block, names))
                block = []
        if block:
            writer.write_batch(_batch(block, names))
    return n


def read_manifest(source: BinaryIO | str) -> Iterator[ManifestRow]:
    """Rows of a manifest file, streamed.

    Raises:
        ValueError: not a manifest: another schema, broken Parquet (``pa.ArrowInvalid`` is one), chunks out of order.
    """
    with pq.ParquetFile(source) as file:
        if not file.schema_arrow.equals(MANIFEST_SCHEMA):
            raise ValueError(f"manifest: expected columns {MANIFEST_SCHEMA.names}, found {file.schema_arrow.names}")
        n = 0
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, use_threads=False):
            for values in batch.to_pylist():
                row = ManifestRow(**values)
                _check_order(row, n)
                n += 1
                yield row


def _batch(block: list[tuple[Any, ...]], names: list[str]) -> pa.RecordBatch:
    columns = zip(*block, strict=True)
    arrays = [pa.array(values, MANIFEST_SCHEMA.field(name).type) for name, values in zip(names, columns, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=MANIFEST_SCHEMA)


def _check_order(row: ManifestRow, expected: int) -> None:
    if row.index != expected:
        raise ValueError(f"manifest: expected chunk {expected}, found chunk {row.index}")
