"""Makes bundles: enrols a volunteer or an operator of a pool on this host and writes what it needs into one file.

Also keeps where the pool's servers were last reachable (``endpoints.json``), which bundles repeat.
What it does not do: reach a pool on another host (enrolment by CSR replaces this way there).

Invariants: a name is enrolled before its bundle exists; an existing file is never replaced.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from muster.cluster.bundle import Bundle, Kind, bundle_from_dict
from muster.cluster.coordinator.pki import IssuedCertificate, issue_operator, issue_volunteer
from muster.cluster.private_files import read_private, replace_private
from muster.errors import ConfigError


@dataclass(frozen=True, slots=True)
class PoolAddresses:
    """Where a pool's servers listen: host:port twice, and an https origin."""

    operator_address: str
    volunteer_address: str
    gateway_url: str


def save_addresses(pool_dir: Path, addresses: PoolAddresses) -> None:
    """Remember where the pool listens."""
    replace_private(pool_dir / "endpoints.json", json.dumps(asdict(addresses)).encode())


def load_addresses(pool_dir: Path) -> PoolAddresses:
    """Where the pool listened when it was started last.

    Raises:
        ConfigError: it never was.
    """
    path = pool_dir / "endpoints.json"
    if not path.exists():
        raise ConfigError(f"pool {pool_dir} was never started", hint="start it first: muster coordinator")
    try:
        fields = json.loads(read_private(path))
        return PoolAddresses(**{name: str(fields[name]) for name in PoolAddresses.__slots__})
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{path}: expected the addresses of a pool") from None


def make_bundle(kind: Kind, pool_dir: Path, addresses: PoolAddresses, issued: IssuedCertificate) -> Bundle:
    """The bundle of an issued certificate."""
    own_address = addresses.volunteer_address if kind == "volunteer" else addresses.operator_address
    fields: dict[str, object] = {
        "v": 1,
        "kind": kind,
        "name": issued.name,
        "contributor": issued.contributor,
        "pool": pool_dir.name,
        "scheduler": own_address.removeprefix("tls://"),
        "gateway": addresses.gateway_url,
        "server_name": urlsplit(addresses.gateway_url).hostname or "",
        "ca": issued.ca_pem,
        "cert": issued.cert_pem,
        "key": issued.key_pem,
    }
    if kind == "operator":
        fields["pool_dir"] = str(pool_dir)
    return bundle_from_dict(fields)


def create_volunteer_bundle(pool_dir: Path, *, name: str, contributor: str, path: Path) -> Bundle:
    """Enrol a volunteer machine and write its bundle.

    Raises:
        ConfigError: the pool was never started, a name is unusable, or ``path`` exists.
    """
    addresses = load_addresses(pool_dir)
    bundle = make_bundle("volunteer", pool_dir, addresses, issue_volunteer(pool_dir, name, contributor))
    _enrol(pool_dir, name, contributor)
    bundle.write(path)
    return bundle


def create_operator_bundle(pool_dir: Path, *, name: str, path: Path) -> Bundle:
    """Write an operator's bundle, good on this host.

    Raises:
        ConfigError: the pool was never started, the name is unusable, or ``path`` exists.
    """
    bundle = make_bundle("operator", pool_dir, load_addresses(pool_dir), issue_operator(pool_dir, name))
    bundle.write(path)
    return bundle


def _enrol(pool_dir: Path, name: str, contributor: str) -> None:
    from muster.cluster.coordinator.registry import Registry  # SQLAlchemy: only when somebody is let in

    registry = Registry(pool_dir)
    try:
        registry.enrol(name, contributor)
    finally:
        registry.close()
