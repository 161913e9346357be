"""The page of ``overhead.py``: tables of wall, start-up, CPU and leverage, made from its raw records. Measures nothing.

Invariants: medians with least and most in brackets; the first, unmeasured turn is shown only as "first run"; a goal is
printed beside its number, reached or not.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import records
from records import Record, median, spread

NAMES = {"A": "A plain Dask LocalCluster", "B": "B Muster, embedded pool, verified", "C": "C `--pool local`"}
WALL_GOAL = {"paragraphs": 1.25}
LEVERAGE_GOAL = {"paragraphs": 4.0, "spin": 15.0}
CATEGORIES = ("plan", "dispatch", "serve and receive", "intake", "audit", "commit", "publish")
PROCESSES = ("flow", "scheduler", "gateway", "intake", "referees")

INTRO = """# Overhead of whole jobs, and leverage

Two compute processes of one thread each on one machine. A: one Dask task for each row group, same kernels, same
Parquet options, no verification. B: two volunteers over TLS with intake, audits in flight, the final audit (ε = 10⁻³ at
99 %), manifest, signed certificate. C: a process pool, no pool services, the same publication. Interleaved, each run in
a process of its own, fresh pool folder, warm page cache and compile cache. All outputs of a part have the same
canonical digest (file, position, all kernel columns), or there would be no page.

Wall: from the moment the cluster or pool can compute until everything is written (A) or published (B, C), planning
included; closing is not. Leverage: C's CPU seconds (its flow process inside `run`, and all of its workers; the fork
server's imports are start-up) / B's trusted CPU seconds (flow process, scheduler, gateway, intake, referees, from the
opening of the pool to the end of publication, and planning). Its ceiling is rows / rows recomputed by audits.
"""

UNEQUAL = """## What is not equal

- A trusts its workers: nothing is transferred, hashed, checked, audited or signed, and its output appears file by file.
- B's volunteers share two cores with gateway, intake, scheduler and referees; in use they are other machines. So B's
  wall here holds the whole trusted side, and its CPU ratio to A is the honest measure of overhead on one machine.
- B's referees start in the background: their start may fall into B's wall, and their first calls into its audit.
- A reads files by memory map; B's volunteers get ranges over HTTPS from the gateway.
- C uses as many processes as there are cores.
"""


def write(folder: Path) -> None:
    """Write ``overhead.md`` from ``overhead.jsonl``."""
    found = [json.loads(line) for line in (folder / "overhead.jsonl").read_text().splitlines()]
    lines = [INTRO]
    for part in dict.fromkeys(r["part"] for r in found):
        lines += _part(part, [r for r in found if r["part"] == part])
    (folder / "overhead.md").write_text("\n".join([*lines, UNEQUAL]))


def _part(part: str, found: list[Record]) -> list[str]:
    counted = [r for r in found if r["turn"] > 0]
    runs = {name: [r for r in counted if r["runner"] == name] for name in NAMES}
    runs = {name: some for name, some in runs.items() if some}
    first = {r["runner"]: r for r in found if r["turn"] == 0}
    lines = [f"## {part}: {', '.join(found[0]['recipe'])}", "", *records.head(counted)]
    lines += [f"{found[0]['corpus']}; {runs['B'][0]['chunks']} chunks; median of {len(runs['B'])}.", ""]
    header = ["", "wall s", "MB/s", "start-up s", "first run: wall s", "start-up s"]
    rows = []
    for name, some in runs.items():
        speed = f"{found[0]['text_nbytes'] / 1e6 / median(some, 'wall_s'):.1f}"
        cold = [f"{first[name][key]:.2f}" for key in ("wall_s", "startup_s")] if name in first else ["–", "–"]
        rows.append([NAMES[name], spread(some, "wall_s"), speed, spread(some, "startup_s"), *cold])
    lines += records.table(header, rows)
    if "A" in runs:
        lines += [f"A's first call (kernels loaded on the workers): {spread(runs['A'], 'first_call_s')} s more.", ""]
        lines += _ratio(part, runs)
    return lines + _leverage(part, runs) + _split(runs["B"])


def _ratio(part: str, runs: dict[str, list[Record]]) -> list[str]:
    ratio = median(runs["B"], "wall_s") / median(runs["A"], "wall_s")
    cpu_a = [r["workers_cpu_s"] + r["scheduler_cpu_s"] for r in runs["A"]]
    cpu_b = [sum(r["by_process"].values()) for r in runs["B"]]
    cpu = sorted(cpu_b)[len(cpu_b) // 2] / sorted(cpu_a)[len(cpu_a) // 2]
    goal = f" (goal {WALL_GOAL[part]:g})" if part in WALL_GOAL else ""
    return [f"**Wall B / A: {ratio:.2f}**{goal}; CPU of all processes B / A: {cpu:.2f}.", ""]


def _leverage(part: str, runs: dict[str, list[Record]]) -> list[str]:
    home = median(runs["C"], "cpu_s")
    trusted = [sum(r["trusted_cpu_s"].values()) for r in runs["B"]]
    leverage = [home / seconds for seconds in sorted(trusted, reverse=True)]
    audited = median(runs["B"], "rows_recomputed")
    goal = f" (goal {LEVERAGE_GOAL[part]:g})" if part in LEVERAGE_GOAL else ""
    middle = leverage[len(leverage) // 2]
    return [
        (
            f"**Leverage {middle:.1f}**{goal}, {leverage[0]:.1f}–{leverage[-1]:.1f} over the runs;"
            f" ceiling {runs['B'][0]['rows'] / audited:.0f} ({audited:,.0f} rows recomputed)."
            f" At home (C) {home:.2f} CPU s; trusted side of B {sorted(trusted)[len(trusted) // 2]:.2f} CPU s:"
        ),
        "",
    ]


def _split(runs: Sequence[Record]) -> list[str]:
    by_purpose = [[name, _median_of(runs, "trusted_cpu_s", name)] for name in CATEGORIES]
    by_process = [[name, _median_of(runs, "by_process", name)] for name in (*PROCESSES, "volunteers")]
    stages = [[name, _median_of(runs, "stage_s", name)] for name in runs[0]["stage_s"]]
    lines = records.table(["trusted side, by purpose", "CPU s"], by_purpose)
    lines += records.table(["by process", "CPU s"], by_process)
    return lines + records.table(["stage of the flow", "wall s"], stages)


def _median_of(runs: Sequence[Record], key: str, name: str) -> str:
    values = sorted(float(r[key].get(name, 0.0)) for r in runs)
    return f"{values[len(values) // 2]:.2f}"
