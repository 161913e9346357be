"""Finished work on a volunteer's disk: encoded results that wait for their upload.

What it does not do: upload, or trust what it finds (a file counts only with the digest in its name).

Invariants: a result is in the folder whole or not at all; at most ``max_nbytes`` and ``max_age_s`` of it are kept, the
oldest go first; names say unit, recipe build and digest, so that another build of a kernel never reuses them.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import blake3

MAX_NBYTES = 4 << 30
MAX_AGE_S = 7 * 86400.0
_NAME = re.compile(r"([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{64})\.arrow")


@dataclass(frozen=True, slots=True)
class Finished:
    """An encoded result: its file and the blake3 digest (hex) of the file's bytes."""

    path: Path
    blake3_hex: str


class SupportsBuffer(Protocol):
    """Bytes, or an Arrow buffer."""

    def __buffer__(self, flags: int, /) -> memoryview:
        """Return a view of the bytes."""


class Spool:
    """A folder of finished results."""

    def __init__(self, folder: Path, *, max_nbytes: int = MAX_NBYTES, max_age_s: float = MAX_AGE_S) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._max_nbytes = max_nbytes
        self._max_age_s = max_age_s
        self._lock = threading.Lock()
        for partial in folder.glob(".*"):  # what a killed process left half-written
            partial.unlink(missing_ok=True)
        self._prune()

    def put(self, unit: str, identity: str, payload: SupportsBuffer | bytes) -> Finished:
        """Keep the encoded result of ``unit`` (32 hex digits), made by the recipe build ``identity`` (hex)."""
        digest = str(blake3.blake3(payload, max_threads=1).hexdigest())
        path = self._folder / f"{unit}-{identity[:16]}-{digest}.arrow"
        partial = self._folder / f".{secrets.token_hex(8)}"
        try:
            with partial.open("wb") as file:
                file.write(payload)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        self._prune()
        return Finished(path, digest)

    def find(self, unit: str, identity: str) -> Finished | None:
        """The kept result of this unit by this recipe build, if its bytes are intact."""
        for path in sorted(self._folder.glob(f"{unit}-{identity[:16]}-*.arrow")):
            match = _NAME.fullmatch(path.name)
            if match is not None:
                with contextlib.suppress(OSError):
                    if blake3.blake3(path.read_bytes()).hexdigest() == match[3]:
                        return Finished(path, match[3])
                path.unlink(missing_ok=True)
        return None

    def drop(self, finished: Finished) -> None:
        """Forget a result; doing it again is harmless."""
        finished.path.unlink(missing_ok=True)

    def _prune(self) -> None:
        with self._lock:
            kept = []
            for path in self._folder.glob("*.arrow"):
                with contextlib.suppress(OSError):
                    stat = path.stat()
                    kept.append((stat.st_mtime, stat.st_size, path))
            kept.sort(key=lambda entry: entry[0], reverse=True)
            total, oldest_s = 0, time.time() - self._max_age_s
            for n, (at_s, nbytes, path) in enumerate(kept):
                total += nbytes
                if n > 0 and (total > self._max_nbytes or at_s < oldest_s):  # the newest is about to be sent
                    path.unlink(missing_ok=True)
