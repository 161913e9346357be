"""The volunteer's side of the protocol: what it takes from a scheduler, and what it says.

The scheduler is not trusted with the machine: whatever it sends, even with the right certificate, a volunteer builds
each task itself, always ``execute_unit`` of a checked unit message, and knows no message that could carry code, name
another machine or ask for data. What it does not do: I/O (``volunteer_side``).

Invariants: nothing of a message survives but fields that a function of ``wire`` passed; an unknown message is a
Violation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dask._task_spec import Task

from muster.cluster.edge.wire import Violation, entries, integer, key, mapping, number, text
from muster.cluster.unit import UnitError, check_unit, execute_unit

Message = dict[str, Any]
MAX_ENTRIES = 20_000
_DROPPED = frozenset({"log-event", "release-worker-data", "add-keys", "long-running", "request-refresh-who-has"})
_SAID: dict[str, tuple[str, ...]] = {
    "task-finished": ("key", "run_id", "startstops"),
    "task-erred": ("key", "run_id", "startstops", "exception_text"),
    "steal-response": ("key", "state", "stimulus_id"),
    "worker-status-change": ("status",),
    "keep-alive": (),
    "close-stream": (),
}
_METRICS = ("task_counts", "cpu", "memory", "time", "event_loop_interval")
_MAX_ERROR_CHARS = 2000


def check_reply(message: object) -> Message | str:
    """A reply of the scheduler: "OK", or the few fields that a worker reads; plugins are always empty."""
    if message == "OK":
        return "OK"
    fields = mapping(message)
    reply: Message = {"status": text(fields.get("status"), 40), "worker-plugins": {}}
    if "time" in fields:
        reply["time"] = number(fields["time"])
    if "heartbeat-interval" in fields:
        reply["heartbeat-interval"] = number(fields["heartbeat-interval"], 0.1, 3600)
    if "message" in fields:
        reply["message"] = text(fields["message"])
    return reply


def check_stream(message: object) -> list[Message]:
    """The entries of one stream message; raises Violation for any entry that a volunteer does not know."""
    return [_check_entry(mapping(entry)) for entry in entries(message, MAX_ENTRIES)]


def _check_entry(fields: Mapping[str, Any]) -> Message:
    op = fields.get("op")
    if op == "close":
        return {"op": op, "reason": text(fields.get("reason", "scheduler"))}
    stimulus = text(fields.get("stimulus_id", ""), 100)
    if op == "compute-task":
        return _task(fields, stimulus)
    if op in ("free-keys", "remove-replicas"):
        return {"op": op, "keys": [key(k) for k in entries(fields.get("keys"), MAX_ENTRIES)], "stimulus_id": stimulus}
    if op in ("cancel-compute", "steal-request"):
        return {"op": op, "key": key(fields.get("key")), "stimulus_id": stimulus}
    if op == "worker-status-change" and fields.get("status") in ("running", "paused"):
        return {"op": op, "status": fields["status"], "stimulus_id": stimulus}
    raise Violation(f"this volunteer refuses {text(op, 40) if isinstance(op, str) else type(op).__name__!r}")


def _task(fields: Mapping[str, Any], stimulus: str) -> Message:
    try:
        unit = check_unit(fields.get("unit"))
    except UnitError as error:
        raise Violation(str(error)) from None
    task_key = key(fields.get("key"))
    return {
        "op": "compute-task",
        "key": task_key,
        "run_id": integer(fields.get("run_id")),
        "priority": tuple(number(p, -1e15) for p in entries(fields.get("priority"), 16)),
        "stimulus_id": stimulus,
        "who_has": {},
        "nbytes": {},
        "run_spec": Task(task_key, execute_unit, unit.to_json()),
        "resource_restrictions": {},
        "actor": False,
        "annotations": {},
        "span_id": None,
    }


def said_stream(message: Mapping[str, Any]) -> Message | None:
    """One entry of the worker's stream as it goes out, None for one the coordinator has no use for."""
    op = message["op"]
    if op in _DROPPED:
        return None
    if op not in _SAID:
        raise Violation(f"a volunteer never sends {op!r}")
    out: Message = {"op": op} | {field: message[field] for field in _SAID[op]}
    if "exception_text" in out:
        out["exception_text"] = str(out["exception_text"])[:_MAX_ERROR_CHARS]
    return out


def said_request(message: Mapping[str, Any]) -> Message:
    """A request of the worker as it goes out: registration, heartbeat or close."""
    op = message["op"]
    if op == "close":
        return {"op": op, "reply": False}
    if op not in ("register-worker", "heartbeat_worker"):
        raise Violation(f"a volunteer never asks for {op!r}")
    metrics = message["metrics"]
    out: Message = {"op": op, "now": message["now"], "metrics": {m: metrics[m] for m in _METRICS if m in metrics}}
    if op == "register-worker":
        out |= {"status": message["status"], "nthreads": message["nthreads"]}
    return out
