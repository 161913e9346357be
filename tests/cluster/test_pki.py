"""The pool's certificates: made once, private, by the right authority, with exactly one purpose each."""

from __future__ import annotations

import contextlib
import ssl
import stat
import sys
import threading

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from muster.cluster.coordinator.identity import PeerIdentity, peer_identity
from muster.cluster.coordinator.pki import create_pool_pki, issue_operator, issue_volunteer, load_secret
from muster.cluster.coordinator.registry import Registry
from muster.errors import ConfigError


@pytest.fixture
def pool(tmp_path):
    return tmp_path / "pool"


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str = "127.0.0.1"):
    """Both ends of a TLS handshake in memory; returns what the server knows of the client."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        server.wrap_bio(to_server, to_client, server_side=True),
        client.wrap_bio(to_client, to_server, server_hostname=name),
    ]
    for _ in range(6):
        for end in ends:
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    return ends[0].getpeercert()


def contexts(tmp_path, pki, issued, authority):
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pki.gateway_cert, pki.gateway_key)
    server.load_verify_locations(authority)
    server.verify_mode = ssl.CERT_REQUIRED
    server.verify_flags |= ssl.VERIFY_X509_STRICT
    client = ssl.create_default_context(cafile=str(pki.operator_ca))
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    pem = tmp_path / "client.pem"
    pem.write_text(issued.key_pem + issued.cert_pem)
    client.load_cert_chain(pem)
    return server, client


def test_a_volunteer_and_the_gateway_accept_each_other(tmp_path, pool):
    pki = create_pool_pki(pool, ["127.0.0.1"])
    server, client = contexts(tmp_path, pki, issue_volunteer(pool, "vol-1", "Alice & Co"), pki.volunteer_ca)
    assert peer_identity(handshake(server, client)) == PeerIdentity("vol-1", "Alice & Co", "volunteer")


def test_a_volunteer_is_nobody_to_the_operators_listener(tmp_path, pool):
    pki = create_pool_pki(pool, ["127.0.0.1"])
    server, client = contexts(tmp_path, pki, issue_volunteer(pool, "vol-1", "Alice"), pki.operator_ca)
    with pytest.raises(ssl.SSLError):
        handshake(server, client)
    server, client = contexts(tmp_path, pki, issue_operator(pool, "op"), pki.operator_ca)
    assert peer_identity(handshake(server, client)) == PeerIdentity("op", "op", "operator")


def test_a_server_certificate_is_no_client_certificate_and_other_hosts_are_refused(tmp_path, pool):
    pki = create_pool_pki(pool, ["127.0.0.1"])
    server, client = contexts(tmp_path, pki, issue_operator(pool, "op"), pki.operator_ca)
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        handshake(server, client, "10.0.0.1")
    client.load_cert_chain(pki.scheduler_cert)
    with pytest.raises(ssl.SSLError):
        handshake(server, client)


def test_creating_again_changes_nothing_and_a_new_host_renews_only_the_servers(pool):
    pki = create_pool_pki(pool, ["127.0.0.1"])
    before = {path: path.read_bytes() for folder in ("pki", "secrets") for path in (pool / folder).iterdir()}
    create_pool_pki(pool, ["127.0.0.1"])
    assert {path: path.read_bytes() for path in before} == before
    create_pool_pki(pool, ["pool.example", "::1"])
    changed = {path.name for path in before if path.read_bytes() != before[path]}
    assert changed == {"gateway.pem", "scheduler.pem"}
    certificate = x509.load_pem_x509_certificate(pki.gateway_cert.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["pool.example"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]


def test_empty_folders_are_filled_and_creators_in_a_race_agree(pool):
    (pool / "pki").mkdir(parents=True)
    (pool / "secrets").mkdir()
    found: list[bytes] = []

    def create():
        pki = create_pool_pki(pool, ["127.0.0.1"])
        found.append(pki.operator_ca.read_bytes() + load_secret(pki.ticket_secret) + load_secret(pki.url_secret))

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert sorted(path.name for path in pool.iterdir()) == ["pki", "secrets"]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX modes")
@pytest.mark.parametrize("name", ["home", "trusted", "Home", "TRUSTED"])
def test_nobody_is_called_like_trusted_compute(pool, name):
    create_pool_pki(pool, ["127.0.0.1"])
    for volunteer, contributor in ((name, "Alice"), ("vol-1", name)):
        with pytest.raises(ConfigError, match="reserved"):
            issue_volunteer(pool, volunteer, contributor)
        registry = Registry(pool)
        with pytest.raises(ConfigError, match="reserved"):
            registry.enrol(volunteer, contributor)
        registry.close()


def test_every_file_is_private(pool):
    create_pool_pki(pool, ["127.0.0.1"])
    modes = {stat.S_IMODE(path.stat().st_mode) for folder in ("pki", "secrets") for path in (pool / folder).iterdir()}
    assert modes == {0o600}


def test_the_subject_and_purpose_of_a_volunteer(pool):
    create_pool_pki(pool, ["127.0.0.1"])
    issued = issue_volunteer(pool, "vol-1", "Alice")
    certificate = x509.load_pem_x509_certificate(issued.cert_pem.encode())
    ous = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
    assert [ou.value for ou in ous] == ["volunteer"]
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert int(issued.serial, 16) == certificate.serial_number


@pytest.mark.parametrize("name", ["", "a b", "a.b", "../x", "-a", "x" * 64, "ä", "a/b", "a\n"])
def test_names_that_could_confuse_an_address_are_refused(pool, name):
    create_pool_pki(pool, ["127.0.0.1"])
    with pytest.raises(ConfigError, match="name"):
        issue_volunteer(pool, name, "Alice")


@pytest.mark.parametrize("contributor", ["", " a", "x" * 65, "a\nb", "a\x00"])
def test_unprintable_contributors_are_refused(pool, contributor):
    create_pool_pki(pool, ["127.0.0.1"])
    with pytest.raises(ConfigError, match="contributor"):
        issue_volunteer(pool, "vol-1", contributor)


def test_without_a_pool_the_error_names_the_file(pool):
    with pytest.raises(ConfigError, match=r"volunteer-ca\.key"):
        issue_volunteer(pool, "vol-1", "Alice")
