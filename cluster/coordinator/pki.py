"""The pool's own certificates and secrets: two CAs, two server certificates, client certificates by name.

The operator CA signs the servers (scheduler, gateway) and operators; the volunteer CA signs volunteers only, so that no
volunteer's certificate is ever good at the operators' listener. Everything is ECDSA P-256.
What it does not do: enrolment by CSR, renewal, revocation (a later layer keeps those in the registry).

Invariants: the ``pki`` and ``secrets`` folders appear whole or not at all (built beside, then renamed) and the first
creator wins; private files are mode 0600 from their first byte; a server's key and certificate share one file, so that
replacing the pair is one rename; extended key usage is serverAuth for servers and clientAuth for everybody else.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import secrets
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from muster.cluster.coordinator.certificates import Pair, cert_pem, key_pem, make_authority, make_client, make_server
from muster.cluster.coordinator.identity import OPERATOR, VOLUNTEER, check_contributor, check_name
from muster.cluster.private_files import read_private, replace_private, write_private
from muster.errors import ConfigError

CA_DAYS = 3650
SERVER_DAYS = 397  # the longest that TLS clients commonly accept for a server
CLIENT_DAYS = 365
RENEW_BEFORE_DAYS = 30
SECRET_NBYTES = 32  # HMAC-SHA256 keys: as long as the digest (RFC 2104 section 3)
SECRET_NAMES = ("ticket.key", "url.key")
SERVERS = ("scheduler", "gateway")


@dataclass(frozen=True, slots=True)
class PoolPki:
    """Paths of a pool's certificates; ``*_cert`` and ``*_key`` of a server are one file holding both."""

    operator_ca: Path
    volunteer_ca: Path
    scheduler_cert: Path
    scheduler_key: Path
    gateway_cert: Path
    gateway_key: Path
    ticket_secret: Path
    url_secret: Path


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """A client certificate with its private key, and the CA of the pool's servers, all PEM text.

    ``serial`` is 40 hex digits, ``not_after_s`` epoch seconds.
    """

    name: str
    contributor: str
    role: str
    cert_pem: str
    key_pem: str
    ca_pem: str
    serial: str
    not_after_s: float


def pool_pki(pool_dir: Path) -> PoolPki:
    """Where a pool's certificates and secrets lie; reads nothing."""
    pki, private = pool_dir / "pki", pool_dir / "secrets"
    scheduler, gateway = pki / "scheduler.pem", pki / "gateway.pem"
    return PoolPki(
        operator_ca=pki / "operator-ca.pem",
        volunteer_ca=pki / "volunteer-ca.pem",
        scheduler_cert=scheduler,
        scheduler_key=scheduler,
        gateway_cert=gateway,
        gateway_key=gateway,
        ticket_secret=private / "ticket.key",
        url_secret=private / "url.key",
    )


def create_pool_pki(pool_dir: Path, hosts: Sequence[str]) -> PoolPki:
    """Make what is missing and return the paths; calling it again changes nothing unless a server needs renewal.

    A server certificate is reissued, by the same CA, when it lacks one of ``hosts`` or expires within 30 days.

    Args:
        pool_dir: the pool's state folder; created if missing.
        hosts: DNS names and IP addresses under which volunteers and operators reach the servers; at least one.

    Raises:
        ConfigError: no host, an unusable host name, or an existing folder without the expected files.
    """
    if not hosts:
        raise ConfigError("the pool's certificates need at least one host name or IP address")
    wanted = [_general_name(host) for host in hosts]
    pool_dir.mkdir(parents=True, exist_ok=True)
    _create_whole(pool_dir / "secrets", _fill_secrets)
    _create_whole(pool_dir / "pki", lambda folder: _fill_pki(folder, wanted))
    for server in SERVERS:
        _renew_server(pool_dir / "pki", server, wanted)
    return pool_pki(pool_dir)


def issue_volunteer(pool_dir: Path, name: str, contributor: str) -> IssuedCertificate:
    """A certificate for one volunteer machine: CN=name, O=contributor, OU=volunteer, signed by the volunteer CA.

    Raises:
        ConfigError: unusable name or contributor, or the pool has no CA yet.
    """
    return _issue_client(pool_dir, "volunteer-ca", check_name(name), check_contributor(contributor), VOLUNTEER)


def issue_operator(pool_dir: Path, name: str) -> IssuedCertificate:
    """A certificate for an operator: CN=name, O=name, OU=operator, signed by the operator CA.

    Raises:
        ConfigError: unusable name, or the pool has no CA yet.
    """
    return _issue_client(pool_dir, "operator-ca", check_name(name), name, OPERATOR)


def load_secret(path: Path) -> bytes:
    """The 32 bytes of a MAC key.

    Raises:
        ConfigError: missing, or not 32 bytes.
    """
    secret = read_private(path, max_nbytes=SECRET_NBYTES + 1)
    if len(secret) != SECRET_NBYTES:
        raise ConfigError(f"{path}: expected {SECRET_NBYTES} bytes, found {len(secret)}")
    return secret


def _create_whole(folder: Path, fill: Callable[[Path], None]) -> None:
    if _filled(folder):
        return
    building = folder.with_name(f".{folder.name}-{secrets.token_hex(8)}")
    building.mkdir(mode=0o700)
    try:
        fill(building)
        if folder.is_dir():
            folder.rmdir()  # empty: made by whoever laid out the pool's folders
        building.rename(folder)
    except OSError:
        if not _filled(folder):  # not lost to another creator: a real failure
            raise
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _filled(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _fill_secrets(folder: Path) -> None:
    for name in SECRET_NAMES:
        write_private(folder / name, secrets.token_bytes(SECRET_NBYTES))


def _fill_pki(folder: Path, hosts: Sequence[x509.GeneralName]) -> None:
    for authority in ("operator-ca", "volunteer-ca"):
        key, certificate = make_authority(f"Muster {authority} {secrets.token_hex(4)}", CA_DAYS)
        write_private(folder / f"{authority}.key", key_pem(key))
        write_private(folder / f"{authority}.pem", cert_pem(certificate))
    for server in SERVERS:
        write_private(folder / f"{server}.pem", _server_pem(folder, server, hosts))


def _renew_server(folder: Path, server: str, wanted: Sequence[x509.GeneralName]) -> None:
    path = folder / f"{server}.pem"
    certificate = x509.load_pem_x509_certificate(read_private(path))
    names = list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    lasts = certificate.not_valid_after_utc - dt.datetime.now(dt.UTC) > dt.timedelta(days=RENEW_BEFORE_DAYS)
    missing = [name for name in wanted if name not in names]
    if missing or not lasts:
        replace_private(path, _server_pem(folder, server, names + missing))


def _issue_client(pool_dir: Path, authority: str, name: str, contributor: str, role: str) -> IssuedCertificate:
    key, certificate = make_client(_load_pair(pool_dir / "pki", authority), name, contributor, role, CLIENT_DAYS)
    return IssuedCertificate(
        name=name,
        contributor=contributor,
        role=role,
        cert_pem=cert_pem(certificate).decode("ascii"),
        key_pem=key_pem(key).decode("ascii"),
        ca_pem=read_private(pool_pki(pool_dir).operator_ca).decode("ascii"),
        serial=f"{certificate.serial_number:040x}",
        not_after_s=certificate.not_valid_after_utc.timestamp(),
    )


def _server_pem(folder: Path, server: str, hosts: Sequence[x509.GeneralName]) -> bytes:
    key, certificate = make_server(_load_pair(folder, "operator-ca"), f"muster-{server}", hosts, SERVER_DAYS)
    return key_pem(key) + cert_pem(certificate)


def _load_pair(folder: Path, authority: str) -> Pair:
    key = serialization.load_pem_private_key(read_private(folder / f"{authority}.key"), password=None)
    certificate = x509.load_pem_x509_certificate(read_private(folder / f"{authority}.pem"))
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{folder / authority}.key: expected an ECDSA key, found {type(key).__name__}")
    return key, certificate


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host.lower())
    except ValueError:
        raise ConfigError(f"host {host!r}: expected an IP address or an ASCII host name") from None
