"""The certificate: the signed statement on a published dataset, as canonical JSON.

What it does: builds the part of the certificate that describes the dataset's files, signs and checks documents
(Ed25519), and reads them strictly.
What it does not do: word the statement (the caller gives those fields), keep keys (``keystore``), or look at files
(``verify``).

A certificate file is the canonical JSON of one object and a newline. Canonical: keys sorted, no spaces, ASCII with
``\\u`` escapes, integers within ±(2^53 - 1), no floats (a number like 0.001 is written as the string ``"0.001"``, so
that no two programs print it differently). The signature is over ``muster-certificate-1``, a newline and the canonical
JSON of the object without its ``signature`` block ``{alg, key_id, public_key, signature}``.

Invariants: a file that is not byte for byte canonical is refused, so no byte of it can change unseen; documents are at
most ``MAX_CERTIFICATE_NBYTES`` long.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from blake3 import blake3
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from muster.datasets.manifest import Manifest
from muster.datasets.publish import PublishedFile
from muster.datasets.publish_targets import CERTIFICATE_FILE, MAX_CERTIFICATE_NBYTES
from muster.errors import VerificationError

CERTIFICATE_VERSION = 1
_DOMAIN = b"muster-certificate-1\n"
_MAX_INT = (1 << 53) - 1
_MAX_DEPTH = 16
_OWN_FIELDS = {"muster", "job", "rows", "manifest", "rejects", "parts", "signature"}


def certificate_body(
    job: str,
    manifest: Manifest,
    manifest_file: PublishedFile,
    rejects_file: PublishedFile | None,
    fields: Mapping[str, Any],
) -> dict[str, Any]:
    """The unsigned certificate: what describes the dataset's files, and the caller's fields beside it.

    Args:
        job: the job's id.
        manifest: the rows, part fields set.
        manifest_file: from ``Publication.add_manifest``.
        rejects_file: from ``Publication.add_rejects``.
        fields: recipe, source, statement …; JSON values without floats.

    Raises:
        ValueError: a field has one of the names used here, a float, or another value without canonical form.
    """
    clash = _OWN_FIELDS & set(fields)
    if clash:
        raise ValueError(f"certificate fields {sorted(clash)} are set by Muster itself")
    n_rows, kept, rejected = (int(manifest.column(name).sum()) for name in ("n_rows", "kept", "rejected"))
    body = {
        **fields,
        "muster": CERTIFICATE_VERSION,
        "job": job,
        "rows": {"input": n_rows, "kept": kept, "rejected": rejected},
        "parts": {"count": len(manifest), "nbytes": int(manifest.column("part_nbytes").sum())},
        "manifest": {"blake3": manifest_file.blake3, "nbytes": manifest_file.nbytes, "root": manifest.root()},
        "rejects": None
        if rejects_file is None
        else {"blake3": rejects_file.blake3, "nbytes": rejects_file.nbytes, "rows": rejects_file.rows},
    }
    canonical_json(body)
    return body


def canonical_json(value: Any) -> bytes:
    """Canonical JSON; ValueError for floats, integers past ±(2^53 - 1), non-string keys and anything else not JSON."""
    _check_value(value, "certificate", 0)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def sign_certificate(body: Mapping[str, Any], key: Ed25519PrivateKey) -> bytes:
    """The bytes of the certificate file: the body with its signature block."""
    public = key.public_key().public_bytes_raw()
    block = {
        "alg": "Ed25519",
        "key_id": key_id(public),
        "public_key": public.hex(),
        "signature": key.sign(_DOMAIN + canonical_json(dict(body))).hex(),
    }
    return canonical_json({**body, "signature": block}) + b"\n"


def read_certificate(data: bytes) -> dict[str, Any]:
    """Parse a certificate file and check its signature against the key that it carries.

    Whether that key may be believed is the caller's question (``keystore``, ``verify``).

    Raises:
        VerificationError: too long, not canonical JSON, a malformed signature block, or a signature that is not one.
    """
    if len(data) > MAX_CERTIFICATE_NBYTES:
        raise _bad(f"expected at most {MAX_CERTIFICATE_NBYTES} bytes, found more")
    try:
        document = json.loads(data)
        canonical = canonical_json(document) + b"\n"
    except (ValueError, RecursionError) as err:
        raise _bad(f"expected canonical JSON, found something else: {err}") from None
    if canonical != data:
        at = next(i for i, (a, b) in enumerate(zip(canonical + b"\0", data + b"\0", strict=False)) if a != b)
        raise _bad(f"not canonical JSON: first difference at byte {at}")
    if not isinstance(document, dict) or document.get("muster") != CERTIFICATE_VERSION:
        raise _bad(f"expected a certificate of version {CERTIFICATE_VERSION}")
    _check_signature(document)
    return document


def key_id(public_key: bytes) -> str:
    """Id of a public key: 32 hex digits of its blake3."""
    return str(blake3(public_key).hexdigest())[:32]


def _check_signature(document: dict[str, Any]) -> None:
    block = document.get("signature")
    if not isinstance(block, dict) or set(block) != {"alg", "key_id", "public_key", "signature"}:
        raise _bad("signature: expected a block of alg, key_id, public_key and signature")
    if block["alg"] != "Ed25519":
        raise _bad(f"signature: expected alg Ed25519, found {block['alg']!r:.40}")
    try:
        public, signature = bytes.fromhex(block["public_key"]), bytes.fromhex(block["signature"])
        key = Ed25519PublicKey.from_public_bytes(public)
    except (TypeError, ValueError):
        raise _bad("signature: public_key and signature must be hex of 32 and 64 bytes") from None
    if block["key_id"] != key_id(public):
        raise _bad(f"signature: expected key_id {key_id(public)}, found {block['key_id']!r:.80}")
    body = {name: value for name, value in document.items() if name != "signature"}
    try:
        key.verify(signature, _DOMAIN + canonical_json(body))
    except InvalidSignature:
        raise _bad("the signature does not fit: the certificate was changed after it was signed") from None


def _check_value(value: Any, where: str, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise ValueError(f"{where}: nested too deeply")
    if isinstance(value, dict):
        for name, inner in value.items():
            if not isinstance(name, str):
                raise ValueError(f"{where}: key {name!r} is not a string")
            _check_value(inner, f"{where}.{name}", depth + 1)
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            _check_value(inner, f"{where}[{i}]", depth + 1)
    elif isinstance(value, int):
        if abs(value) > _MAX_INT:
            raise ValueError(f"{where}: integer {value} is beyond 2^53 - 1; write it as a string")
    elif isinstance(value, float):
        raise ValueError(f"{where}: float {value}; write it as a string")
    elif not (value is None or isinstance(value, str)):
        raise ValueError(f"{where}: {type(value).__name__} is not JSON")


def _bad(text: str) -> VerificationError:
    return VerificationError(f"{CERTIFICATE_FILE}: {text}")
