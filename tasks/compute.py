"""Compute: let volunteers work until every unit stands and no audit is under way.

Keeps the job's lease meanwhile and reports progress. How units are sent, accepted and audited is the dispatcher's and
``trust``'s business.

Invariants: one run per job holds the lease; a lease whose owner is dead on this machine is taken over at once.
"""

from __future__ import annotations

import os
import socket
import time

import psutil

from muster.errors import JobError
from muster.tasks.dispatcher import Dispatcher
from muster.tasks.progress import Progress
from muster.tasks.run import Run

LEASE_S = 30.0
_RENEW_S = 10.0


def compute(run: Run) -> Dispatcher:
    """Bring every unit to rest; return the dispatcher, which the final audit goes on using."""
    dispatcher = Dispatcher(run)
    settle(run, dispatcher)
    return dispatcher


def settle(run: Run, dispatcher: Dispatcher) -> None:
    """Work until every unit stands (again, after a failed round of the final audit)."""
    renewed_s = 0.0

    def on_turn() -> None:
        nonlocal renewed_s
        if time.monotonic() - renewed_s > _RENEW_S:
            take_lease(run)
            renewed_s = time.monotonic()
        if run.reporter.due():
            run.reporter.update(snapshot(run, dispatcher))

    try:
        dispatcher.settle(on_turn)
    except JobError as error:
        run.store.set_job(run.job.job_id, "failed", error=error.message)
        raise
    run.reporter.update(snapshot(run, dispatcher), force=True)


def snapshot(run: Run, dispatcher: Dispatcher) -> Progress:
    """Return where the job stands."""
    counts = run.store.count_units(run.job.job_id)
    done = counts.get("accepted", 0) + counts.get("trusted", 0)
    caught = [name for name, who in dispatcher.contributors.items() if who.quarantined]
    note = f"caught: {', '.join(caught)}" if caught else ""
    attempts = run.store.attempts.counts(run.job.job_id)
    return Progress("compute", done, sum(counts.values()), "chunks", note, counts, attempts)


def owner_name() -> str:
    """Return the lease owner's name of this process: host, pid, start time."""
    me = psutil.Process()
    return f"{socket.gethostname()}:{me.pid}:{me.create_time():.2f}"


def take_lease(run: Run) -> None:
    """Take or renew the job's lease; raises JobError if another living run holds it."""
    job, me = run.job.job_id, owner_name()
    owner = run.store.take_lease(job, me, LEASE_S, gone=_dead(run.store.lease_owner(job)))
    if owner is not None:
        raise JobError(
            f"job {job} is being run by {owner}",
            hint=f"wait for it to end; a lease of a dead run on another machine expires after {LEASE_S:g} s",
        )


def drop_lease(run: Run) -> None:
    """Give the job's lease back."""
    run.store.drop_lease(run.job.job_id, owner_name())


def _dead(owner: str | None) -> str | None:
    """Return ``owner`` if it names a process of this machine that has ended."""
    if owner is None:
        return None
    host, pid, created = owner.rsplit(":", 2)
    if host != socket.gethostname() or int(pid) == os.getpid():
        return None
    try:
        alive = abs(psutil.Process(int(pid)).create_time() - float(created)) < 1.0
    except psutil.Error:
        alive = False
    return None if alive else owner
