"""The table of input formats: to add one, write its module and add a line to ``FORMATS``.

A format's module is loaded when a file needs it. This file knows names and suffixes only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    from muster.datasets.chunks import ChunkRef
    from muster.datasets.cutting import Target
    from muster.datasets.reading import ByteSource, ChunkRows
    from muster.datasets.sources import SourceFile


class FormatModule(Protocol):
    """What a format's module offers."""

    def inspect(self, file: SourceFile, source: ByteSource) -> tuple[pa.Schema, dict[str, list[str]]]:
        """Return the file's own schema and the parse options to freeze with it; reads as little as possible."""

    def plan(
        self,
        file: SourceFile,
        source: ByteSource,
        columns: Sequence[str],
        target: Target,
        limit: int | None,
        options: dict[str, list[str]],
    ) -> Iterator[ChunkRef]:
        """Yield the file's references in row order (``index`` 0; the caller numbers them)."""

    def recolumn(
        self, ref: ChunkRef, source: ByteSource, columns: Sequence[str], options: dict[str, list[str]]
    ) -> ChunkRef:
        """Return a reference to other columns of the same rows."""

    def read(
        self, ref: ChunkRef, schema: pa.Schema, source: ByteSource, positions: npt.NDArray[np.int64] | None
    ) -> ChunkRows:
        """Decode the rows of a reference, or those at these absolute positions."""


@dataclass(frozen=True, slots=True)
class FormatSpec:
    """A format: the suffixes that choose it, and the module that plans and reads it."""

    suffixes: tuple[str, ...]
    module: str


FORMATS: dict[str, FormatSpec] = {
    "parquet": FormatSpec((".parquet", ".pq"), "muster.datasets.parquet"),
    "arrow": FormatSpec((".arrow", ".feather", ".ipc", ".arrows"), "muster.datasets.arrow_ipc"),
    "jsonl": FormatSpec((".jsonl", ".ndjson", ".json"), "muster.datasets.jsonl"),
    "text": FormatSpec((), "muster.datasets.text_files"),
    "staged": FormatSpec((), "muster.datasets.staging"),
}

# Formats that are planned: named in the error, so that a user knows it is not a typo.
LATER: dict[str, tuple[str, ...]] = {
    "CSV": (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".csv.zst"),
    "images": (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff"),
}
COMPRESSED = (".gz", ".zst")
SUPPORTED = (
    "Parquet (.parquet), Arrow IPC and Feather (.arrow, .feather), JSON lines (.jsonl, .jsonl.gz, .jsonl.zst), "
    "a folder of text files"
)


def load(name: str) -> FormatModule:
    """Return the module of a format of ``FORMATS``."""
    return cast("FormatModule", import_module(FORMATS[name].module))


def format_of(name: str) -> str | None:
    """Return the format that a file name's suffix chooses, ``None`` if no data format does."""
    lower = name.lower()
    for suffix in COMPRESSED:
        if lower.endswith(suffix):
            return "jsonl" if lower.removesuffix(suffix).endswith(FORMATS["jsonl"].suffixes) else None
    return next((fmt for fmt, spec in FORMATS.items() if lower.endswith(spec.suffixes or ("\0",))), None)


def later_of(name: str) -> str | None:
    """Return the name of a planned format that a file has, e.g. ``CSV``."""
    return next((fmt for fmt, suffixes in LATER.items() if name.lower().endswith(suffixes)), None)
