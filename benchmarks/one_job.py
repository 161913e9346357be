"""One job of Muster in a process of its own, with its clocks read: what ``overhead``, ``startup`` and ``memory`` run.

Calls ``muster.flows.pipeline.run`` as the CLI does, with a stage function that takes times. It changes nothing in what
is run and reads no result. Prints one JSON object.

What the numbers mean:
- ``startup_s``: from this process's first line until the pool is open, its volunteers have registered and its referees
  run (embedded), or until the fork server is warm (local), without the plan stage, which runs first;
- ``ready_s``: the same with the plan stage; ``whole_s``: until publication;
- ``wall_s``: plan stage + from there until the publish stage has returned; closing the pool is not in it;
- ``cpu_s`` (local): this process's CPU inside ``run`` + all CPU of the fork server's children (each starts at 0);
- ``trusted_cpu_s`` (embedded): the report's split, with the plan stage's CPU added to ``plan``; ``by_process`` is the
  same time by process, from the opening of the pool to the end of publication.

Usage: ``python benchmarks/one_job.py '{"pool": "embedded", "volunteers": 2, "params": {"source": …}}'``.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

BEGAN_S = time.monotonic()


class Clocks:
    """Times and CPU seconds at the borders of the stages."""

    def __init__(self) -> None:
        self.stage_s: dict[str, float] = {}
        self.stage_cpu_s: dict[str, float] = {}
        self.open_s = 0.0
        self.ended_s = 0.0
        self.before: dict[str, float] = {}
        self.after: dict[str, float] = {}
        self.job: Any = None

    def stage(self, name: str, function: Callable[..., Any], *args: Any) -> Any:
        """Call a stage and add up its time."""
        began_s, cpu_s = time.monotonic(), time.process_time()
        result = function(*args)
        self.ended_s = time.monotonic()
        self.stage_s[name] = self.stage_s.get(name, 0.0) + self.ended_s - began_s
        self.stage_cpu_s[name] = self.stage_cpu_s.get(name, 0.0) + time.process_time() - cpu_s
        if name == "publish":
            self.after = self._processes()
        return result

    def opened(self, job: Any) -> None:
        """The pool is open; start-up is over when the referees, which start in the background, have started too."""
        _ = job.referees.client
        job.costs.watch(job.pool)
        self.job, self.open_s = job, time.monotonic()
        self.before = self._processes()

    def _processes(self) -> dict[str, float]:
        services = self.job.pool.services
        volunteers = sum(services.volunteer_cpu_s().values())
        own = {"flow": time.process_time(), "referees": self.job.referees.cpu_s(), "volunteers": volunteers}
        return {**own, **self.job.pool.cpu_s()}

    def by_process(self) -> dict[str, float]:
        """CPU seconds of each process of the pool between the two moments."""
        return {name: self.after[name] - self.before.get(name, 0.0) for name in self.after}


def embedded(params: Any, clocks: Clocks, volunteers: int) -> dict[str, Any]:
    """Run on an embedded pool of ``volunteers`` with one thread each."""
    from muster.cluster.embedded import default_volunteers
    from muster.flows.pipeline import run
    from muster.tasks import certify, commit, compute, conclude, enter  # noqa: F401 - imports are start-up

    report = run(params, stage=clocks.stage, volunteers=default_volunteers(volunteers), on_open=clocks.opened)
    plan_s = clocks.stage_s["plan"]
    split = dict(report.trusted_cpu_s)
    split["plan"] = split.get("plan", 0.0) + clocks.stage_cpu_s["plan"]
    return {
        "ready_s": clocks.open_s - BEGAN_S,
        "startup_s": clocks.open_s - BEGAN_S - plan_s,
        "wall_s": plan_s + clocks.ended_s - clocks.open_s,
        "whole_s": clocks.ended_s - BEGAN_S,
        "trusted_cpu_s": split,
        "by_process": clocks.by_process(),
        "stage_s": clocks.stage_s,
        "rows": report.rows,
        "chunks": report.chunks,
        "rows_recomputed": report.rows_recomputed,
        "rounds": report.rounds,
        "attempts": report.n_attempts,
    }


def local(params: Any, clocks: Clocks) -> dict[str, Any]:
    """Run with ``--pool local``."""
    import psutil

    from muster.flows.pipeline import run
    from muster.tasks import local as _  # noqa: F401 - imports are start-up

    _warm_fork_server()
    ready_s, own_cpu_s, before = time.monotonic(), time.process_time(), _children_cpu_s(psutil)
    report = run(params, stage=clocks.stage)
    done_s, own_cpu_s = time.monotonic(), time.process_time() - own_cpu_s
    time.sleep(0.3)  # the fork server reaps its children in its own time
    children = _children_cpu_s(psutil) - before
    return {
        "startup_s": ready_s - BEGAN_S,
        "wall_s": done_s - ready_s,
        "whole_s": done_s - BEGAN_S,
        "cpu_s": own_cpu_s + children,
        "own_cpu_s": own_cpu_s,
        "workers_cpu_s": children,
        "stage_s": report.stage_s,
        "rows": report.rows,
        "chunks": report.chunks,
    }


def _warm_fork_server() -> None:
    """Return once the fork server has imported everything: it answers only then."""
    import multiprocessing

    from muster.cluster.service import bare_main, start_fork_server, start_method

    start_fork_server()
    with bare_main():
        process = multiprocessing.get_context(start_method()).Process(target=time.sleep, args=(0,))  # type: ignore[attr-defined]
        process.start()
    process.join()


def _children_cpu_s(psutil: Any) -> float:
    """CPU seconds of the fork server's children that have ended (it waits for them, not this process)."""
    from multiprocessing import forkserver

    times = psutil.Process(forkserver._forkserver._forkserver_pid).cpu_times()  # type: ignore[attr-defined]
    return float(times.children_user + times.children_system)


def main() -> None:
    """Run and print."""
    from muster.settings import prepare_environment

    prepare_environment()
    from muster.tasks.job import PreprocessParams

    args = json.loads(sys.argv[1])
    params = PreprocessParams(**args["params"], pool=args["pool"])
    clocks = Clocks()
    measured = local(params, clocks) if args["pool"] == "local" else embedded(params, clocks, args["volunteers"])
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(json.dumps({**measured, "peak_rss_nbytes": rss, "life_s": time.monotonic() - BEGAN_S}))


if __name__ == "__main__":
    main()
