"""What a benchmark leaves behind: raw JSON lines, and the head of its Markdown page (command, machine, date).

Measures nothing itself; runs one child process and returns what that printed. Used by the whole-job benchmarks.

Invariants: a raw file keeps the records of other parts when one part is measured again; a page is made from the raw
file alone; no path of this machine is written into either.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
Record = dict[str, Any]


def machine() -> str:
    """Processor, cores, memory and the versions that matter."""
    model, info = platform.machine(), Path("/proc/cpuinfo")
    if info.exists():
        values = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in info.read_text().splitlines())}
        family = f" family {values['cpu family']} model {values['model']}" if "cpu family" in values else ""
        model = values.get("model name", model) + family
    packages = ", ".join(f"{name} {version(name)}" for name in ("pyarrow", "numba", "numpy", "distributed"))
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, {packages}"


def load() -> float:
    """Runnable processes of this machine, mean of the last minute: how quiet it was."""
    return os.getloadavg()[0]


def child(command: Sequence[str], env: dict[str, str], timeout_s: float) -> Record:
    """Run a process that prints one JSON object as its last line; return it, with ``load`` before the start.

    Raises RuntimeError with the end of the output if the process fails.
    """
    before = load()
    began_s = time.monotonic()
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout_s, check=False)
    wall_s = time.monotonic() - began_s
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(command[:3])}: exit {done.returncode}\n{done.stdout[-1000:]}{done.stderr[-3000:]}"
        )
    lines = done.stdout.strip().splitlines()
    found: Record = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
    return {"load": before, "process_wall_s": wall_s} | found


def environment(home: Path) -> dict[str, str]:
    """This process's environment with Muster's state under ``home`` and one compile cache for all benchmarks."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MUSTER_", "PREFECT_", "DASK_", "NUMBA_"))}
    cache = {"NUMBA_CACHE_DIR": str(home / "cache" / "numba")}
    return {**kept, **cache, "MUSTER_HOME": str(home), "DO_NOT_TRACK": "1"}


def save(name: str, part: str, records: Iterable[Record], folder: Path = RESULTS) -> list[Record]:
    """Replace the records of ``part`` in the raw file ``name``.jsonl; return all of its records."""
    path = folder / f"{name}.jsonl"
    before = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    stamp = {"part": part, "date": str(datetime.datetime.now(datetime.UTC).date()), "machine": machine()}
    stamp["command"] = " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *_arguments()])
    merged = [r for r in before if r["part"] != part] + [stamp | r for r in records]
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in merged))
    return merged


def _arguments() -> list[str]:
    """The command's arguments, without folders, which name places on this machine."""
    kept, skip = [], False
    for text in sys.argv[1:]:
        if skip or text.startswith(("--work", "--results")):
            skip = text in ("--work", "--results")
            continue
        kept.append(text)
    return kept


def head(records: Sequence[Record]) -> list[str]:
    """Command, date and machine of a part."""
    first = records[0]
    loads = [r["load"] for r in records if "load" in r]
    quiet = f"; load before a run: median {statistics.median(loads):.1f}, most {max(loads):.1f}" if loads else ""
    return [f"`{first['command']}`, {first['date']}; {first['machine']}{quiet}.", ""]


def median(records: Iterable[Record], key: str) -> float:
    """Median of a number over records."""
    return statistics.median(float(r[key]) for r in records)


def spread(records: Iterable[Record], key: str) -> str:
    """Median with least and most, in seconds or whatever the number is."""
    values = sorted(float(r[key]) for r in records)
    return f"{statistics.median(values):.2f} ({values[0]:.2f}–{values[-1]:.2f})"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table, first column left, the others right."""
    ruler = "|---|" + "---:|" * (len(header) - 1)
    return [f"| {' | '.join(header)} |", ruler, *(f"| {' | '.join(row)} |" for row in rows), ""]
