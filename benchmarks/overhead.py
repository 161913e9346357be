"""What verification and distrust cost in whole jobs: plain Dask (A), Muster's embedded pool (B), ``--pool local`` (C).

Real text on two compute processes of one thread each, A B C A B C …, each run in a process of its own with a fresh
pool folder, files in the page cache and compiled kernels in the compile cache; one run of each before any that counts.
Parts: ``paragraphs`` (a million short rows), ``documents`` (whole files), both with text.quality@1 and text.minhash@1,
and ``spin`` (bench.spin@1, a second of CPU for each MB), B and C only. Outputs must be equal: the canonical digest of
the kernel columns in the order of file and position.

Wall starts when the cluster or pool can compute (A: kernels loaded on both workers; B: pool open, volunteers
registered; C: fork server warm) and ends when all is written (A) or published (B, C); planning is inside. See
``one_job.py``. Leverage is C's CPU seconds / all of B's trusted CPU seconds. It does NOT measure networks: all is on
one machine, where B's volunteers share the cores with the trusted side.

Run: ``python benchmarks/overhead.py [--parts paragraphs,documents,spin] [--repeats 5] [--scale 1.0] [--render]``
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import overhead_page
import records
import texts

CHEAP = ["text.quality@1", "text.minhash@1"]
WORKERS = 2
TIMEOUT_S = 1800.0


@dataclass(frozen=True, slots=True)
class Part:
    """One table of the page."""

    kind: texts.Kind
    rows: int
    nbytes: int
    group_rows: int
    recipe: list[str]
    runners: str


PARTS = {
    "paragraphs": Part("paragraphs", 1_000_000, 300_000_000, 30_000, CHEAP, "ABC"),
    "documents": Part("documents", 40_000, 300_000_000, 1_000, CHEAP, "ABC"),
    "spin": Part("paragraphs", 200_000, 1, 10_000, ["bench.spin@1"], "BC"),
}


def run_one(runner: str, part: Part, corpus: texts.Corpus, work: Path) -> records.Record:
    """Run A, B or C once and return what it printed, with the digest of its output."""
    out, home = work / f"out-{runner}", work / "home"
    shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(home / "pools", ignore_errors=True)
    job: dict[str, Any] = {"source": corpus.folder, "out": str(out), "recipe": part.recipe}
    if runner == "A":
        script, args = "plain_dask.py", {**job, "workers": WORKERS}
    else:
        params = {**job, "rows_per_chunk": corpus.group_rows}
        pool = "embedded" if runner == "B" else "local"
        script, args = "one_job.py", {"pool": pool, "volunteers": WORKERS, "params": params}
    command = [sys.executable, str(records.HERE / script), json.dumps(args)]
    measured = records.child(command, records.environment(home), TIMEOUT_S)
    return {"runner": runner, **measured, "digest": output_digest(out, part.recipe)}


def output_digest(out: Path, recipe: Sequence[str]) -> str:
    """Canonical digest of file, position and kernel columns, in the order of file and position."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from muster.datasets.digest import table_digest
    from muster.datasets.result_format import FILE_COLUMN, POSITION_COLUMN
    from muster.kernels.recipe import Recipe

    table = pq.read_table(out, columns=[FILE_COLUMN, POSITION_COLUMN, *Recipe.parse(recipe).output_schema.names])
    names = table[FILE_COLUMN].cast(pa.string())
    table = table.set_column(table.schema.get_field_index(FILE_COLUMN), FILE_COLUMN, names)
    return str(table_digest(table.sort_by([(FILE_COLUMN, "ascending"), (POSITION_COLUMN, "ascending")])))


def measure(name: str, args: argparse.Namespace) -> list[records.Record]:
    """Measure a part and return its records; raises SystemExit if two outputs differ."""
    part = PARTS[name]
    scaled = {"min_rows": int(part.rows * args.scale), "min_nbytes": int(part.nbytes * args.scale)}
    group_rows = max(250, int(part.group_rows * min(1.0, args.scale * 4)))
    corpus = texts.build(args.work / name, part.kind, group_rows=group_rows, **scaled)
    print(f"{name}: {corpus}", flush=True)
    for path in Path(corpus.folder).iterdir():
        path.read_bytes()  # into the page cache
    found = []
    repeats = args.spin_repeats if name == "spin" else args.repeats
    for turn in range(repeats + 1):
        for runner in part.runners:
            if turn == 0 and name == "spin" and runner != "B":
                continue  # nothing is cold any more but the kernel's compile cache, which B fills
            record = {"turn": turn, **run_one(runner, part, corpus, args.work)}
            shown = f"wall {record['wall_s']:.2f} s, start {record['startup_s']:.2f} s, load {record['load']:.1f}"
            print(f"{name} {'warm-up' if turn == 0 else turn} {runner}: {shown}", flush=True)
            found.append(record)
    digests = {record["digest"] for record in found}
    if len(digests) != 1 or any(record["rows"] != corpus.rows for record in found):
        raise SystemExit(f"{name}: outputs differ: {[(r['runner'], r['rows'], r['digest'][:16]) for r in found]}")
    return [{"corpus": str(corpus), "text_nbytes": corpus.text_nbytes, "recipe": part.recipe, **r} for r in found]


def main() -> None:
    """Measure the wanted parts and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--spin-repeats", type=int, default=1)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full rows and bytes, for trying out")
    parser.add_argument("--work", type=Path, default=Path(".muster/bench"), help="folder for texts, pools and outputs")
    parser.add_argument("--results", type=Path, default=records.RESULTS)
    parser.add_argument("--render", action="store_true", help="only write the page from the raw file")
    args = parser.parse_args()
    args.work = args.work.absolute()
    for name in [] if args.render else args.parts.split(","):
        records.save("overhead", name, measure(name, args), args.results)
        overhead_page.write(args.results)
    overhead_page.write(args.results)


if __name__ == "__main__":
    main()
