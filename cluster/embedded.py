"""The embedded pool: coordinator and volunteers on this machine, for one run, over the same code path as any pool.

Starts the services, enrols and starts the volunteers (each its own process with its own certificate), connects. Holds
no policy. The state stays in the pool's folder, so that a killed run is resumed by the next.

Invariants: one process at a time uses an embedded pool's folder (a lock file); every process it started ends with it,
however it ends.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from muster.cluster.coordinator.bundles import PoolAddresses, make_bundle
from muster.cluster.coordinator.jobs import JobStore
from muster.cluster.coordinator.pki import issue_operator, issue_volunteer
from muster.cluster.coordinator.registry import Registry
from muster.cluster.coordinator.supervisor import START_TIMEOUT_S, Coordinator
from muster.cluster.pool import Pool, operator_client
from muster.cluster.service import RunningService, Service, start_fork_server
from muster.cluster.volunteer.agent import VolunteerConfig
from muster.datasets.exchange import Exchange
from muster.errors import PoolError

HONEST = "muster.cluster.volunteer.agent"


@dataclass(frozen=True, slots=True)
class EmbeddedVolunteer:
    """A volunteer to start; ``module`` holds its ``run`` (another one for a volunteer that misbehaves in a test)."""

    name: str
    contributor: str
    module: str = HONEST
    n_threads: int = 1


def default_volunteers(n: int) -> list[EmbeddedVolunteer]:
    """Return ``n`` honest volunteers of one local contributor each."""
    return [EmbeddedVolunteer(f"local-{i + 1}", f"local-{i + 1}") for i in range(n)]


@dataclass
class EmbeddedServices:
    """The processes of an embedded pool."""

    coordinator: Coordinator
    lock_path: Path
    volunteers: dict[str, RunningService] = field(default_factory=dict)

    def check(self) -> None:
        """Raise PoolError if a trusted service died; volunteers may come and go."""
        self.coordinator.check()

    def volunteers_alive(self) -> bool:
        """Whether any volunteer process runs."""
        return any(v.alive() for v in self.volunteers.values())

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds of the trusted services so far, by name."""
        return self.coordinator.cpu_s()

    def volunteer_cpu_s(self) -> dict[str, float]:
        """CPU seconds of the volunteers so far, by name."""
        return {name: service.cpu_s() for name, service in self.volunteers.items()}

    def stop(self) -> None:
        """Stop volunteers, then services."""
        for volunteer in self.volunteers.values():
            volunteer.terminate()
        self.coordinator.stop()
        for volunteer in self.volunteers.values():
            volunteer.join()
        self.lock_path.unlink(missing_ok=True)


def open_embedded(pool_dir: Path, volunteers: Sequence[EmbeddedVolunteer]) -> Pool:
    """Start an embedded pool and return it, its volunteers registered or on their way.

    Raises PoolError if another living process uses the folder, or a service does not start.
    """
    start_fork_server()
    pool_dir.mkdir(parents=True, exist_ok=True)
    lock_path = _lock(pool_dir)
    services = EmbeddedServices(Coordinator(pool_dir), lock_path)
    try:
        addresses = services.coordinator.start()
        operator = make_bundle("operator", pool_dir, addresses, issue_operator(pool_dir, "embedded"))
        for volunteer in volunteers:
            services.volunteers[volunteer.name] = _start_volunteer(pool_dir, addresses, volunteer)
        client = operator_client(operator)
        for service in services.volunteers.values():
            service.wait_ready(START_TIMEOUT_S)
    except BaseException:
        services.stop()
        raise
    return Pool(pool_dir, client, JobStore(pool_dir), Exchange(pool_dir / "exchange"), services)


def _start_volunteer(pool_dir: Path, addresses: PoolAddresses, volunteer: EmbeddedVolunteer) -> RunningService:
    registry = Registry(pool_dir)
    registry.enrol(volunteer.name, volunteer.contributor)
    registry.close()
    issued = issue_volunteer(pool_dir, volunteer.name, volunteer.contributor)
    folder = pool_dir / "scratch" / volunteer.name
    folder.mkdir(parents=True, exist_ok=True)
    bundle_path = folder / "bundle.json"
    make_bundle("volunteer", pool_dir, addresses, issued).write(bundle_path, replace=True)
    config = VolunteerConfig(str(bundle_path), str(folder / "work"), n_threads=volunteer.n_threads)
    log = str(pool_dir / "logs" / f"volunteer-{volunteer.name}.log")
    return RunningService(Service(f"volunteer {volunteer.name}", volunteer.module, config, log))


def _lock(pool_dir: Path) -> Path:
    path = pool_dir / "run.lock"
    deadline = time.monotonic() + 5.0
    while True:
        try:
            fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        except FileExistsError:
            if not _held(path):
                path.unlink(missing_ok=True)
            elif time.monotonic() > deadline:
                holder = path.read_text().split()[:1]
                raise PoolError(
                    f"the embedded pool {pool_dir} is in use by process {' '.join(holder)}",
                    hint="wait for that run, set another MUSTER_HOME, or run `muster coordinator` and use --pool URL",
                ) from None
            else:
                time.sleep(0.1)
            continue
        os.write(fd, f"{os.getpid()} {psutil.Process().create_time()}".encode())
        os.close(fd)
        return path


def _held(path: Path) -> bool:
    try:
        pid, created = path.read_text().split()
        return abs(psutil.Process(int(pid)).create_time() - float(created)) < 1.0
    except (OSError, ValueError, psutil.Error):
        return False
