"""What ``make bench`` calls: every benchmark of this folder in turn, each in a process of its own.

Order: kernels, digest, startup, overhead, memory. ``--quick`` tries all of them on small inputs in a few minutes and
writes into the work folder instead of ``benchmarks/results/``: those numbers say nothing. Goes on after a benchmark
that fails and exits with 1 in the end.

Run: ``python benchmarks/run.py [--quick] [--only overhead,memory]``
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent


def commands(quick: bool, results: Path, work: Path) -> dict[str, list[str]]:
    """Arguments of each benchmark."""
    whole = ["--results", str(results), "--work", str(work)]
    few = {
        "kernels": ["--documents", "300", "--peer-documents", "30", "--repeats", "3"],
        "digest": ["--repeat", "3"],
        "startup": ["--repeats", "2"],
        "overhead": ["--scale", "0.03", "--repeats", "1"],
        "memory": ["--sizes", "0.05,0.1"],
    }
    outputs = {"kernels": results / "kernels-cpu.md", "digest": results / "digest.md"}
    return {
        name: [*(small if quick else []), *(["--out", str(outputs[name])] if name in outputs else whole)]
        for name, small in few.items()
    }


def main() -> int:
    """Run them; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", help="names, with commas")
    parser.add_argument("--work", type=Path, default=Path(".muster/bench"))
    args = parser.parse_args()
    results = args.work / "quick-results" if args.quick else HERE / "results"
    results.mkdir(parents=True, exist_ok=True)
    wanted = commands(args.quick, results, args.work)
    failed = []
    for name in args.only.split(",") if args.only else wanted:
        print(f"== {name}", flush=True)
        began_s = time.monotonic()
        done = subprocess.run([sys.executable, str(HERE / f"{name}.py"), *wanted[name]], check=False)
        print(f"== {name}: exit {done.returncode} after {time.monotonic() - began_s:.0f} s\n", flush=True)
        if done.returncode:
            failed.append(name)
    print(f"results: {results}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
