"""Keys that sign and check certificates: one private key in a file of its own, pinned public keys in a JSON file.

What it does: makes and loads an Ed25519 signing key (PEM, mode 0600), pins public keys by name.
What it does not do: sign or verify (``certificate`` does), or trust a key because a dataset carries it.

Invariants: the key store is replaced in one rename; a signing key is never overwritten, nor used if others may read it;
a name or key is pinned once, and a pin never changes silently.
"""

from __future__ import annotations

import datetime
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from muster.datasets.certificate import key_id
from muster.errors import ConfigError

_MAX_NBYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class PinnedKey:
    """A public key (hex) that datasets may be signed with; ``pinned_at`` is an ISO 8601 time in UTC."""

    name: str
    key_id: str
    public_key: str
    pinned_at: str


class KeyStore:
    """The pinned keys of one file; a file that is not there is an empty store.

    Raises:
        ConfigError: the file is not a key store.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._keys = _load(path) if path.exists() else []

    @property
    def keys(self) -> list[PinnedKey]:
        """All pinned keys, oldest first."""
        return list(self._keys)

    def find(self, public_key: bytes) -> PinnedKey | None:
        """The pin of a public key, or None."""
        return next((key for key in self._keys if key.public_key == public_key.hex()), None)

    def pin(self, name: str, public_key: bytes) -> PinnedKey:
        """Pin a public key (32 bytes) and save; pinning the same again changes nothing.

        Raises:
            ConfigError: the name is pinned with another key, or the key under another name.
        """
        if len(public_key) != 32:
            raise ConfigError(f"key {name!r}: expected 32 bytes of public key, found {len(public_key)}")
        for known in self._keys:
            if known.name == name and known.public_key == public_key.hex():
                return known
            if known.name == name or known.public_key == public_key.hex():
                raise ConfigError(f"{self.path}: {known.name!r} is pinned already with key {known.key_id}")
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        key = PinnedKey(name, key_id(public_key), public_key.hex(), now)
        self._keys.append(key)
        self._save()
        return key

    def _save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f".{self.path.name}.{os.urandom(6).hex()}")
        document = {"v": 1, "keys": [asdict(key) for key in self._keys]}
        temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        temporary.replace(self.path)


def create_signing_key(path: Path) -> Ed25519PrivateKey:
    """Make a signing key and write it (PEM, mode 0600).

    Raises:
        ConfigError: the file exists, or can't be written.
    """
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise ConfigError(f"{path}: a signing key is there already, it is never overwritten") from None
    except OSError as err:
        raise ConfigError(f"{path}: can't be written: {err.strerror}") from err
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())
    return key


def load_signing_key(path: Path) -> Ed25519PrivateKey:
    """Load a signing key.

    Raises:
        ConfigError: no file, not an Ed25519 key, or (on POSIX) readable by others than its owner.
    """
    try:
        mode, pem = path.stat().st_mode, path.read_bytes()
    except OSError as err:
        raise ConfigError(f"{path}: signing key can't be read: {err.strerror}") from err
    if os.name == "posix" and mode & 0o077:
        raise ConfigError(f"{path}: signing key is open to others (mode {mode & 0o777:o})", hint=f"chmod 600 {path}")
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError(f"{path}: expected an unencrypted PEM private key") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{path}: expected an Ed25519 key, found {type(key).__name__}")
    return key


def _load(path: Path) -> list[PinnedKey]:
    try:
        if path.stat().st_size > _MAX_NBYTES:
            raise ConfigError(f"{path}: key store of more than {_MAX_NBYTES} bytes")
        document = json.loads(path.read_bytes())
        keys = [PinnedKey(**{name: str(value) for name, value in key.items()}) for key in document["keys"]]
        wrong = [key.name for key in keys if key_id(bytes.fromhex(key.public_key)) != key.key_id]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as err:
        raise ConfigError(f"{path}: not a key store: {err}") from err
    if document.get("v") != 1 or wrong:
        raise ConfigError(f"{path}: expected version 1 and ids that fit their keys; wrong: {wrong}")
    return keys
