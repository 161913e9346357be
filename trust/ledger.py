"""Ledger mathematics: what a leaf is, byte for byte, how leaves hash to a root, and how keys are committed to.

A leaf is canonical JSON (RFC 8785 restricted to what needs no number formatting: strings, integers within ±(2^53 - 1),
booleans, null, lists, objects with ASCII keys; never floats): UTF-8, keys sorted, no spaces. Leaf and node hashes are
those of RFC 6962 section 2.1. The ``…_leaf`` functions return a leaf's canonical bytes (``time_s``: seconds
since the epoch, kept to the millisecond). Signing, storage and tree heads are done elsewhere.

Invariants: equal leaves have equal bytes on every machine and Python; nothing that cannot be encoded canonically is
encoded at all (``JobError``); a leaf holds no data of the job.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from muster.errors import JobError
from muster.trust.events import RecordVerdict
from muster.trust.final_audit import RoundOutcome, RoundPlan
from muster.trust.policy import Policy, decimal_text
from muster.trust.sampling import KEY_NBYTES

LEAF_VERSION = 1
MAX_LEAF_NBYTES = 65536
_MAX_INT = 2**53 - 1  # beyond it JSON readers disagree
EMPTY_ROOT = hashlib.sha256(b"").hexdigest()

KEY_PURPOSES = ("final", "in-flight")


@dataclass(frozen=True, slots=True)
class Leaf:
    """One entry: ``kind``, milliseconds since the epoch, job id and the kind's fields."""

    kind: str
    time_ms: int
    job: str
    fields: Mapping[str, Any]

    def encode(self) -> bytes:
        """Canonical bytes. Raises ``JobError`` for values without a canonical form or more than 64 KiB."""
        content = {
            "v": LEAF_VERSION,
            "kind": self.kind,
            "time_ms": self.time_ms,
            "job": self.job,
            "fields": dict(self.fields),
        }
        encoded = canonical_json(content)
        if len(encoded) > MAX_LEAF_NBYTES:
            raise JobError(f"ledger leaf {self.kind}: expected at most {MAX_LEAF_NBYTES} bytes, got {len(encoded)}")
        return encoded


def job_opened_leaf(time_s: float, job: str, policy: Policy, *, final_key: bytes, in_flight_key: bytes) -> bytes:
    """Commits to both keys and the demands, before the first unit goes out. The keys stay secret."""
    fields = {
        "final_commitment": key_commitment("final", job, final_key),
        "in_flight_commitment": key_commitment("in-flight", job, in_flight_key),
        "max_error": decimal_text(policy.max_error),
        "confidence": decimal_text(policy.confidence),
    }
    return _leaf("job-opened", time_s, job, fields)


def verdict_leaf(time_s: float, job: str, recorded: RecordVerdict) -> bytes:
    """A decision of ``decide``."""
    return _leaf("verdict", time_s, job, {"verdict": recorded.kind, **recorded.fields})


def round_drawn_leaf(time_s: float, job: str, plan: RoundPlan) -> bytes:
    """A round's root and sizes, before anything is recomputed."""
    strata = {s.name: {"population": s.population, "rows": s.n_rows} for s in plan.strata}
    fields = {"round": plan.round, "root": plan.root, "alpha": decimal_text(plan.alpha), "strata": strata}
    return _leaf("round-drawn", time_s, job, fields)


def round_concluded_leaf(time_s: float, job: str, outcome: RoundOutcome) -> bytes:
    """A round's outcome."""
    fields = {
        "round": outcome.round,
        "result": outcome.result.value,
        "rows": outcome.rows_recomputed,
        "caught": list(outcome.contributors),
        "to_home": list(outcome.to_home),
    }
    return _leaf("round-concluded", time_s, job, fields)


def certified_leaf(time_s: float, job: str, claims: Mapping[str, Any]) -> bytes:
    """The claims that the dataset's certificate signs (``certificate.Claims.to_dict``), by hash."""
    fields = {"claims_sha256": hashlib.sha256(canonical_json(claims)).hexdigest(), "grade": claims["grade"]}
    return _leaf("certified", time_s, job, fields)


def key_revealed_leaf(time_s: float, job: str, purpose: str, key: bytes) -> bytes:
    """The key itself, once nothing can be drawn with it any more."""
    key_commitment(purpose, job, key)  # refuses unknown purposes and short keys
    return _leaf("key-revealed", time_s, job, {"purpose": purpose, "key": key.hex()})


def _leaf(kind: str, time_s: float, job: str, fields: Mapping[str, Any]) -> bytes:
    return Leaf(kind, int(time_s * 1000), job, fields).encode()


def key_commitment(purpose: str, job: str, key: bytes) -> str:
    """SHA-256 over purpose, job and key, hex. Hiding because keys are 32 random bytes; binding by SHA-256."""
    if purpose not in KEY_PURPOSES:
        raise JobError(f"expected a key purpose of {KEY_PURPOSES}, got {purpose!r}")
    if len(key) != KEY_NBYTES:
        raise JobError(f"expected an audit key of {KEY_NBYTES} bytes, got {len(key)}")
    return hashlib.sha256(canonical_json(["muster-key-v1", purpose, job, key.hex()])).hexdigest()


def check_key(commitment: str, purpose: str, job: str, key: bytes) -> bool:
    """True if ``key`` is the one that was committed to."""
    return hmac.compare_digest(commitment.encode(), key_commitment(purpose, job, key).encode())


def canonical_json(value: Any) -> bytes:
    """Canonical bytes of a JSON value without floats. Raises ``JobError`` for anything else."""
    _check_canonical(value)
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise JobError(f"ledger: text that is not valid Unicode: {error}") from error


def _check_canonical(value: Any) -> None:
    if value is None or isinstance(value, str | bool):
        return
    if isinstance(value, int):
        if abs(value) > _MAX_INT:
            raise JobError(f"ledger: expected integers within ±(2^53 - 1), got {value}")
    elif isinstance(value, list | tuple):
        for item in value:
            _check_canonical(item)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str) or not key.isascii():
                raise JobError(f"ledger: expected ASCII keys, got {key!r}")
            _check_canonical(item)
    else:
        raise JobError(f"ledger: {type(value).__name__} has no canonical form: {value!r}")


def hash_leaf(encoded: bytes) -> bytes:
    """RFC 6962: SHA-256(0x00 || leaf)."""
    return hashlib.sha256(b"\x00" + encoded).digest()


def hash_node(left: bytes, right: bytes) -> bytes:
    """RFC 6962: SHA-256(0x01 || left || right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def merkle_root(leaf_hashes: Iterable[bytes]) -> bytes:
    """RFC 6962 tree head over leaf hashes; O(log n) memory; SHA-256 of nothing for no leaves."""
    peaks: list[tuple[int, bytes]] = []  # (height, hash) of the complete subtrees so far, left to right
    for leaf in leaf_hashes:
        height, node = 0, leaf
        while peaks and peaks[-1][0] == height:
            node = hash_node(peaks.pop()[1], node)
            height += 1
        peaks.append((height, node))
    return _join([node for _, node in peaks])


def _join(peaks: Sequence[bytes]) -> bytes:
    if not peaks:
        return bytes.fromhex(EMPTY_ROOT)
    root = peaks[-1]
    for node in reversed(peaks[:-1]):
        root = hash_node(node, root)
    return root
