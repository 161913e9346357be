"""A big synthetic source: Parquet files of rows of about 1 kB of seeded words, as many bytes as wanted.

Used by ``memory.py`` and by the slow test of memory. Rows repeat after a block, but for their ids and a number at the
front of each text; sizes are what matters here, not content. Memory while writing is one row group.

Invariants: same arguments, same bytes; files are uncompressed, so that bytes on disk are bytes of data.
"""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

GROUP_ROWS = 8_192
FILE_NBYTES = 500_000_000
SCHEMA = pa.schema([("id", pa.int64()), ("text", pa.string())])


def write(folder: Path, nbytes: int) -> int:
    """Write at least ``nbytes`` of Parquet into ``folder``; return the bytes on disk."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(5_000)]
    block = [" ".join(rng.choices(words, k=150)) for _ in range(GROUP_ROWS)]
    folder.mkdir(parents=True)
    total = rows = 0
    while total < nbytes:
        path = folder / f"part-{len(list(folder.iterdir())):03d}.parquet"
        wanted = min(FILE_NBYTES, nbytes - total)
        with pq.ParquetWriter(path, SCHEMA, compression="none", use_dictionary=False) as writer:
            written = 0
            while written < wanted:
                table = _group(block, rows)
                writer.write_table(table, row_group_size=GROUP_ROWS)
                rows, written = rows + GROUP_ROWS, written + table.nbytes
        total += path.stat().st_size
    return total


def _group(block: list[str], first: int) -> pa.Table:
    ids = range(first, first + len(block))
    texts = pa.array([f"{number} {text}" for number, text in zip(ids, block, strict=True)], pa.string())
    return pa.table([pa.array(ids, pa.int64()), texts], schema=SCHEMA)
