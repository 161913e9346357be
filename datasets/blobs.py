"""Blobs that planning makes: file lists and staged copies, kept in the exchange under the BLAKE3 of their bytes.

Invariants: a blob appears whole under its name or not at all (written aside, then renamed) and never changes.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from muster.datasets.origins import hash_stream


@dataclass(slots=True)
class NewBlob:
    """A blob being written to ``file``; ``digest`` and ``nbytes`` are set once it is in place."""

    file: IO[bytes]
    digest: str = ""
    nbytes: int = 0


def blob_path(exchange_dir: Path, digest: str) -> Path:
    """Return where a blob lies."""
    return exchange_dir / "blobs" / digest


@contextmanager
def new_blob(exchange_dir: Path) -> Iterator[NewBlob]:
    """Write a blob; on success it is named by its digest, on any exception nothing is left."""
    folder = exchange_dir / "blobs"
    folder.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=".new-", dir=folder)
    path = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            blob = NewBlob(file)
            yield blob
            if not file.closed:
                file.flush()
                os.fsync(file.fileno())
        blob.nbytes = path.stat().st_size
        with path.open("rb", buffering=0) as written:
            blob.digest = hash_stream(written, None, blob.nbytes)
        path.replace(blob_path(exchange_dir, blob.digest))
    finally:
        path.unlink(missing_ok=True)
