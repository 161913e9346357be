"""The exchange: the folder behind the gateway that holds uploads and accepted results.

What it does: takes uploads under their attempt's id while counting and hashing them, and takes accepted files from
intake. Areas: ``uploads/`` and ``accepted/``; ``blobs/`` beside them is planning's (``blobs``).
What it does not do: parse what it holds, decide who may write, or speak HTTP (the gateway does).

Invariants: a file appears under its final name whole or not at all; a final name is never written twice; names are
checked, so that no name leaves its area; nothing is held in memory beyond one piece of a stream.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from blake3 import blake3

from muster.errors import PoolError

Area = Literal["uploads", "accepted"]
_AREAS: tuple[Area, ...] = ("uploads", "accepted")
_NAME = re.compile(r"[0-9A-Za-z](?:[0-9A-Za-z_-]|\.(?!\.)){0,119}")
_TEMPORARY = ".tmp-"
_PIECE_NBYTES = 1 << 20


class UploadRefusedError(PoolError):
    """An upload that can't be taken. ``kind``: ``too-big``, ``wrong-digest`` or ``exists``."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind

    def __reduce__(self) -> tuple[object, ...]:
        return (UploadRefusedError, (self.kind, self.message))


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A whole file in the exchange."""

    path: Path
    nbytes: int
    blake3: str


class PendingFile:
    """A file that is being written under a temporary name; ``commit`` gives it its final one."""

    def __init__(self, target: Path, max_nbytes: int) -> None:
        self._target, self._max_nbytes = target, max_nbytes
        target.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = target.parent / f"{_TEMPORARY}{os.urandom(12).hex()}"
        self.file: BinaryIO = self._temporary.open("xb")
        self._hash, self._nbytes = blake3(), 0

    def write(self, piece: bytes | memoryview) -> None:
        """Append; UploadRefusedError ``too-big`` as soon as the limit is passed (the piece is then not written)."""
        self._nbytes += len(piece)
        if self._nbytes > self._max_nbytes:
            raise UploadRefusedError("too-big", f"{self._target.name}: more than {self._max_nbytes} bytes")
        self._hash.update(piece)
        self.file.write(piece)

    def commit(self, expected_blake3: str | None = None) -> StoredFile:
        """Give the whole file its name.

        Raises:
            UploadRefusedError: ``wrong-digest`` if its blake3 is not the expected one, ``exists`` if the name is taken
                (what has it is left as it is). The temporary file is gone in both cases.
        """
        digest = str(self._hash.hexdigest())
        try:
            if expected_blake3 is not None and digest != expected_blake3:
                text = f"{self._target.name}: expected blake3 {expected_blake3[:64]}, found {digest}"
                raise UploadRefusedError("wrong-digest", text)
            self.file.close()
            _rename_new(self._temporary, self._target)
        except FileExistsError:
            raise UploadRefusedError("exists", f"{self._target.name}: already there, never overwritten") from None
        finally:
            self.abort()
        return StoredFile(self._target, self._nbytes, digest)

    def abort(self) -> None:
        """Forget the file; harmless after ``commit``."""
        self.file.close()
        self._temporary.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class PendingAccepted:
    """Two temporary files that intake writes an attempt's kept rows and rejects to (it is handed their descriptors)."""

    kept: Path
    rejects: Path


class Exchange:
    """A local exchange folder; made if it is not there."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        for area in _AREAS:
            (self.root / area).mkdir(parents=True, exist_ok=True)

    def begin_upload(self, attempt: str, max_nbytes: int) -> PendingFile:
        """Start taking the upload of an attempt; UploadRefusedError ``exists`` if a whole one is there."""
        target = self._path("uploads", attempt)
        if target.exists():
            raise UploadRefusedError("exists", f"{attempt}: already uploaded")
        return PendingFile(target, max_nbytes)

    def has_upload(self, attempt: str) -> bool:
        """Whether the attempt's upload is there, whole."""
        return self._path("uploads", attempt).exists()

    def upload_path(self, attempt: str) -> Path:
        """Path of a whole upload; PoolError if there is none."""
        return _existing(self._path("uploads", attempt))

    def remove_upload(self, attempt: str) -> None:
        """Forget an upload (intake has answered); harmless if it is gone."""
        self._path("uploads", attempt).unlink(missing_ok=True)

    @contextlib.contextmanager
    def begin_accepted(self, attempt: str) -> Iterator[PendingAccepted]:
        """Two fresh empty files for intake's output; gone at the end unless ``commit_accepted`` renamed them."""
        base = self._path("accepted", attempt).parent
        base.mkdir(parents=True, exist_ok=True)
        mark = os.urandom(12).hex()
        pending = PendingAccepted(base / f"{_TEMPORARY}{mark}.kept", base / f"{_TEMPORARY}{mark}.rejects")
        try:
            for path in (pending.kept, pending.rejects):
                path.touch(exist_ok=False)
            yield pending
        finally:
            for path in (pending.kept, pending.rejects):
                path.unlink(missing_ok=True)

    def commit_accepted(self, attempt: str, pending: PendingAccepted) -> tuple[Path, Path | None]:
        """Name an attempt's accepted files; returns kept and, if any row was rejected, rejects.

        The files are flushed to disk first: the registry will say that they are there. Doing it again after a crash
        between the two renames completes it.

        Raises:
            UploadRefusedError: ``exists``, if the attempt has accepted files already.
        """
        kept, rejects = self._accepted(attempt)
        try:
            for path in (pending.rejects, pending.kept):
                with path.open("rb+") as file:
                    os.fsync(file.fileno())
            if pending.rejects.stat().st_size:
                if not kept.exists():
                    rejects.unlink(missing_ok=True)
                _rename_new(pending.rejects, rejects)
            _rename_new(pending.kept, kept)
        except FileExistsError:
            raise UploadRefusedError("exists", f"{attempt}: already accepted, never overwritten") from None
        return kept, rejects if rejects.exists() else None

    def accepted_paths(self, attempt: str) -> tuple[Path, Path | None]:
        """Kept and rejects (None without rejects) of an accepted attempt; PoolError if it has none."""
        kept, rejects = self._accepted(attempt)
        return _existing(kept), rejects if rejects.exists() else None

    def sweep(self, older_than_s: float) -> int:
        """Remove temporary files that a crash left behind, older than that; returns how many."""
        limit, removed = time.time() - older_than_s, 0
        for path in self.root.glob(f"*/*/{_TEMPORARY}*"):
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < limit:
                    path.unlink()
                    removed += 1
        return removed

    def _accepted(self, attempt: str) -> tuple[Path, Path]:
        return self._path("accepted", f"{attempt}.parquet"), self._path("accepted", f"{attempt}.rejects.parquet")

    def _path(self, area: Area, name: str) -> Path:
        """Path of a name in an area, spread over folders by its first two characters; PoolError for bad names."""
        if not _NAME.fullmatch(name):
            raise PoolError(f"not a name in the exchange: {name[:100]!r}")
        return self.root / area / name[:2].rstrip(".").lower() / name


def file_blake3(path: Path) -> str:
    """Blake3 hex of a file, read piece by piece."""
    digest = blake3()
    with path.open("rb") as file:
        while piece := file.read(_PIECE_NBYTES):
            digest.update(piece)
    return str(digest.hexdigest())


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise PoolError(f"{path.name}: not in the exchange")
    return path


def _rename_new(source: Path, target: Path) -> None:
    """Rename that never replaces: a hard link fails if the name is taken (a rename would replace it on POSIX)."""
    os.link(source, target)
    source.unlink()
