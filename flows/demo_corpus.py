"""The demo's corpus: every UTF-8 text file of this interpreter's standard library and installed packages, as Parquet.

Columns: ``id`` (int64), ``path`` (string, relative), ``text`` (string). A real code dataset with many true
near-duplicates, which every machine has. Reads files only; processes nothing.

Invariants: rows are ordered by path; a file that is not UTF-8, empty or larger than ``MAX_FILE_NBYTES`` is left out;
the same installation gives the same bytes.
"""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

SUFFIXES = frozenset(
    {".py", ".pyi", ".md", ".rst", ".txt", ".c", ".h", ".toml", ".cfg", ".pyx", ".pxd", ".cpp", ".hpp"}
)
NAMES = frozenset({"METADATA", "LICENSE", "LICENCE", "COPYING", "AUTHORS", "NOTICE", "RECORD"})
MAX_FILE_NBYTES = 1 << 20
ROW_GROUP_ROWS = 400
_SCHEMA = pa.schema([("id", pa.int64()), ("path", pa.string()), ("text", pa.string())])


def build_corpus(path: Path, limit: int | None = None) -> int:
    """Write the corpus to ``path``, at most ``limit`` files of it; return the number of rows."""
    temporary = path.with_suffix(".building")
    rows = 0
    with pq.ParquetWriter(temporary, _SCHEMA, compression="zstd", compression_level=1) as writer:
        batch: list[tuple[int, str, str]] = []
        for name, text in _texts():
            batch.append((rows, name, text))
            rows += 1
            if len(batch) == ROW_GROUP_ROWS:
                writer.write_table(_table(batch))
                batch = []
            if rows == limit:
                break
        if batch:
            writer.write_table(_table(batch))
    temporary.replace(path)
    return rows


def _table(batch: list[tuple[int, str, str]]) -> pa.Table:
    ids, paths, texts = zip(*batch, strict=True)
    return pa.table([pa.array(ids, pa.int64()), pa.array(paths), pa.array(texts)], schema=_SCHEMA)


def _texts() -> Iterator[tuple[str, str]]:
    """Yield (relative path, text) in path order."""
    roots = {Path(sysconfig.get_paths()[name]) for name in ("stdlib", "purelib", "platlib")}
    for root in sorted(roots):
        for folder, folders, files in os.walk(root):
            folders[:] = sorted(f for f in folders if f not in ("__pycache__", "site-packages"))
            for file in sorted(files):
                path = Path(folder, file)
                if (path.suffix in SUFFIXES or file in NAMES) and (text := _text(path)):
                    yield f"{root.name}/{path.relative_to(root)}", text


def _text(path: Path) -> str | None:
    try:
        if not 0 < path.stat().st_size <= MAX_FILE_NBYTES:
            return None
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
