"""Bundle files: all that a volunteer or an operator needs to reach one pool, in one private JSON file.

What it does not do: make certificates (``coordinator.pki`` does) or connect anywhere.

Invariants: written with mode 0600 and never over an existing file; read strictly (every field present, bounded, of the
right form, none unknown); the gateway is an https origin without path, so that nothing else can be asked through it.
"""

from __future__ import annotations

import json
import os
import re
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from muster.cluster.private_files import read_private, replace_private, write_private
from muster.errors import ConfigError

VERSION = 1
MAX_TEXT_CHARS = 4096
MAX_PEM_CHARS = 16 * 1024
Kind = Literal["volunteer", "operator"]
_HOST_PORT = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):([0-9]{1,5})")
_PEMS = ("ca", "cert", "key")


@dataclass(frozen=True, slots=True)
class Bundle:
    """What a machine knows of its pool.

    ``scheduler`` is host:port (of the edge for a volunteer, of the trusted listener for an operator), ``gateway`` an
    https origin, ``server_name`` the name in the servers' certificates, ``ca``, ``cert`` and ``key`` are PEM text;
    ``pool_dir`` is set for operators only (their registry is on the same host).
    """

    kind: Kind
    name: str
    contributor: str
    pool: str
    scheduler: str
    gateway: str
    server_name: str
    ca: str
    cert: str
    key: str
    pool_dir: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The JSON object that ``bundle_from_dict`` reads."""
        fields = {key: value for key, value in asdict(self).items() if value is not None}
        return {"v": VERSION, **fields}

    def write(self, path: Path, *, replace: bool = False) -> None:
        """Create ``path``, mode 0600; an existing file is replaced only when ``replace`` says so.

        Raises:
            ConfigError: it exists, or its folder does not.
        """
        data = json.dumps(self.to_dict(), indent=1).encode()
        try:
            if replace:
                replace_private(path, data)
            else:
                write_private(path, data)
        except FileExistsError:
            raise ConfigError(f"{path} exists", hint="choose another name, or delete it first") from None
        except OSError as error:
            raise ConfigError(f"{path}: can't be written: {error.strerror}") from None

    def __repr__(self) -> str:
        return f"Bundle({self.kind} {self.name!r} of {self.contributor!r} at {self.gateway})"  # never the key


def bundle_from_dict(fields: Mapping[str, Any], *, where: str = "bundle") -> Bundle:
    """The bundle in a JSON object.

    Args:
        fields: the object.
        where: what to call it in messages, such as its path.

    Raises:
        ConfigError: a field is missing, unknown, too long or malformed, or the version is another.
    """
    kind = fields.get("kind")
    if fields.get("v") != VERSION or kind not in ("volunteer", "operator"):
        raise ConfigError(f"{where}: expected a volunteer's or operator's bundle of version {VERSION}")
    expected = set(Bundle.__slots__) - (set() if kind == "operator" else {"pool_dir"})
    given = set(fields) - {"v"}
    if given != expected:
        raise ConfigError(
            f"{where}: missing fields {sorted(expected - given)}, unknown fields {sorted(given - expected)}"
        )
    for name in expected:
        limit = MAX_PEM_CHARS if name in _PEMS else MAX_TEXT_CHARS
        value = fields[name]
        if not isinstance(value, str) or not 0 < len(value) <= limit:
            raise ConfigError(f"{where}: {name}: expected text of 1 to {limit} characters")
    bundle = Bundle(**{name: fields[name] for name in expected})
    _check_addresses(bundle, where)
    return bundle


def read_bundle(path: Path, kind: Kind) -> Bundle:
    """The bundle in a file, which must be of ``kind``.

    Raises:
        ConfigError: unreadable, not JSON, malformed, or of the other kind.
    """
    try:
        fields = json.loads(read_private(path))
    except ValueError:
        raise ConfigError(f"{path}: expected a bundle, found something that is not JSON") from None
    if not isinstance(fields, dict):
        raise ConfigError(f"{path}: expected a JSON object, found {type(fields).__name__}")
    bundle = bundle_from_dict(fields, where=str(path))
    if bundle.kind != kind:
        raise ConfigError(f"{path}: expected a bundle of kind {kind!r}, found {bundle.kind!r}")
    return bundle


def client_context(bundle: Bundle) -> ssl.SSLContext:
    """TLS towards this pool's servers: trusts the bundle's CA and nothing else, shows the bundle's certificate.

    The caller passes ``bundle.server_name`` as the server's host name.

    Raises:
        ConfigError: the PEM texts are not usable.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    descriptor, name = tempfile.mkstemp(prefix="muster-", suffix=".pem")  # OpenSSL's binding reads files only
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(bundle.key + "\n" + bundle.cert)
        context.load_verify_locations(cadata=bundle.ca)
        context.load_cert_chain(name)
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(f"bundle of {bundle.name!r}: its certificate or key can't be used: {error}") from None
    finally:
        Path(name).unlink()
    return context


def _check_addresses(bundle: Bundle, where: str) -> None:
    match = _HOST_PORT.fullmatch(bundle.scheduler)
    if match is None or not 0 < int(match[1]) < 65536:
        raise ConfigError(f"{where}: scheduler: expected host:port, found {bundle.scheduler[:80]!r}")
    parts = urlsplit(bundle.gateway)
    match = _HOST_PORT.fullmatch(parts.netloc)
    plain = not (parts.path or parts.query or parts.fragment)
    if parts.scheme != "https" or not plain or match is None or not 0 < int(match[1]) < 65536:
        raise ConfigError(f"{where}: gateway: expected https://host:port, found {bundle.gateway[:80]!r}")
