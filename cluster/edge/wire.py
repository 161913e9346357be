"""Bytes of the volunteers' wire: a 4-byte length, then plain msgpack; and the checks of single fields.

Plain means maps, arrays, text, numbers, booleans and nil. There is no binary, no extension type, no hook that builds an
object, and nothing of ``distributed.protocol``: whatever arrives, no class of anybody's choice comes into being.
What it does not do: know which messages exist (``schema`` and ``volunteer_schema`` do).

Invariants: ``decode`` returns only dict, list, str, int, float, bool and None, or raises Violation; text that passed
``text`` is printable and bounded.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from typing import Any, NoReturn

import msgpack

SCHEME = "vol"
PREFIX = f"{SCHEME}://"  # of every address on this wire
WIRE_VERSION = 1
HEADER = struct.Struct("!I")
MAX_ARRAY = 20_000
MAX_MAP = 2_000
_KEY = re.compile(r"[\x21-\x7e]{1,200}")
_NONCE = re.compile(r"[a-z0-9]{8,32}")
_VERSION = re.compile(r"[0-9A-Za-z.+!-]{1,40}")


class Violation(Exception):  # noqa: N818 - a finding about the peer
    """The peer said something that the protocol does not know; the connection ends."""


def encode(message: object, max_nbytes: int) -> bytes:
    """Length header and body of ``message``; raises Violation when it is larger than ``max_nbytes``."""
    body: bytes = msgpack.packb(message, use_bin_type=True)
    if len(body) > max_nbytes:
        raise Violation(f"message of {len(body)} bytes, at most {max_nbytes} go out at once")
    return HEADER.pack(len(body)) + body


def decode(body: bytes) -> object:
    """The plain data in ``body``; raises Violation for anything else."""
    try:
        return msgpack.unpackb(
            body,
            raw=False,
            strict_map_key=True,
            use_list=True,
            ext_hook=_refuse_ext,
            max_str_len=len(body),
            max_bin_len=0,
            max_ext_len=0,
            max_array_len=MAX_ARRAY,
            max_map_len=MAX_MAP,
        )
    except Violation:
        raise
    except Exception as error:  # whatever msgpack raises for bytes that a stranger sent
        raise Violation(f"undecodable message: {type(error).__name__}") from None


def _refuse_ext(_code: int, _data: bytes) -> NoReturn:
    raise Violation("extension type")


def number(value: object, low: float = 0.0, high: float = 1e15) -> float:
    """A finite number, clamped to [low, high]; bool is none."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise Violation("number expected")
    return min(max(value, low), high)


def integer(value: object, low: int = 0, high: int = 2**53) -> int:
    """An int within [low, high]; bool is none."""
    if type(value) is not int or not low <= value <= high:
        raise Violation(f"whole number from {low} to {high} expected")
    return value


def text(value: object, max_chars: int = 300) -> str:
    """Text cut to ``max_chars``, with everything that is not printable replaced by '?' (newlines stay)."""
    if type(value) is not str:
        raise Violation("text expected")
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in value[:max_chars])


def key(value: object) -> str:
    """A Dask key: 1 to 200 visible ASCII characters."""
    if type(value) is not str or not _KEY.fullmatch(value):
        raise Violation("key expected")
    return value


def nonce(value: object) -> str:
    """A process nonce: 8 to 32 lower-case letters or digits."""
    if type(value) is not str or not _NONCE.fullmatch(value):
        raise Violation("nonce expected")
    return value


def version(value: object) -> str:
    """A package version."""
    if type(value) is not str or not _VERSION.fullmatch(value):
        raise Violation("version expected")
    return value


def mapping(value: object) -> Mapping[str, Any]:
    """A map."""
    if type(value) is not dict:
        raise Violation("map expected")
    return value


def entries(value: object, max_entries: int) -> list[Any]:
    """An array of at most ``max_entries``."""
    if type(value) is not list or len(value) > max_entries:
        raise Violation(f"array of at most {max_entries} expected")
    return value
