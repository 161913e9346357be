"""The processes of an edge test, run as a script: ``python processes.py ROLE JSON``; prints one JSON line when ready.

The volunteer has a real agent and edge, and an executor that only records: the job's last 8 hex digits say how many
milliseconds a unit takes, and a unit that begins with "dead" fails.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from pathlib import Path

from muster.cluster.coordinator import scheduler  # before the audit: packages unpickle constants of their own
from muster.cluster.edge.limits import EdgeLimits
from muster.cluster.unit import UnitError, UnitMessage
from muster.cluster.volunteer import agent


class Recorder:
    """Writes a line for each unit that began and ended."""

    def __init__(self, bundle, *, n_compute: int, scratch: Path) -> None:
        self._path = scratch / "record.jsonl"
        self._cores = threading.Semaphore(n_compute)
        self._lock = threading.Lock()

    def __call__(self, message: UnitMessage) -> None:
        self._write("began", message)
        if message.unit.startswith("dead"):
            raise UnitError("kernel: boom \x1b[31m" + "x" * 5000)
        with self._cores:
            time.sleep(int(message.job[-8:], 16) / 1000)
        self._write("ended", message)

    def _write(self, what: str, message: UnitMessage) -> None:
        line = json.dumps({"what": what, "unit": message.unit, "issue": message.issue, "ticket": message.ticket})
        with self._lock, self._path.open("a") as file:
            file.write(line + "\n")

    def close(self) -> None:
        pass


def main(role: str, options: dict[str, object]) -> None:
    def ready(facts: dict[str, object]) -> None:
        print(json.dumps(facts), flush=True)

    logging.basicConfig(level=logging.WARNING)
    audit = options.pop("pickle_log", None)
    if audit:
        log = Path(str(audit)).open("a", buffering=1)  # noqa: SIM115 - for the life of the process
        sys.addaudithook(lambda event, args: log.write(f"{args}\n") if event == "pickle.find_class" else None)
    if role == "scheduler":
        limits = EdgeLimits(**options.pop("limits", {}))
        scheduler.run(scheduler.SchedulerConfig(**options, limits=limits), ready)
    else:
        agent.run(agent.VolunteerConfig(**options), ready, executor_class=Recorder)


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
