"""The embedded pool: coordinator and volunteers on this machine, for one run, over the same code path as any pool.

Starts the services, enrols and starts the volunteers (each its own process with its own certificate), connects. Holds
no policy. The state stays in the pool's folder, so that a killed run is resumed by the next.

Invariants: one process at a time uses an embedded pool's folder (a lock that dies with it); every process it started
ends with it, however it ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from muster.cluster.coordinator.bundles import PoolAddresses, make_bundle
from muster.cluster.coordinator.jobs import JobStore
from muster.cluster.coordinator.pki import issue_operator, issue_volunteer
from muster.cluster.coordinator.registry import Registry
from muster.cluster.coordinator.supervisor import START_TIMEOUT_S, Coordinator
from muster.cluster.folder_lock import FolderLock
from muster.cluster.pool import Pool, operator_client
from muster.cluster.service import RunningService, Service, start_fork_server
from muster.cluster.volunteer.agent import VolunteerConfig
from muster.datasets.exchange import Exchange

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
    lock: FolderLock
    volunteers: dict[str, RunningService] = field(default_factory=dict)

    def check(self, patience_s: float = 0.0) -> None:
        """Raise PoolError if a trusted service died, or dies within ``patience_s`` each; volunteers come and go."""
        self.coordinator.check(patience_s)

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
        self.lock.release()


def open_embedded(pool_dir: Path, volunteers: Sequence[EmbeddedVolunteer]) -> Pool:
    """Start an embedded pool and return it, its volunteers registered or on their way.

    Raises PoolError if another living process uses the folder, or a service does not start.
    """
    start_fork_server()
    pool_dir.mkdir(parents=True, exist_ok=True)
    services = EmbeddedServices(Coordinator(pool_dir), FolderLock(pool_dir))
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
