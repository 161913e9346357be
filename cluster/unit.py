"""The one message that lends work out: which unit of which job, and the ticket that lets one volunteer redeem it.

A Dask task towards a volunteer is always ``execute_unit(<this message as JSON text>)``; there is no other function and
no other argument. The message carries no data, no code and no secret: the volunteer gets all else from the gateway.
What it does not do: execute anything by itself (``set_executor`` says who does), or judge a ticket (the gateway does).

Invariants: every message is short plain ASCII JSON with exactly the known fields; what a peer sent is never forwarded
but rebuilt from the checked fields; in a process without an executor ``execute_unit`` raises.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

MESSAGE_VERSION = 1
MAX_MESSAGE_CHARS = 2048  # a ticket has at most 1024 characters, everything else less than 200
MAX_ISSUE = 2**31 - 1
_HEX_ID = re.compile(r"[0-9a-f]{32}")
_TICKET = re.compile(r"[A-Za-z0-9_.-]{0,1024}")
_REQUIRED = frozenset({"v", "job", "unit", "issue"})
_KNOWN = _REQUIRED | {"ticket"}


class UnitError(Exception):
    """A unit can't be executed here; ``str`` says why in one bounded line (it travels back as the task's error)."""

    def __repr__(self) -> str:
        return str(self)  # Dask reports a failed task by the repr of its exception


@dataclass(frozen=True, slots=True)
class UnitMessage:
    """One issue of one unit: ``job`` and ``unit`` are 32 hex digits; ``ticket`` is empty until the edge stamps it."""

    job: str
    unit: str
    issue: int
    ticket: str = ""

    def to_json(self) -> str:
        """The message as the JSON text that travels."""
        fields: dict[str, object] = {"v": MESSAGE_VERSION, "job": self.job, "unit": self.unit, "issue": self.issue}
        if self.ticket:
            fields["ticket"] = self.ticket
        return json.dumps(fields, separators=(",", ":"))

    def with_ticket(self, ticket: str) -> UnitMessage:
        """The same unit, redeemable by whoever the ticket names.

        Raises:
            UnitError: the ticket has another alphabet or is too long.
        """
        return check_unit(replace(self, ticket=ticket).to_json())


def make_unit(job: str, unit: str, issue: int) -> str:
    """The argument of the Dask task for this issue of the unit.

    Raises:
        UnitError: an id that is not 32 lower-case hex digits, or an issue outside [0, 2**31).
    """
    text = UnitMessage(job, unit, issue).to_json()
    check_unit(text)
    return text


def unit_key(job: str, unit: str, issue: int) -> str:
    """The Dask key of this issue: ``j<job, 8 digits>-<unit>.<issue>``.

    The job comes first because Dask estimates durations, steals and keeps statistics by what stands before the first
    dash: one such group per job is wanted; a key that began with the unit would leave one behind per unit.
    """
    return f"j{job[:8]}-{unit}.{issue}"


def check_unit(text: object) -> UnitMessage:
    """The message in ``text`` if it is one.

    Raises:
        UnitError: anything else; the text says which field is wrong, without repeating what a peer sent.
    """
    if type(text) is not str or len(text) > MAX_MESSAGE_CHARS:
        raise UnitError(f"unit message: expected text of at most {MAX_MESSAGE_CHARS} characters")
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        raise UnitError("unit message: expected JSON") from None
    if type(fields) is not dict or not _REQUIRED <= fields.keys() <= _KNOWN:
        raise UnitError(f"unit message: expected the fields {sorted(_KNOWN)}")
    if fields["v"] != MESSAGE_VERSION or type(fields["v"]) is not int:
        raise UnitError(f"unit message: expected version {MESSAGE_VERSION}")
    job, unit, issue, ticket = fields["job"], fields["unit"], fields["issue"], fields.get("ticket", "")
    for name, value in (("job", job), ("unit", unit)):
        if type(value) is not str or not _HEX_ID.fullmatch(value):
            raise UnitError(f"unit message: expected 32 hex digits as {name}")
    if type(issue) is not int or not 0 <= issue <= MAX_ISSUE:
        raise UnitError("unit message: expected an issue from 0 to 2**31-1")
    if type(ticket) is not str or not _TICKET.fullmatch(ticket):
        raise UnitError("unit message: expected a ticket of at most 1024 characters")
    return UnitMessage(job, unit, issue, ticket)


_executor: Callable[[UnitMessage], None] | None = None


def set_executor(executor: Callable[[UnitMessage], None] | None) -> None:
    """Say what ``execute_unit`` does in this process; None takes it back."""
    global _executor
    _executor = executor


def execute_unit(text: str) -> None:
    """Execute one unit; the only function that Dask ever calls for Muster. The result goes to the gateway, never back.

    Raises:
        UnitError: a malformed message, a process that executes nothing, or the executor's own finding.
    """
    message = check_unit(text)
    if _executor is None:
        raise UnitError("no executor in this process: units run on volunteers only")
    _executor(message)
