"""Peak memory of the flow process by size of the source: it must not grow with the data.

Writes synthetic Parquet of 1, 2 and 3 GB (uncompressed, rows of about 1 kB, a key column), runs text.minhash@1 on an
embedded pool with 2 volunteers, carries the key column along (so that publication reads the source), and reads
``ru_maxrss`` of the flow process: forked services, volunteers and referees have their own memory and are not in it.
The pool works on what a plain file gives; it does NOT measure object stores.

Run: ``python benchmarks/memory.py [--sizes 1,2,3]`` (GB, 10⁹ bytes)
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

import records
import synthetic

GOAL_NBYTES = 1 << 30
TIMEOUT_S = 1800.0


def measure(work: Path, gigabytes: float) -> records.Record:
    """Run one job over a source of that size and return its numbers; the source is removed again."""
    source, out, home = work / "synthetic", work / "out-memory", work / "home"
    for folder in (source, out, home / "pools"):
        shutil.rmtree(folder, ignore_errors=True)
    nbytes = synthetic.write(source, int(gigabytes * 1e9))
    params = {"source": str(source), "out": str(out), "recipe": ["text.minhash@1"], "key": "id"}
    job = json.dumps({"pool": "embedded", "volunteers": 2, "params": params})
    try:
        found = records.child(
            [sys.executable, str(records.HERE / "one_job.py"), job], records.environment(home), TIMEOUT_S
        )
    finally:
        for folder in (source, out, home / "pools"):
            shutil.rmtree(folder, ignore_errors=True)
    return {"source_nbytes": nbytes, **found}


def page(found: list[records.Record]) -> str:
    """The page as Markdown."""
    rows = [
        [
            f"{r['source_nbytes'] / 1e9:.2f} GB",
            f"{r['rows']:,}",
            str(r["chunks"]),
            f"{r['peak_rss_nbytes'] / 2**20:.0f}",
            f"{r['wall_s']:.0f}",
        ]
        for r in found
    ]
    goal = f"Goal: under {GOAL_NBYTES / 2**20:.0f} MiB for any size.\n"
    text = records.table(["source", "rows", "chunks", "peak RSS of the flow process, MiB", "wall s"], rows)
    about = (__doc__ or "").split("Run:")[0].splitlines()[2:]
    return "\n".join(["# Memory of the flow process", "", *records.head(found), *text, goal, *about])


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1,2,3")
    parser.add_argument("--work", type=Path, default=Path(".muster/bench"), help="folder for source, pool and output")
    parser.add_argument("--results", type=Path, default=records.RESULTS)
    args = parser.parse_args()
    found = []
    for size in args.sizes.split(","):
        found.append(measure(args.work.absolute(), float(size)))
        print(f"{size} GB: {found[-1]['peak_rss_nbytes'] / 2**20:.0f} MiB in {found[-1]['wall_s']:.0f} s", flush=True)
    (args.results / "memory.md").write_text(page(records.save("memory", "memory", found, args.results)))
    if max(r["peak_rss_nbytes"] for r in found) >= GOAL_NBYTES:
        raise SystemExit("the flow process used 1 GiB or more")


if __name__ == "__main__":
    main()
