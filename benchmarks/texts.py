"""The benchmarks' texts: what the interpreter has on disk, as Parquet of paragraphs or of whole documents.

``paragraphs``: blocks of text between blank lines, one row each; ``documents``: whole files. If the machine has too
little text, later passes take the same files with an eighth of each document's space-separated words exchanged for one
another (seeded by pass and file), so that rows differ and the words stay real; ``Corpus.mutated_share`` says how much
of the bytes that is. Does NOT filter by quality or language; most of it is source code.

Invariants: the same installation gives the same bytes; files are UTF-8, not empty, at most 1 MiB; a corpus that is
there already is not built again.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sysconfig
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

Kind = Literal["paragraphs", "documents"]
SUFFIXES = frozenset(
    {".py", ".pyi", ".md", ".rst", ".txt", ".c", ".h", ".hpp", ".cpp", ".pyx", ".pxd"}
    | {".js", ".css", ".html", ".json", ".toml", ".cfg"}
)
NAMES = frozenset({"METADATA", "LICENSE", "LICENCE", "COPYING", "AUTHORS", "NOTICE"})
MAX_FILE_NBYTES = 1 << 20
N_FILES = 8
SCHEMA = pa.schema([("id", pa.int64()), ("text", pa.string())])


@dataclass(frozen=True, slots=True)
class Corpus:
    """A corpus on disk."""

    folder: str
    rows: int
    text_nbytes: int
    file_nbytes: int
    n_files: int
    group_rows: int
    mutated_share: float

    def __str__(self) -> str:
        mutated = f", {self.mutated_share:.0%} of it words exchanged" if self.mutated_share else ", none mutated"
        return (
            f"{self.rows:,} rows, {self.text_nbytes / 1e6:.1f} MB of text{mutated}; {self.n_files} Parquet files (zstd)"
            f" of {self.file_nbytes / 1e6:.1f} MB, row groups of {self.group_rows:,} rows"
        )


def build(folder: Path, kind: Kind, *, min_rows: int, min_nbytes: int, group_rows: int) -> Corpus:
    """Return the corpus in ``folder``, building it first if need be: at least that many rows and bytes of text."""
    wanted = {"kind": kind, "min_rows": min_rows, "min_nbytes": min_nbytes, "group_rows": group_rows}
    note = folder.with_suffix(".json")
    if note.exists():
        found = json.loads(note.read_text())
        if found["wanted"] == wanted:
            return Corpus(**found["corpus"])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    writer = _Writer(folder, group_rows, max(min_rows // N_FILES, group_rows))
    mutated = 0
    for number, text in _texts():
        before = writer.nbytes
        writer.add(_paragraphs(text) if kind == "paragraphs" else [text])
        mutated += writer.nbytes - before if number else 0
        if writer.rows >= min_rows and writer.nbytes >= min_nbytes:
            break
    corpus = writer.close(mutated)
    note.write_text(json.dumps({"wanted": wanted, "corpus": asdict(corpus)}))
    return corpus


class _Writer:
    """Writes rows to numbered files of about equal numbers of rows, whole row groups each."""

    def __init__(self, folder: Path, group_rows: int, file_rows: int) -> None:
        self.folder, self.group_rows = folder, group_rows
        self.file_rows = -(-file_rows // group_rows) * group_rows
        self.rows = self.nbytes = 0
        self._buffer: list[str] = []
        self._file: pq.ParquetWriter | None = None
        self._in_file = self._n_files = self._written = 0

    def add(self, texts: list[str]) -> None:
        self._buffer += texts
        self.rows += len(texts)
        self.nbytes += sum(len(text.encode()) for text in texts)
        while len(self._buffer) >= self.group_rows:
            self._group(self._buffer[: self.group_rows])
            del self._buffer[: self.group_rows]

    def _group(self, texts: list[str]) -> None:
        if self._file is None:
            path = self.folder / f"texts-{self._n_files:03d}.parquet"
            self._file = pq.ParquetWriter(path, SCHEMA, compression="zstd", compression_level=3)
            self._n_files, self._in_file = self._n_files + 1, 0
        ids = pa.array(range(self._written, self._written + len(texts)), pa.int64())
        self._file.write_table(pa.table([ids, pa.array(texts, pa.string())], schema=SCHEMA), row_group_size=len(texts))
        self._written += len(texts)
        self._in_file += len(texts)
        if self._in_file >= self.file_rows:
            self._file.close()
            self._file = None

    def close(self, mutated_nbytes: int) -> Corpus:
        if self._buffer:
            self._group(self._buffer)
        if self._file is not None:
            self._file.close()
        size = sum(path.stat().st_size for path in self.folder.iterdir())
        share = mutated_nbytes / max(1, self.nbytes)
        return Corpus(str(self.folder), self.rows, self.nbytes, size, self._n_files, self.group_rows, share)


def _paragraphs(text: str) -> list[str]:
    return [stripped for block in text.split("\n\n") if (stripped := block.strip("\n"))]


def _texts() -> Iterator[tuple[int, str]]:
    """Yield (pass, text) without end; files in an order that mixes packages, the same on every run."""
    roots = {Path(sysconfig.get_paths()[name]) for name in ("stdlib", "purelib", "platlib")}
    found: set[Path] = set()
    for root in roots:
        for folder, folders, files in os.walk(root):
            folders[:] = [name for name in folders if name != "__pycache__"]
            found.update(Path(folder, name) for name in files if name in NAMES or Path(name).suffix in SUFFIXES)
    paths = sorted(found)
    random.Random(0).shuffle(paths)
    number = 0
    while True:
        for i, path in enumerate(paths):
            if (text := _read(path)) is not None:
                yield number, text if number == 0 else _mutated(text, f"{number}:{i}")
        number += 1


def _read(path: Path) -> str | None:
    try:
        if not 0 < path.stat().st_size <= MAX_FILE_NBYTES:
            return None
        return path.read_text(encoding="utf-8") or None
    except (OSError, UnicodeDecodeError):
        return None


def _mutated(text: str, seed: str) -> str:
    words = text.split(" ")
    draw = random.Random(seed).random
    for _ in range(len(words) // 8):
        i, j = int(draw() * len(words)), int(draw() * len(words))
        words[i], words[j] = words[j], words[i]
    return " ".join(words)
