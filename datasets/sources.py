"""A source: an ordered list of files of one format with one frozen schema, cut into chunk references.

It plans and serves byte ranges; decoding is ``reading.py``'s. Files are ordered by name. A file's fingerprint is
strong (content, or ETag and version); its ``version`` is the cheap token that ``check_unchanged`` compares: a local
rewrite that keeps size, modification time and inode passes that check and is only found by hashing.

Invariants: the same files give the same references; ranges served are of the files that were planned; ``to_json``
holds no credentials.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import orjson
import pyarrow as pa
from blake3 import blake3

from muster.datasets import formats
from muster.datasets.blobs import blob_path
from muster.datasets.chunks import ChunkRef, Format
from muster.datasets.cutting import Target
from muster.datasets.origins import FileBytes, LocalOrigin, Origin, Progress, open_origin
from muster.datasets.reading import ByteSource
from muster.datasets.schemas import check_columns
from muster.errors import SourceChangedError, SourceError

if TYPE_CHECKING:
    from muster.datasets.file_lists import FileList


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One origin of chunks.

    ``name``: relative to the source's root, published as ``_muster_file``; ``path``: what the origin opens;
    ``nbytes``, ``fingerprint``, ``version``: of the file as found; ``blob``, ``blob_nbytes``: the staged copy or the
    file list in the exchange that references point into instead, "" and 0 if there is none; ``plan_nbytes``: decoded
    size where it differs from what is served (staged copies), else 0.
    """

    index: int
    path: str
    name: str
    nbytes: int
    fingerprint: str
    version: str
    blob: str = ""
    blob_nbytes: int = 0
    plan_nbytes: int = 0


@dataclass(frozen=True)
class Source:
    """Files, their frozen schema, and how to read their bytes; make one with ``open_source`` or ``from_json``."""

    url: str
    format: Format
    schema: pa.Schema
    files: Sequence[SourceFile]
    options: dict[str, list[str]]
    exchange_dir: Path
    origin: Origin

    def fingerprint(self) -> str:
        """BLAKE3 (hex) over format, schema, options and each file's name and fingerprint, in order."""
        hasher = blake3(b"muster.source@1\0")
        parts = [self.format, *(f"{f.name}:{f.type}" for f in self.schema)]
        hasher.update(orjson.dumps([parts, self.options], option=orjson.OPT_SORT_KEYS))
        for file in self.files:
            hasher.update(orjson.dumps([file.name, file.fingerprint, file.nbytes]))
        return hasher.hexdigest()

    def input_schema(self, wanted: pa.Schema) -> pa.Schema:
        """Return the schema to freeze for a recipe's input columns; ``SourceError`` names what does not fit."""
        return check_columns(self.files[0].name if len(self.files) == 1 else self.url, self.schema, wanted)

    def chunks(
        self, columns: Sequence[str], *, rows_per_chunk: int | None = None, chunk_nbytes: int = 16 << 20,
        limit: int | None = None,
    ) -> Iterator[ChunkRef]:  # fmt: skip
        """Yield the references of all rows, or of the first ``limit``, in order; the same call yields the same.

        ``rows_per_chunk``: exactly that many rows each (fewer at a file's end); otherwise about ``chunk_nbytes``
        decoded bytes of the needed columns.
        """
        ordered = self._ordered(columns)
        if (rows_per_chunk is not None and rows_per_chunk < 1) or chunk_nbytes < 1:
            raise SourceError("chunk size: expected at least 1 row and at least 1 byte")
        target = Target(rows_per_chunk, chunk_nbytes)
        module = formats.load(self.format)
        index, left = 0, limit
        for file in self.files:
            if left is not None and left <= 0:
                return
            n_rows = 0
            for ref in module.plan(file, self.byte_source(file.index), ordered, target, left, self.options):
                n_rows += ref.n_rows
                yield replace(ref, index=index)
                index += 1
            left = None if left is None else left - n_rows

    def with_columns(self, ref: ChunkRef, columns: Sequence[str]) -> ChunkRef:
        """Return a reference to other columns of the same rows, e.g. passthrough columns when publishing."""
        module = formats.load(self.format)
        return module.recolumn(ref, self.byte_source(ref.file), self._ordered(columns), self.options)

    def _ordered(self, columns: Sequence[str]) -> list[str]:
        missing = [name for name in columns if self.schema.get_field_index(name) < 0]
        if missing:
            exist = ", ".join(self.schema.names[:50])
            raise SourceError(f"{self.url}: column {missing[0]}: not there", hint=f"the columns are: {exist}")
        if not columns:
            raise SourceError(f"{self.url}: expected at least one column to read")
        return [name for name in self.schema.names if name in set(columns)]

    def byte_source(self, file_index: int) -> ByteSource:
        """Return the bytes that the references of a file point into."""
        file = self.files[file_index]
        if self.format == "text":
            from muster.datasets.file_lists import FolderBytes

            return FolderBytes(self.origin, self._file_list(file))
        blob = blob_path(self.exchange_dir, file.blob)
        return FileBytes(LocalOrigin(blob), str(blob)) if file.blob else FileBytes(self.origin, file.path)

    def _file_list(self, file: SourceFile) -> FileList:
        from muster.datasets.file_lists import open_list

        return open_list(blob_path(self.exchange_dir, file.blob), blob_path(self.exchange_dir, file.version))

    def read_range(self, file_index: int, offset: int, length: int) -> bytes:
        """Return exactly these bytes of what a file's references point into."""
        return bytes(self.byte_source(file_index).read(offset, length))

    def check_unchanged(self, file_index: int) -> None:
        """Raise ``SourceChangedError`` naming the file if it is no longer the one that was planned (a cheap look)."""
        file = self.files[file_index]
        if self.format == "text":
            from muster.datasets.file_lists import check_folder

            check_folder(self.origin, self._file_list(file))
            return
        nbytes, version = self.origin.look(file.path)
        if version != file.version:
            grown = f"expected {file.nbytes} bytes, found {nbytes}"
            what = grown if nbytes != file.nbytes else "of the same size, but written again since it was planned"
            raise SourceChangedError(
                f"{file.name}: the source changed under the running job: {what}",
                hint="run the job again: it is planned anew and keeps what is still valid",
            )

    def to_json(self) -> str:
        """Return what ``from_json`` needs, without credentials."""
        return orjson.dumps(
            {
                "v": 1,
                "url": self.url,
                "format": self.format,
                "schema": base64.b64encode(self.schema.serialize().to_pybytes()).decode(),
                "options": self.options,
                "files": [astuple(file) for file in self.files],
            }
        ).decode()

    @staticmethod
    def from_json(text: str, *, exchange_dir: Path, storage_options: Mapping[str, Any] | None = None) -> Source:
        """Rebuild a source from our own registry; nothing is listed, hashed or opened."""
        raw = orjson.loads(text)
        if raw.get("v") != 1:
            raise SourceError(f"stored source: expected version 1, found {raw.get('v')}")
        return Source(
            url=raw["url"],
            format=cast("Format", raw["format"]),
            schema=pa.ipc.read_schema(pa.py_buffer(base64.b64decode(raw["schema"]))),
            files=[SourceFile(*fields) for fields in raw["files"]],
            options=raw["options"],
            exchange_dir=exchange_dir,
            origin=open_origin(raw["url"], storage_options),
        )


def open_source(
    url: str, *, exchange_dir: Path, storage_options: Mapping[str, Any] | None = None,
    on_progress: Progress | None = None,
) -> Source:  # fmt: skip
    """List, fingerprint and check the files of a path, folder, glob or fsspec URL, and freeze their schema.

    File lists and staged copies are written to ``exchange_dir``. ``on_progress(file, done, total)`` is called while
    hashing (bytes). Raises ``SourceError``: nothing there, empty, corrupt, formats or schemas mixed, not supported.
    """
    from muster.datasets.opening import gather

    return gather(url, exchange_dir, open_origin(url, storage_options), on_progress)
