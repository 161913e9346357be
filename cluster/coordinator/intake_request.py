"""What intake's supervisor asks its sandboxed child and what may come back, as bounded JSON with a length before it.

What it does not do: hold any data; the bytes go through file descriptors that travel with the request.

Invariants: both sides read at most the stated bounds; a reply is rebuilt field by field from checked values, because
the child has read a stranger's bytes and may be the stranger's by now.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from muster.errors import printable

MAX_REQUEST_NBYTES = 1 << 22
MAX_REPLY_NBYTES = 1 << 14
MAX_TEXT_CHARS = 500
LENGTH = struct.Struct(">I")
_KIND = re.compile(r"[a-z][a-z-]{0,39}")
_HEX = re.compile(r"[0-9a-f]{64}")
_COUNTS = ("kept", "rejected", "kept_nbytes", "rejects_nbytes")


class ProtocolError(Exception):
    """The other side sent something that is not a message."""


@dataclass(frozen=True, slots=True)
class IntakeRequest:
    """One upload to open: its chunk's rows, the result schema (base64 of its IPC form), limits, the file's name.

    ``max_nbytes`` bounds what the upload inflates to, ``cpu_s`` the processor time that the child may spend on it.
    """

    schema: str
    first_row: int
    n_rows: int
    file_name: str
    max_nbytes: int
    cpu_s: int


@dataclass(frozen=True, slots=True)
class IntakeFinding:
    """The upload is refused: a stable word and printable text."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class IntakeOutcome:
    """The upload is a result: what was written. The fields are those of ``datasets.results.AcceptedInfo``."""

    digest: str
    kept: int
    rejected: int
    kept_nbytes: int
    kept_blake3: str
    rejects_nbytes: int
    rejects_blake3: str


def encode(message: IntakeRequest | IntakeFinding | IntakeOutcome) -> bytes:
    """Length and JSON of a message."""
    body = json.dumps(asdict(message)).encode()
    return LENGTH.pack(len(body)) + body


def read_message(receive: Callable[[int], bytes], max_nbytes: int) -> dict[str, Any]:
    """The next message, given a function that returns up to n bytes (b"" at the end).

    Raises:
        EOFError: the other side is gone. ProtocolError: too long, or not a JSON object.
    """
    (nbytes,) = LENGTH.unpack(_exactly(receive, LENGTH.size))
    return read_body(receive, nbytes, max_nbytes)


def read_body(receive: Callable[[int], bytes], nbytes: int, max_nbytes: int) -> dict[str, Any]:
    """The JSON object of ``nbytes`` that follows a length.

    Raises:
        EOFError: the other side is gone. ProtocolError: too long, or not a JSON object.
    """
    if nbytes > max_nbytes:
        raise ProtocolError(f"a message of {nbytes} bytes, at most {max_nbytes} allowed")
    try:
        fields = json.loads(_exactly(receive, nbytes))
    except (ValueError, RecursionError):
        raise ProtocolError("not JSON") from None
    if not isinstance(fields, dict):
        raise ProtocolError("not a JSON object")
    return fields


def parse_reply(fields: dict[str, Any], n_rows: int) -> IntakeOutcome | IntakeFinding:
    """The child's answer for a chunk of ``n_rows`` rows.

    Raises:
        ProtocolError: a field is missing, unknown, of another type or out of bounds, or the rows don't add up.
    """
    if set(fields) == {"kind", "text"}:
        kind, text = fields["kind"], fields["text"]
        if not isinstance(kind, str) or not _KIND.fullmatch(kind) or not isinstance(text, str):
            raise ProtocolError("a finding of another form")
        return IntakeFinding(kind, printable(text, MAX_TEXT_CHARS))
    if set(fields) != set(IntakeOutcome.__slots__):
        raise ProtocolError("unknown or missing fields")
    if any(type(fields[name]) is not int or not 0 <= fields[name] < 2**48 for name in _COUNTS):
        raise ProtocolError("a count out of bounds")
    for name in ("digest", "kept_blake3", "rejects_blake3"):
        empty = name == "rejects_blake3" and fields["rejected"] == 0 and fields[name] == ""
        if not empty and (not isinstance(fields[name], str) or not _HEX.fullmatch(fields[name])):
            raise ProtocolError(f"{name}: not a digest")
    if fields["kept"] + fields["rejected"] != n_rows:
        raise ProtocolError("kept and rejected rows are not those of the chunk")
    return IntakeOutcome(**fields)


def _exactly(receive: Callable[[int], bytes], nbytes: int) -> bytes:
    data = bytearray()
    while len(data) < nbytes:
        piece = receive(min(nbytes - len(data), 1 << 16))
        if not piece:
            raise EOFError
        data += piece
    return bytes(data)
