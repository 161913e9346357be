"""What the gateway answers to a redeemed ticket, read strictly: the volunteer doesn't trust the coordinator's answers.

What it does not do: look into recipe, schema or chunk (their own readers are strict too).

Invariants: every field is there, of its type and bounded; the paths are this attempt's own on the gateway's origin and
can't name another host, scheme or route.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

MAX_FIELD_CHARS = 1 << 21
MAX_UPLOAD_NBYTES = 1 << 34
_ATTEMPT = re.compile(r"[0-9a-f]{16,64}")
_QUERY = r"\?exp=[0-9]{1,12}&sig=[A-Za-z0-9_-]{43}"
_ETAG = re.compile(r"[A-Za-z0-9._:+/=-]{1,256}")


@dataclass(frozen=True, slots=True)
class Assignment:
    """One attempt at one unit.

    ``recipe`` and ``chunk`` are JSON, ``build`` is the recipe's identity by the pool's kernels, ``schema`` is the
    base64 of the frozen input schema; paths hold their signatures and are good until ``expires_s`` (epoch seconds by
    the gateway's clock); ``ticket`` renews them.
    """

    attempt: str
    ticket: str
    expires_s: float
    recipe: str
    build: str
    schema: str
    chunk: str
    input_path: str
    etag: str
    upload_path: str
    max_upload_nbytes: int


def parse_assignment(body: bytes, ticket: str) -> Assignment:
    """The assignment in the gateway's answer.

    Raises:
        ValueError: anything missing, of another type, too long or of another form.
    """
    fields = json.loads(body)
    if not isinstance(fields, dict):
        raise ValueError("expected a JSON object")
    attempt = _text(fields, "attempt")
    if not _ATTEMPT.fullmatch(attempt):
        raise ValueError("attempt: expected lower-case hex")
    source, target, expires_s = fields.get("input"), fields.get("upload"), fields.get("expires_s")
    if not isinstance(source, dict) or not isinstance(target, dict) or not isinstance(expires_s, int | float):
        raise ValueError("input, upload: expected objects; expires_s: a number")
    limit = target.get("max_nbytes")
    if type(limit) is not int or not 0 < limit <= MAX_UPLOAD_NBYTES:
        raise ValueError("upload.max_nbytes: expected a positive number of bytes")
    etag = _text(source, "etag")
    if not _ETAG.fullmatch(etag):
        raise ValueError("input.etag: expected a plain token")
    return Assignment(
        attempt=attempt,
        ticket=ticket,
        expires_s=float(expires_s),
        recipe=_text(fields, "recipe"),
        build=_text(fields, "build"),
        schema=_text(fields, "schema"),
        chunk=_text(fields, "chunk"),
        input_path=_path(source, "input", attempt),
        etag=etag,
        upload_path=_path(target, "upload", attempt),
        max_upload_nbytes=limit,
    )


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= MAX_FIELD_CHARS:
        raise ValueError(f"{name}: expected text of 1 to {MAX_FIELD_CHARS} characters")
    return value


def _path(fields: dict[str, Any], route: str, attempt: str) -> str:
    path = _text(fields, "path")
    if not re.fullmatch(f"/v1/{route}/{attempt}{_QUERY}", path):
        raise ValueError(f"{route}.path: expected this attempt's signed path")
    return path
