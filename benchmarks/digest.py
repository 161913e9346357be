"""Canonical digest and intake's work on a result: GB/s and CPU seconds per million rows, one thread.

What it does: times ``table_digest`` on a string column, a nullable int64 column and others; then decode, check, digest
and write of a result table like MinHash + quality returns (14 random uint64, 30 small int32, one string column), and
the Parquet options that were considered for parts.
What it does not do: compare with other systems (``overhead.py`` does).

Invariants: CPU time of this process (not wall time), best of ``--repeat``; fixed seeds.

Run: ``python benchmarks/digest.py [--repeat 9] [--out benchmarks/results/digest.md]``
"""

from __future__ import annotations

import argparse
import datetime
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from blake3 import blake3

from muster.datasets.digest import table_digest
from muster.datasets.parts import parquet_options, published_rows
from muster.datasets.results import decode_ipc_bounded, encode_ipc, result_schema, validate_result, write_accepted

RESULT_ROWS = 33_333


@dataclass(frozen=True)
class Rows:
    """The rows of one chunk."""

    first_row: int
    n_rows: int


def cpu_s(call: Callable[[], object], repeat: int) -> float:
    """Best CPU time of ``repeat`` calls, seconds."""
    best = float("inf")
    for _ in range(repeat):
        start = time.process_time()
        call()
        best = min(best, time.process_time() - start)
    return best


def digest_columns() -> dict[str, pa.Array]:
    """Columns of 60 to 110 MB."""
    rng = np.random.default_rng(0)
    n = 8_000_000
    integers = rng.integers(0, 2**62, n)
    null = rng.random(n) < 0.1
    texts = ["abcdefghij" * 13] * 800_000
    return {
        "string (130 bytes a row)": pa.array(texts),
        "string, 10 % null": pa.array([None if i % 10 == 0 else text for i, text in enumerate(texts)]),
        "int64, 10 % null, sliced": pa.array(integers, mask=null).slice(3),
        "int64": pa.array(integers),
        "float64": pa.array(rng.random(n)),
        "dictionary<int32, string>": pa.array(texts).dictionary_encode(),
    }


def result_table(*, rejects: bool) -> pa.Table:
    """A result of one chunk; every 1000th row rejected if asked."""
    rng = np.random.default_rng(1)
    n = RESULT_ROWS
    mask = np.arange(n) % 1000 == 0 if rejects else np.zeros(n, bool)
    columns: dict[str, pa.Array] = {
        "position": pa.array(np.arange(n)),
        "reject": pa.array(np.array(["invalid UTF-8"] * n), mask=~mask),
    }
    for i in range(14):
        columns[f"minhash_b{i:02}"] = pa.array(rng.integers(0, 2**63, n).astype(np.uint64), mask=mask)
    for i in range(30):
        columns[f"quality_{i:02}"] = pa.array((rng.zipf(1.5, n) % 1000).astype(np.int32), mask=mask)
    columns["language"] = pa.array(np.array(["en", "de", "fr"])[rng.integers(0, 3, n)], mask=mask)
    output = pa.schema([(name, column.type) for name, column in list(columns.items())[2:]])
    return pa.table(columns, schema=result_schema(output))


def digest_lines(repeat: int) -> list[str]:
    """Table of digest speeds."""
    lines = ["| column | MB | GB/s |", "|---|---|---|"]
    raw = np.random.default_rng(0).integers(0, 256, 64 << 20, dtype=np.uint8)
    best = cpu_s(lambda: blake3(raw.data).digest(), repeat)
    lines.append(f"| (blake3 itself, 64 MiB) | {raw.nbytes / 1e6:.0f} | {raw.nbytes / best / 1e9:.2f} |")
    for name, column in digest_columns().items():
        table = pa.table({"x": column})
        nbytes = table.nbytes if not pa.types.is_dictionary(column.type) else 800_000 * 134
        best = cpu_s(lambda table=table: table_digest(table), repeat)  # type: ignore[misc]
        lines.append(f"| {name} | {nbytes / 1e6:.0f} | {nbytes / best / 1e9:.2f} |")
    return lines


def intake_lines(repeat: int) -> list[str]:
    """Table of intake's CPU per million rows, step by step."""
    lines = ["| step (s CPU per million rows) | no rejects | 0.1 % rejects |", "|---|---|---|"]
    steps: dict[str, list[float]] = {}
    for rejects in (False, True):
        table = result_table(rejects=rejects)
        ref, schema = Rows(0, RESULT_ROWS), table.schema
        data = encode_ipc(table)
        calls: dict[str, Callable[[], object]] = {
            "decode, bounded": lambda: decode_ipc_bounded(data, schema, RESULT_ROWS, 1 << 30),  # noqa: B023
            "validate": lambda: validate_result(table, ref, schema),  # noqa: B023
            "digest": lambda: table_digest(table),  # noqa: B023
            "write part and rejects (digest included)": lambda: write_once(table, ref),  # noqa: B023
        }
        for name, call in calls.items():
            steps.setdefault(name, []).append(cpu_s(call, repeat) * 1e6 / RESULT_ROWS)
    lines += [f"| {name} | {a:.3f} | {b:.3f} |" for name, (a, b) in steps.items()]
    a, b = (sum(v[i] for k, v in steps.items() if k != "digest") for i in (0, 1))
    return [*lines, f"| **total** (goal 1.2) | **{a:.3f}** | **{b:.3f}** |"]


def write_once(table: pa.Table, ref: Rows) -> None:
    """Write one accepted result into a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        write_accepted(table, ref, "corpus.parquet", Path(folder, "kept"), Path(folder, "rejects"))


def parquet_lines(repeat: int) -> list[str]:
    """Table of Parquet options for parts."""
    table = published_rows(result_table(rejects=False), "corpus.parquet")
    own = parquet_options(table.schema)
    base: dict[str, Any] = {"use_dictionary": ["_muster_file"], "write_statistics": ["_muster_position"]}
    hashes = {name: "none" if "minhash" in name else "lz4" for name in table.column_names}
    variants: dict[str, dict[str, Any]] = {
        "**parts** (deltas on small integers, zstd on strings)": own,
        "Arrow's defaults": {},
        "no compression": {**base, "compression": "none"},
        "no compression, all statistics": {**base, "compression": "none", "write_statistics": True},
        "lz4, hashes plain": {**base, "compression": hashes},
        "zstd level 1": {**base, "compression": "zstd", "compression_level": 1},
        "dictionaries, no compression": {"compression": "none", "write_statistics": ["_muster_position"]},
    }
    lines = ["| Parquet options | write, s per million rows | read | MB per million rows |", "|---|---|---|---|"]
    for name, options in variants.items():
        data = parquet(table, options)
        write = cpu_s(lambda options=options: parquet(table, options), repeat) * 1e6 / RESULT_ROWS  # type: ignore[misc]
        read = cpu_s(lambda data=data: pq.read_table(pa.BufferReader(data), use_threads=False), repeat)  # type: ignore[misc]
        size = data.size / RESULT_ROWS
        lines.append(f"| {name} | {write:.3f} | {read * 1e6 / RESULT_ROWS:.3f} | {size:.0f} |")
    return lines


def parquet(table: pa.Table, options: dict[str, Any]) -> pa.Buffer:
    """The table as one Parquet file."""
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema, **options) as writer:
        writer.write_table(table, row_group_size=1 << 14)
    return sink.getvalue()


def cpu_name() -> str:
    """The processor's name, where Linux tells it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    values = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    family = f"family {values['cpu family']} model {values['model']}" if "cpu family" in values else ""
    return f"{values.get('model name', platform.machine())} {family}".strip()


def main() -> None:
    """Run and print, or write with ``--out``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    head = [
        "# Canonical digest and intake",
        "",
        f"`python benchmarks/digest.py --repeat {args.repeat}`, {datetime.datetime.now(datetime.UTC).date()},",
        f"{cpu_name()}, Python {platform.python_version()}, pyarrow {pa.__version__}, numpy {np.__version__}.",
        "One thread, CPU time, best run; the machine was shared, so figures may be low.",
        "",
        "Goals: 4 GB/s on a string column, 2 GB/s on a nullable int64 column; 1.2 s for intake of a million rows.",
        "",
    ]
    tables = [digest_lines(args.repeat), intake_lines(args.repeat), parquet_lines(args.repeat)]
    text = "\n".join([*head, *("\n".join([*lines, ""]) for lines in tables)])
    if args.out is None:
        print(text)
    else:
        args.out.write_text(text)


if __name__ == "__main__":
    main()
