"""File lists: the names, sizes and fingerprints of a folder of text files, and the virtual file they describe.

The virtual file is the list blob followed by the contents of all files that are not too big, in list order, so that
one (offset, length) range can name the bytes of many files. It does not plan or decode (``text_files.py``).

Invariants: files are ordered by name (bytes); the list is written streaming and read by batches; its fingerprint
hashes every name, size and fingerprint and does not depend on Arrow's layout; the list blob's layout depends on names
and sizes alone, because versions (modification times) stay at home in a second blob.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from blake3 import blake3

from muster.datasets.blobs import new_blob
from muster.datasets.origins import Found, LocalOrigin, Origin, Progress
from muster.datasets.sources import SourceFile
from muster.datasets.text_files import BATCH_ROWS, served_nbytes
from muster.errors import SourceChangedError, SourceError

SUFFIXES = (
    ".txt", ".text", ".md", ".rst", ".tex", ".org", ".adoc", ".log", ".html", ".htm", ".xml", ".css", ".json", ".yaml",
    ".yml", ".toml", ".ini", ".cfg", ".py", ".pyi", ".pyx", ".ipynb", ".c", ".h", ".cc", ".cpp", ".hpp", ".cu", ".cuh",
    ".rs", ".go", ".java", ".kt", ".scala", ".js", ".jsx", ".ts", ".tsx", ".rb", ".php", ".pl", ".lua", ".r", ".jl",
    ".swift", ".m", ".cs", ".hs", ".ml", ".sh", ".bash", ".sql", ".f90", ".f", ".tcl", ".cmake",
)  # fmt: skip
NAMES = frozenset({"README", "LICENSE", "LICENCE", "METADATA", "NOTICE", "COPYING", "AUTHORS", "CHANGELOG", "Makefile"})
LIST_SCHEMA = pa.schema([("path", pa.binary()), ("nbytes", pa.int64()), ("fingerprint", pa.string())])
_VERSIONS = pa.schema([("path", pa.binary()), ("version", pa.string())])


def is_text(name: str) -> bool:
    """Say whether a file belongs into a folder of text files."""
    base = name.rpartition("/")[2]
    return base in NAMES or base.lower().endswith(SUFFIXES)


def list_folder(url: str, origin: Origin, exchange_dir: Path, on_progress: Progress | None) -> SourceFile:
    """Hash every text file and write the list; ``SourceError`` if there is none.

    Of the returned file, ``blob`` is the list and ``version`` the blob of versions.
    """
    hasher = blake3(b"muster.files@1\0")
    n_files = nbytes = 0
    with (
        new_blob(exchange_dir) as listed,
        new_blob(exchange_dir) as versions,
        pa.ipc.new_file(listed.file, LIST_SCHEMA) as lists,
        pa.ipc.new_file(versions.file, _VERSIONS) as homes,
    ):
        batch: list[tuple[Found, str]] = []
        for found in origin.find():
            if not is_text(found.name):
                continue
            batch.append((found, origin.fingerprint(found, on_progress)))
            n_files += 1
            nbytes += found.nbytes
            if len(batch) == BATCH_ROWS:
                _write(batch, lists, homes, hasher)
                batch = []
        _write(batch, lists, homes, hasher)
    if n_files == 0:
        raise SourceError(f"{url}: expected text files, found none")
    name = url.rstrip("/").rpartition("/")[2] or url
    return SourceFile(0, url, name, nbytes, hasher.hexdigest(), versions.digest, listed.digest, listed.nbytes)


def _write(
    batch: list[tuple[Found, str]], lists: pa.RecordBatchFileWriter, homes: pa.RecordBatchFileWriter, hasher: blake3
) -> None:
    if not batch:
        return
    names = [os.fsencode(found.name) for found, _ in batch]
    for name, (found, fingerprint) in zip(names, batch, strict=True):
        hasher.update(len(name).to_bytes(4, "little") + name + f"{found.nbytes} {fingerprint}\n".encode())
    sizes, fingerprints = [found.nbytes for found, _ in batch], [fingerprint for _, fingerprint in batch]
    lists.write_batch(_batch(LIST_SCHEMA, names, sizes, fingerprints))
    paths, versions = [os.fsencode(found.path) for found, _ in batch], [found.version for found, _ in batch]
    homes.write_batch(_batch(_VERSIONS, paths, versions))


def _batch(schema: pa.Schema, *columns: list[Any]) -> pa.RecordBatch:
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.record_batch(arrays, schema=schema)


class FileList:
    """A list blob and its versions: 8 bytes a file in memory, the rest is mapped."""

    def __init__(self, path: Path, versions: Path) -> None:
        self.path = path
        self.nbytes = path.stat().st_size
        self._homes = pa.ipc.open_file(pa.memory_map(str(versions)))
        with pa.memory_map(str(path)) as mapped:
            sizes = pa.ipc.open_file(mapped).read_all().column("nbytes").to_numpy()
        self.starts: npt.NDArray[np.int64] = np.zeros(len(sizes) + 1, dtype=np.int64)
        np.cumsum(served_nbytes(sizes), out=self.starts[1:])

    def __len__(self) -> int:
        return len(self.starts) - 1

    def homes(self, first: int, last: int) -> Iterator[tuple[str, str]]:
        """Yield (path to open, version when listed) of files ``[first, last)``."""
        for k in range(first // BATCH_ROWS, -(-last // BATCH_ROWS)):
            batch = self._homes.get_batch(k)
            start = k * BATCH_ROWS
            part = batch.slice(max(first - start, 0), min(last - start, BATCH_ROWS) - max(first - start, 0))
            for path, version in zip(part.column(0).to_pylist(), part.column(1).to_pylist(), strict=True):
                yield os.fsdecode(path), version


@lru_cache(maxsize=4)
def open_list(path: Path, versions: Path) -> FileList:
    """Return a file list; blobs never change, so it may be kept."""
    return FileList(path, versions)


@dataclass(frozen=True, slots=True)
class FolderBytes:
    """The virtual file as a ``ByteSource``: the list blob, then the contents."""

    origin: Origin
    files: FileList

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes; a local file that changed since it was listed raises."""
        parts = []
        in_list = min(max(self.files.nbytes - offset, 0), length)
        if in_list:
            with self.files.path.open("rb") as blob:
                blob.seek(offset)
                parts.append(blob.read(in_list))
        start, end = offset + in_list - self.files.nbytes, offset + length - self.files.nbytes
        starts = self.files.starts
        if end > starts[-1] or offset < 0:
            raise SourceError(
                f"bytes [{offset}, {offset + length}): outside the folder's {self.files.nbytes + starts[-1]}"
            )
        if start < end:
            first = int(np.searchsorted(starts, start, side="right")) - 1
            last = int(np.searchsorted(starts, end, side="left"))
            for k, (path, version) in enumerate(self.files.homes(first, last), start=first):
                begin, stop = max(start, int(starts[k])), min(end, int(starts[k + 1]))
                if begin < stop:
                    _check(self.origin, path, version)
                    parts.append(self.origin.read(path, begin - int(starts[k]), stop - begin))
        return b"".join(parts)


def _check(origin: Origin, path: str, version: str) -> None:
    if isinstance(origin, LocalOrigin) and origin.look(path)[1] != version:
        raise SourceChangedError(
            f"{path}: the source changed under the running job: it is not the file that was listed"
        )


def check_folder(origin: Origin, files: FileList) -> None:
    """Raise ``SourceChangedError`` naming the first file that is not as it was listed; looks at every file."""
    for path, version in files.homes(0, len(files)):
        if origin.look(path)[1] != version:
            raise SourceChangedError(
                f"{path}: the source changed under the running job: expected version {version}",
                hint="run the job again: it is planned anew and keeps what is still valid",
            )
