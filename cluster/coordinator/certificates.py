"""Builds the X.509 certificates of a pool: authorities, servers, clients; ECDSA P-256 with SHA-256.

What it does not do: keep keys, decide who gets what, or touch files (``pki`` does).

Invariants: an authority may sign leaves only (path length 0); a leaf is never an authority and carries exactly one
extended key usage; every certificate begins an hour before now, for machines whose clock is a little behind.
Profile: RFC 5280 sections 4.1 and 4.2.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CLOCK_SKEW = dt.timedelta(hours=1)
Pair = tuple[ec.EllipticCurvePrivateKey, x509.Certificate]


def make_authority(common_name: str, days: int) -> Pair:
    """A self-signed authority good for ``days``."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    now = dt.datetime.now(dt.UTC)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    return key, certificate


def make_server(signer: Pair, common_name: str, hosts: Sequence[x509.GeneralName], days: int) -> Pair:
    """A key and a certificate for a server that is reached under ``hosts``."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    builder = _leaf(subject, key, signer[1], days, ExtendedKeyUsageOID.SERVER_AUTH)
    builder = builder.add_extension(x509.SubjectAlternativeName(hosts), critical=False)
    return key, builder.sign(signer[0], hashes.SHA256())


def make_client(signer: Pair, name: str, contributor: str, role: str, days: int) -> Pair:
    """A key and a certificate for a client: CN=name, O=contributor, OU=role."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, name),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, contributor),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role),
        ]
    )
    builder = _leaf(subject, key, signer[1], days, ExtendedKeyUsageOID.CLIENT_AUTH)
    return key, builder.sign(signer[0], hashes.SHA256())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS 8 in PEM, unencrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def cert_pem(certificate: x509.Certificate) -> bytes:
    """PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def _leaf(
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    signer: x509.Certificate,
    days: int,
    usage: x509.ObjectIdentifier,
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    signer_id = signer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(signer_id),
            critical=False,
        )
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
