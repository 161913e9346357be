"""Say where a line stops being JSON (RFC 8259), in words that never change.

Rejects are compared bit by bit between machines, so their text must not come from a parser whose messages differ
between versions. This scanner runs on bad lines only; it does not build values.

Invariants: its answer depends on the line alone; it uses no recursion, so depth can't exhaust the stack.
"""

from __future__ import annotations

import re

_STRING = rb'"(?:[^"\\\x00-\x1f]++|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+"'
_NUMBER = rb"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][+-]?[0-9]++)?+"
_TOKEN = re.compile(
    rb"(?P<string>" + _STRING + rb")|(?P<number>" + _NUMBER + rb")|(?P<word>true|false|null)|(?P<mark>[{}\[\]:,])"
)
_SPACE = re.compile(rb"[ \t\r\n]*+")
# What may come next in each state, as the message says it.
_EXPECTED = {
    "value": "a value",
    "first": "a value or ']'",
    "key": "a name in double quotes",
    "first-key": "a name in double quotes or '}'",
    "colon": "':'",
    "after-item": "',' or ']'",
    "after-member": "',' or '}'",
    "end": "the end of the line",
}


def json_fault(line: bytes) -> str:
    """Return e.g. ``invalid JSON: expected ':' at column 9`` (1-based, in characters) for a line that is not JSON."""
    state, stack, at = "value", bytearray(), 0
    while True:
        space = _SPACE.match(line, at)
        at = space.end() if space else at
        if at == len(line) and state == "end":
            return "invalid JSON: a number, an escape or the nesting is out of range"
        token = _TOKEN.match(line, at)
        if token is None:
            break
        following = _advance(state, token.lastgroup or "", line[at : at + 1], stack)
        if following is None:
            break
        state, at = following, token.end()
    column = len(line[:at].decode("utf-8", "replace")) + 1
    return f"invalid JSON: expected {_EXPECTED[state]} at column {column}"


def _advance(state: str, group: str, mark: bytes, stack: bytearray) -> str | None:
    """Return the state after a token, None if the token may not come here; keeps the stack of open brackets."""
    if state in {"value", "first"}:
        if mark == b"]" and state == "first":
            return _close(stack)
        if group == "mark":
            if mark not in {b"{", b"["}:
                return None
            stack += mark
            return "first-key" if mark == b"{" else "first"
        return _after(stack)
    if state in {"key", "first-key"}:
        if mark == b"}" and state == "first-key":
            return _close(stack)
        return "colon" if group == "string" else None
    if state == "colon":
        return "value" if mark == b":" else None
    if state == "after-item":
        return "value" if mark == b"," else _close(stack) if mark == b"]" else None
    if state == "after-member":
        return "key" if mark == b"," else _close(stack) if mark == b"}" else None
    return None


def _close(stack: bytearray) -> str:
    stack.pop()
    return _after(stack)


def _after(stack: bytearray) -> str:
    if not stack:
        return "end"
    return "after-item" if stack[-1:] == b"[" else "after-member"
