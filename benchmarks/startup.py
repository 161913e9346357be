"""What a user waits for before any work is done: ``muster --help``, an embedded pool that is ready, a one-row job.

Each run is a new process; wall seconds from before its start. Medians. Warm page cache and warm compile cache (``cold``
rows: an empty compile cache, once, told apart). It does NOT measure work.

- help: ``muster --help``, whole process.
- ready: from the start of a process until its embedded pool with 2 volunteers is open and both have registered; fresh
  pool folder, so certificates are made too. Planning a one-row file is in it.
- embedded, one row: the same process until the dataset is published, then its whole life, pool closed.
- local, one row: ``muster preprocess ONE OUT --pool local``, whole process, as typed.

Run: ``python benchmarks/startup.py [--repeats 7]``
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import records

RECIPE = ["text.quality@1", "text.minhash@1"]
GOALS = {"help": 0.3, "ready": 6.0, "local, one row": 3.0}
TIMEOUT_S = 600.0


class Commands:
    """The commands, each on a fresh OUT and a fresh pool folder."""

    def __init__(self, work: Path) -> None:
        self.home, self.out, self.source = work / "home", work / "out-startup", work / "one.parquet"
        work.mkdir(parents=True, exist_ok=True)
        self._write_source()

    def _write_source(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"text": ["the quick brown fox jumps over the lazy dog"]}), self.source)

    def _run(self, command: list[str]) -> records.Record:
        shutil.rmtree(self.out, ignore_errors=True)
        shutil.rmtree(self.home / "pools", ignore_errors=True)
        return records.child(command, records.environment(self.home), TIMEOUT_S)

    def _muster(self, *args: str) -> float:
        found = self._run([str(Path(sysconfig.get_path("scripts"), "muster")), *args])
        return float(found["process_wall_s"])

    def help(self) -> dict[str, float]:
        """Time ``muster --help``."""
        return {"help": self._muster("--help")}

    def local(self) -> dict[str, float]:
        """Time a one-row job with ``--pool local``."""
        recipe = [word for kernel in RECIPE for word in ("--recipe", kernel)]
        return {
            "local, one row": self._muster("preprocess", str(self.source), str(self.out), *recipe, "--pool", "local")
        }

    def embedded(self) -> dict[str, float]:
        """Time an embedded pool's start and a one-row job on it."""
        params = {"source": str(self.source), "out": str(self.out), "recipe": RECIPE}
        job = json.dumps({"pool": "embedded", "volunteers": 2, "params": params})
        found = self._run([sys.executable, str(records.HERE / "one_job.py"), job])
        python_s = found["process_wall_s"] - found["life_s"]  # the interpreter's own start and end
        return {
            "ready": python_s + found["ready_s"],
            "embedded, one row: published": python_s + found["whole_s"],
            "embedded, one row: whole process": found["process_wall_s"],
        }


def measure(commands: Commands, repeats: int) -> list[records.Record]:
    """Run everything ``repeats`` times, interleaved, after one run with an empty compile cache."""
    found = []
    cache = commands.home / "cache" / "numba"
    for run in (commands.local, commands.embedded):
        shutil.rmtree(cache, ignore_errors=True)
        found += _records(run, "cold")
    commands.help()
    for turn in range(repeats):
        for run in (commands.help, commands.embedded, commands.local):
            new = _records(run, "warm")
            print(turn + 1, *(f"{r['what']}: {r['wall_s']:.2f} s" for r in new), sep="  ", flush=True)
            found += new
    return found


def _records(run: Callable[[], dict[str, float]], cache: str) -> list[records.Record]:
    load = records.load()
    return [{"what": what, "cache": cache, "wall_s": wall_s, "load": load} for what, wall_s in run().items()]


def page(found: list[records.Record]) -> str:
    """The page as Markdown."""
    lines = ["# Start-up", "", *records.head(found)]
    rows = []
    for what in dict.fromkeys(r["what"] for r in found if r["cache"] == "warm"):
        warm = [r for r in found if r["what"] == what and r["cache"] == "warm"]
        cold = [r for r in found if r["what"] == what and r["cache"] == "cold"]
        goal = f"≤ {GOALS[what]:g}" if what in GOALS else ""
        rows.append([what, records.spread(warm, "wall_s"), goal, f"{cold[0]['wall_s']:.2f}" if cold else "–"])
    lines += records.table(["", f"s, median of {len(warm)}", "goal", "with an empty compile cache"], rows)
    return "\n".join([*lines, *(__doc__ or "").split("Run:")[0].splitlines()[2:]])


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--work", type=Path, default=Path(".muster/bench"), help="folder for pools and outputs")
    parser.add_argument("--results", type=Path, default=records.RESULTS)
    args = parser.parse_args()
    found = records.save("startup", "startup", measure(Commands(args.work.absolute()), args.repeats), args.results)
    (args.results / "startup.md").write_text(page(found))


if __name__ == "__main__":
    main()
