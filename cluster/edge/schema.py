"""The coordinator's side of the protocol: what a volunteer may say, and what leaves the scheduler for a volunteer.

Inbound messages are not filtered but rebuilt: each known message is made anew from its checked fields, with constants
for whatever Dask would otherwise take on trust. Outbound, a task passes only if it is ``execute_unit`` of one unit
message.
What it does not do: I/O, or anything by certificate (``door``, ``scheduler_side``).

Invariants: no value of a peer reaches the scheduler unless a function of ``wire`` passed it; ``worker``, ``address``,
``name``, types, sizes and metadata are never the peer's; a claim about a task counts only from the volunteer that the
scheduler gave it to. The field names mirror distributed 2026.8.0 (``Scheduler.add_worker``, ``heartbeat_worker``,
``TaskFinishedMsg``, ``TaskErredMsg``); a new field there is dropped here, a new message ends the connection.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from dask._task_spec import Task
from distributed.protocol.serialize import ToPickle
from distributed.versions import get_versions

from muster.cluster.edge.wire import PREFIX, Violation, entries, integer, key, mapping, number, text
from muster.cluster.unit import UnitError, UnitMessage, check_unit, execute_unit

Message = dict[str, Any]
_STATUSES = ("init", "running", "paused", "closing", "closing_gracefully")
_COUNTED_STATES = ("executing", "ready", "memory", "constrained")
_TIMED_ACTIONS = ("compute", "deserialize", "disk-read", "transfer")
# Sent by an honest worker, of no use here: dropped without a word.
_DROPPED = frozenset({"log-event", "release-worker-data", "add-keys", "long-running", "request-refresh-who-has"})
_OUTGOING: dict[str, tuple[str, ...]] = {
    "free-keys": ("keys",),
    "cancel-compute": ("key",),
    "close": ("reason",),
    "steal-request": ("key",),
    "worker-status-change": ("status",),
    "remove-replicas": ("keys",),
}
_REPLY_FIELDS = ("status", "time", "heartbeat-interval", "message")


class RefusedTask(Exception):  # noqa: N818 - a finding about a task
    """A task of the trusted side that may not go to a volunteer; ``str`` says why."""

    def __init__(self, task_key: str, run_id: int, why: str) -> None:
        super().__init__(why)
        self.task_key = task_key
        self.run_id = run_id


def check_request(message: object, address: str, max_threads: int) -> Message:
    """A request rebuilt for the scheduler; ``address`` is the sender's, assigned by the edge.

    Raises:
        Violation: another request than register-worker, heartbeat_worker or close, or a wrong field.
    """
    fields = mapping(message)
    op = fields.get("op")
    if op == "heartbeat_worker":
        now_s, metrics = number(fields.get("now", 0)), _metrics(fields.get("metrics"))
        return {
            "op": op,
            "reply": True,
            "address": address,
            "resolve_address": False,
            "now": now_s,
            "metrics": metrics,
        }
    if op == "register-worker":
        return _registration(fields, address, max_threads)
    if op == "close":
        return {"op": op, "reply": False}
    raise Violation(f"request {text(op, 40) if isinstance(op, str) else type(op).__name__!r} is not for volunteers")


def _registration(fields: Mapping[str, Any], address: str, max_threads: int) -> Message:
    return {
        "op": "register-worker",
        "reply": False,
        "address": address,
        "resolve_address": False,
        "status": _status(fields.get("status")),
        "nthreads": min(integer(fields.get("nthreads"), 1), max_threads),
        "name": address.removeprefix(PREFIX),
        "now": number(fields.get("now", 0)),
        "resources": {},
        "memory_limit": 0,
        "metrics": _metrics(fields.get("metrics")),
        "pid": 0,
        "services": {},
        "local_directory": "",
        "versions": _own_versions(),
        "nanny": None,
        "extra": {},
        "stimulus_id": "register-volunteer",
        "server_id": address,
    }


@lru_cache(maxsize=1)
def _own_versions() -> Message:
    """The scheduler's own versions: the volunteer's are compared by the hello, in our words, not by Dask."""
    return dict(get_versions())


def _status(value: object) -> str:
    if value not in _STATUSES:
        raise Violation("worker status expected")
    return str(value)


def _metrics(value: object) -> Message:
    fields = mapping(value)
    counts = fields.get("task_counts")
    counts = counts if type(counts) is dict else {}
    transfer = {f"{way}_{what}": 0 for way in ("incoming", "outgoing") for what in ("bytes", "count", "count_total")}
    return {
        "task_counts": {state: integer(counts[state]) for state in _COUNTED_STATES if state in counts},
        "bandwidth": {"total": 1e8, "workers": {}, "types": {}},
        "digests_total_since_heartbeat": {},
        "managed_bytes": 0,
        "spilled_bytes": {"memory": 0, "disk": 0},
        "transfer": transfer,
        "event_loop_interval": number(fields.get("event_loop_interval", 0), 0, 60),
        "cpu": number(fields.get("cpu", 0), 0, 1e5),
        "memory": integer(fields.get("memory", 0)),
        "time": number(fields.get("time", 0)),
        "num_fds": 0,
        "host_net_io": {"read_bps": 0, "write_bps": 0},
        "host_disk_io": {"read_bps": 0, "write_bps": 0},
    }


def check_stream(message: object, address: str, holder_of: Callable[[str], str | None]) -> Message | None:
    """One entry of a volunteer's stream rebuilt for the scheduler, or None for one that is dropped.

    Args:
        message: what was decoded.
        address: the sender's, assigned by the edge.
        holder_of: address of the worker that a key was given to, None for unknown keys.

    Raises:
        Violation: an unknown message or a wrong field.
    """
    fields = mapping(message)
    op = fields.get("op")
    if op in _DROPPED:
        return None
    if op in ("keep-alive", "close-stream"):
        return {"op": op}
    if op == "worker-status-change":
        return {"op": op, "status": _status(fields.get("status")), "stimulus_id": "volunteer"}
    if op not in ("task-finished", "task-erred", "steal-response"):
        raise Violation(f"message {text(op, 40) if isinstance(op, str) else type(op).__name__!r} is not for volunteers")
    task_key = key(fields.get("key"))
    if op == "steal-response":
        state = None if fields.get("state") is None else text(fields["state"], 30)
        answer = {"op": op, "key": task_key, "state": state, "stimulus_id": text(fields.get("stimulus_id"), 100)}
        return answer if holder_of(task_key) == address else None
    claim = _claim(op, task_key, fields, address)
    return claim if holder_of(task_key) == address else None  # late, or a forged claim on another's task


def _claim(op: str, task_key: str, fields: Mapping[str, Any], address: str) -> Message:
    claim = {
        "op": op,
        "key": task_key,
        "run_id": integer(fields.get("run_id")),
        "thread": 0,
        "stimulus_id": "volunteer",
        "startstops": _startstops(fields.get("startstops")),
    }
    if op == "task-finished":
        return claim | {"status": "OK", "nbytes": 16, "type": b"", "typename": "NoneType", "metadata": {}}
    why = text(fields.get("exception_text", ""), 2000)
    # The exception is text: Dask's client makes Exception(text) of it, without pickle (core.clean_exception).
    return claim | {
        "status": "error",
        "exception": f"{address}: {why}",
        "traceback": None,
        "exception_text": why,
        "traceback_text": "",
    }


def _startstops(value: object) -> list[Message]:
    spans = []
    for span in entries(value, 64)[:8] if value is not None else []:
        fields = mapping(span)
        if fields.get("action") in _TIMED_ACTIONS:
            start_s, stop_s = sorted((number(fields.get("start", 0)), number(fields.get("stop", 0))))
            spans.append({"action": fields["action"], "start": start_s, "stop": stop_s})
    return spans


def outgoing_stream(message: Mapping[str, Any], ticket_for: Callable[[UnitMessage], str]) -> Message | None:
    """One entry of the scheduler's stream as it goes to a volunteer, or None for one that volunteers never see.

    Args:
        message: what Dask wants to send.
        ticket_for: makes the receiver's ticket for a unit.

    Raises:
        RefusedTask: a task other than ``execute_unit`` of one unit message.
    """
    op = message.get("op")
    if op == "compute-task":
        return _outgoing_task(message, ticket_for)
    if op not in _OUTGOING:
        return None  # addresses of other workers, plugins, code: never sent
    out: Message = {"op": op}
    if op != "close":
        out["stimulus_id"] = message.get("stimulus_id", "")
    for field in _OUTGOING[op]:
        if field in message:
            value = message[field]
            value = getattr(value, "name", value) if field == "status" else value
            out[field] = list(value) if field == "keys" else value
    return out


def _outgoing_task(message: Mapping[str, Any], ticket_for: Callable[[UnitMessage], str]) -> Message:
    spec = message["run_spec"]
    spec = spec.data if isinstance(spec, ToPickle) else spec
    try:
        if type(spec) is not Task or spec.func is not execute_unit or spec.kwargs or len(spec.args) != 1:
            raise UnitError("only execute_unit(<unit message>) may run on a volunteer")
        if message["who_has"] or message["actor"]:
            raise UnitError("a task with dependencies, or an actor, can't run on a volunteer")
        unit = check_unit(spec.args[0])
        task_key = key(message["key"])
        stamped = unit.with_ticket(ticket_for(unit))
    except (UnitError, Violation) as error:
        raise RefusedTask(message["key"], message["run_id"], str(error)) from None
    return {
        "op": "compute-task",
        "key": task_key,
        "run_id": message["run_id"],
        "priority": [float(p) for p in message["priority"]],
        "stimulus_id": message.get("stimulus_id", ""),
        "unit": stamped.to_json(),
    }


def outgoing_reply(message: object) -> object:
    """A reply to a request with only its harmless fields; an uncaught error says no more than that.

    Raises:
        Violation: something that is no reply to a volunteer's request.
    """
    if message == "OK":
        return message
    fields = mapping(message)
    if fields.get("status") == "uncaught-error":
        return {"status": "error", "message": "refused"}
    return {field: fields[field] for field in _REPLY_FIELDS if field in fields}
