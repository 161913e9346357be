"""A job's source as the gateway serves it: byte ranges, and a look at whether the file is still the planned one.

What it does not do: cache bytes, or know who asks.

Invariants: bytes are handed out only if the file was the planned one at a look that is at most ``LOOK_EVERY_S`` (or
fifty times the duration of a look, where looking is slow) older than the read; safe from any thread.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Protocol

from muster.errors import SourceError

LOOK_EVERY_S = 1.0
_LOOK_SHARE = 50  # looking takes at most a fiftieth of the time


class RangeSource(Protocol):
    """The part of ``datasets.sources.Source`` that is served."""

    def read_range(self, file_index: int, offset: int, length: int) -> bytes:
        """Exactly these bytes."""
        ...

    def check_unchanged(self, file_index: int) -> None:
        """Raise SourceChangedError if the file is no longer the planned one."""
        ...


class ServedSource:
    """One job's source."""

    def __init__(self, source: RangeSource) -> None:
        self._source = source
        self._next_look_s: dict[int, float] = {}

    def read(self, file: int, offset: int, length: int) -> bytes:
        """Exactly these bytes of a file; blocks.

        Raises:
            SourceChangedError: it is another version now. SourceError: it can't be read.
        """
        try:
            data = self._source.read_range(file, offset, length)
        except SourceError:
            self._source.check_unchanged(file)  # a file that was cut or removed is another version, not a bad disk
            raise
        now_s = time.monotonic()
        if now_s >= self._next_look_s.get(file, 0.0):
            self._source.check_unchanged(file)
            took_s = time.monotonic() - now_s
            self._next_look_s[file] = now_s + max(LOOK_EVERY_S, _LOOK_SHARE * took_s)
        return data


def load_source(text: str, exchange_dir: Path, storage_options: dict[str, str]) -> ServedSource:
    """The source that a job stored as JSON, with the options of its file system (credentials, an endpoint …).

    Raises:
        SourceError: it can't be opened.
    """
    from muster.datasets.sources import Source  # pyarrow and fsspec: only once somebody reads

    return ServedSource(Source.from_json(text, exchange_dir=exchange_dir, storage_options=storage_options or None))
