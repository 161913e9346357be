"""A job in a process of its own, which may kill itself at a chosen moment: ``python flow_process.py JSON``.

The fault is the only thing that is not the product's own: SIGKILL to itself, where a power cut could
hit. Its family's process ids are written down first, so that a test can see whether they all went with it.
"""

import dataclasses
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from small_jobs import volunteers

from muster.flows.pipeline import run
from muster.tasks.job import PreprocessParams
from muster.tasks.report import JobReport


def main(order: dict[str, Any]) -> None:
    """Run ``order["params"]`` on the pool ``order["pool"]`` and print the report as JSON."""
    family = Path(order["family"])
    arrange_death(order.get("die"), family)

    def on_open(job: Any) -> None:
        write_family(family)
        if order.get("die") == "compute":
            threading.Thread(target=die_when_some_are_accepted, args=(job, family), daemon=True).start()

    job = PreprocessParams(**order["params"])
    report = run(job, volunteers=volunteers(*order["names"]), pool_name=order["pool"], on_open=on_open)
    print(json.dumps(plain(report)), flush=True)


def plain(report: JobReport) -> dict[str, Any]:
    """Return the report as JSON material."""
    fields = dataclasses.asdict(report)
    fields["attempts"] = sum(report.attempts.values())
    return fields


def write_family(path: Path) -> None:
    """Write down (pid, creation time) of every process below this one."""
    rows = [(p.pid, p.create_time()) for p in psutil.Process().children(recursive=True)]
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(rows))
    temporary.replace(path)


def die(family: Path) -> None:
    """End this process as the kernel would."""
    write_family(family)
    os.kill(os.getpid(), signal.SIGKILL)


def arrange_death(point: str | None, family: Path) -> None:
    """Let this process die at ``point``: planning, audit or closing."""
    if point == "planning":
        from muster.cluster.coordinator import jobs

        jobs._PAGE = 4  # units reach the registry four at a time
        after(jobs.JobStore, "_insert_units", 2, family)
    elif point == "audit":
        from muster.tasks import certify

        after(certify, "_submit", 3, family)
    elif point == "closing":
        from muster.tasks import conclude

        after(conclude, "publish_dataset", 1, family)


def after(owner: Any, name: str, n_calls: int, family: Path) -> None:
    """Die when ``owner.name`` has returned ``n_calls`` times."""
    real: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        value = real(*args, **kwargs)
        calls += 1
        if calls == n_calls:
            die(family)
        return value

    setattr(owner, name, counted)


def die_when_some_are_accepted(job: Any, family: Path) -> None:
    """Wait until three results stand."""
    while job.store.count_units(job.job.job_id).get("accepted", 0) < 3:
        time.sleep(0.02)
    die(family)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
