"""Who is at the other end of a TLS connection: name, contributor and role out of a peer's certificate.

What it does not do: verify anything. OpenSSL has checked the chain, the dates and the extended key usage before
this reads a field; which CA signed decides who may hold such a name.

Invariants: a subject must have exactly one CN, one O and one OU; names follow one narrow alphabet, so that they can
stand in addresses (``vol://<name>.<nonce>``), paths and logs without escaping; contributors are bounded printable text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from muster.errors import ConfigError

VOLUNTEER = "volunteer"
OPERATOR = "operator"
NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
RESERVED = frozenset({"home", "trusted"})  # what registry and manifest call trusted compute, which nobody audits
MAX_CONTRIBUTOR_CHARS = 64  # RFC 5280 appendix A: ub-organization-name


@dataclass(frozen=True, slots=True)
class PeerIdentity:
    """The subject of a verified certificate: CN, O and OU."""

    name: str
    contributor: str
    role: str


def check_name(name: str) -> str:
    """Return ``name`` if it may be the name of a volunteer or operator.

    Raises:
        ConfigError: otherwise.
    """
    _require_free(name)
    if not NAME_PATTERN.fullmatch(name):
        raise ConfigError(
            f"name {name[:80]!r}: expected 1 to 63 letters, digits, '_' or '-', beginning with a letter or digit"
        )
    return name


def check_contributor(contributor: str) -> str:
    """Return ``contributor`` if it is 1 to 64 printable characters without surrounding blanks.

    Raises:
        ConfigError: otherwise.
    """
    _require_free(contributor)
    usable = 0 < len(contributor) <= MAX_CONTRIBUTOR_CHARS and contributor.isprintable()
    if not usable or contributor != contributor.strip():
        raise ConfigError(
            f"contributor {contributor[:80]!r}: expected 1 to {MAX_CONTRIBUTOR_CHARS} printable characters, "
            "no blanks around"
        )
    return contributor


def _require_free(name: str) -> None:
    if name.strip().casefold() in RESERVED:
        raise ConfigError(f"name {name!r}: reserved for trusted compute; choose another")


def peer_identity(certificate: Mapping[str, Any] | None) -> PeerIdentity | None:
    """Identity out of what ``SSLObject.getpeercert()`` returned; None without a certificate or with another shape."""
    if not certificate:
        return None
    fields: dict[str, list[str]] = {}
    for rdn in certificate.get("subject", ()):
        for key, value in rdn:
            fields.setdefault(key, []).append(value)
    parts = [fields.get(key, []) for key in ("commonName", "organizationName", "organizationalUnitName")]
    if any(len(values) != 1 for values in parts):
        return None
    name, contributor, role = (values[0] for values in parts)
    try:
        return PeerIdentity(check_name(name), check_contributor(contributor), role)
    except ConfigError:
        return None
