"""The allow-lists as functions: whatever comes in, only checked plain values go on, or Violation is raised."""

from __future__ import annotations

import contextlib
import struct

import msgpack
import pytest
from dask._task_spec import Task
from distributed.protocol.serialize import ToPickle
from hypothesis import given
from hypothesis import strategies as st

from muster.cluster.edge import schema, volunteer_schema
from muster.cluster.edge.limits import TokenBucket
from muster.cluster.edge.wire import HEADER, Violation, decode, encode, integer, number, text
from muster.cluster.unit import UnitMessage, check_unit, execute_unit, make_unit

ADDRESS = "vol://ada.0123456789abcdef"
JOB, UNIT = "ab" * 16, "01" * 16

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=12), inner, max_size=6),
    max_leaves=20,
)
requests = st.sampled_from(["register-worker", "heartbeat_worker", "close", "identity", "run_function"])
stream_ops = st.sampled_from(
    ["task-finished", "task-erred", "steal-response", "worker-status-change", "keep-alive", "close-stream", "log-event"]
)
checked = ["key", "run_id", "startstops", "exception_text", "state", "stimulus_id", "status", "nthreads", "now"]
fields = st.sampled_from([*checked, "metrics", "resources", "worker", "type"])
keys = st.just("j00000000-k.0")


def messages(ops):
    values = plain | keys | st.integers(0, 100) | st.sampled_from(["running", "OK"]) | st.just({"task_counts": {}})
    return st.builds(lambda op, rest: rest | {"op": op}, ops, st.dictionaries(fields, values, max_size=8))


def assert_harmless(value):
    if isinstance(value, dict):
        assert all(type(key) is str for key in value)
        for inner in value.values():
            assert_harmless(inner)
    elif isinstance(value, list):
        for inner in value:
            assert_harmless(inner)
    elif isinstance(value, str):
        assert len(value) <= 2500
        assert all(c.isprintable() or c == "\n" for c in value)
    else:
        assert value is None or type(value) in (bool, int, float) or value == b""


@given(st.binary(max_size=300))
def test_decode_gives_plain_data_or_a_violation(body):
    try:
        value = decode(body)
    except Violation:
        return
    stack = [value]
    while stack:
        value = stack.pop()
        assert type(value) in (dict, list, str, int, float, bool, type(None))
        stack += list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []


@given(plain)
def test_what_is_encoded_is_decoded(message):
    frame = encode(message, 1 << 20)
    (nbytes,) = HEADER.unpack(frame[:4])
    assert nbytes == len(frame) - 4
    assert msgpack.packb(decode(frame[4:])) == msgpack.packb(message)


@pytest.mark.parametrize(
    "body", [b"\xc4\x01a", b"\xd4\x01a", b"\xc7\x01\xffa", b"\xd6\xff\x00\x00\x00\x00", b"\x81\x01\x02"]
)
def test_binary_extensions_timestamps_and_odd_keys_are_violations(body):
    with pytest.raises(Violation):
        decode(body)


def test_a_message_that_is_too_long_does_not_go_out():
    with pytest.raises(Violation, match="at most 100"):
        encode("x" * 200, 100)
    assert struct.unpack("!I", encode("x", 100)[:4]) == (2,)


@given(plain | messages(requests))
def test_a_request_is_rebuilt_with_the_assigned_identity(message):
    try:
        out = schema.check_request(message, ADDRESS, max_threads=64)
    except Violation:
        return
    assert out["op"] in ("register-worker", "heartbeat_worker", "close")
    if out["op"] != "close":
        assert out["address"] == ADDRESS
    if out["op"] == "register-worker":
        assert 1 <= out["nthreads"] <= 64
        assert (out["name"], out["nanny"], out["extra"], out["services"]) == (ADDRESS[6:], None, {}, {})
        out = out | {"versions": {}}  # our own
    assert_harmless(out)


@given(plain | messages(stream_ops), st.sampled_from([ADDRESS, "vol://bob.00000000", None]))
def test_a_stream_entry_is_rebuilt_and_counts_only_from_the_holder(message, holder):
    try:
        out = schema.check_stream(message, ADDRESS, lambda _key: holder)
    except Violation:
        return
    if out is None:
        return
    assert_harmless(out)
    if "key" in out:
        assert holder == ADDRESS
    assert out.get("type", b"") == b""
    assert out.get("metadata", {}) == {}
    assert "worker" not in out


def compute_task(spec, **more):
    base = {"op": "compute-task", "key": "k", "run_id": 4, "priority": (0, 1, 2), "stimulus_id": "s", "who_has": {}}
    return base | {"actor": False, "annotations": {}, "run_spec": ToPickle(spec), "nbytes": {}} | more


def test_a_unit_goes_out_with_its_ticket_and_nothing_else():
    asked = []

    def ticket_for(unit):
        asked.append(unit)
        return "tick.et"

    out = schema.outgoing_stream(compute_task(Task("k", execute_unit, make_unit(JOB, UNIT, 2))), ticket_for)
    assert asked == [UnitMessage(JOB, UNIT, 2)]
    assert out.keys() == {"op", "key", "run_id", "priority", "stimulus_id", "unit"}
    assert check_unit(out["unit"]) == UnitMessage(JOB, UNIT, 2, "tick.et")
    (received,) = volunteer_schema.check_stream(decode(encode([out], 10_000)[4:]))
    assert received["run_spec"].func is execute_unit
    assert received["run_spec"].args == (out["unit"],)


@pytest.mark.parametrize(
    "spec",
    [
        Task("k", print, make_unit(JOB, UNIT, 2)),
        Task("k", execute_unit, "{}"),
        Task("k", execute_unit, make_unit(JOB, UNIT, 2), make_unit(JOB, UNIT, 2)),
        Task("k", execute_unit, text=make_unit(JOB, UNIT, 2)),
        make_unit(JOB, UNIT, 2),
    ],
)
def test_any_other_task_is_refused_with_its_key(spec):
    with pytest.raises(schema.RefusedTask) as caught:
        schema.outgoing_stream(compute_task(spec), lambda _unit: "t")
    assert (caught.value.task_key, caught.value.run_id) == ("k", 4)


def test_dependencies_actors_and_bad_tickets_are_refused():
    spec = Task("k", execute_unit, make_unit(JOB, UNIT, 2))
    for more in ({"who_has": {"d": ["vol://ada.0"]}}, {"actor": True}):
        with pytest.raises(schema.RefusedTask):
            schema.outgoing_stream(compute_task(spec, **more), lambda _unit: "t")
    with pytest.raises(schema.RefusedTask):
        schema.outgoing_stream(compute_task(spec), lambda _unit: "not a ticket")


@pytest.mark.parametrize(
    "op", ["remove-worker", "acquire-replicas", "plugin-add", "run", "refresh-who-has", "upload_file"]
)
def test_nothing_about_other_machines_or_code_goes_out(op):
    assert schema.outgoing_stream({"op": op, "worker": "tls://10.0.0.1:1", "who_has": {}}, lambda _unit: "t") is None


@given(plain)
def test_a_volunteer_takes_known_messages_only(message):
    for received in (message, [message]):
        try:
            entries = volunteer_schema.check_stream(received)
        except Violation:
            continue
        assert entries == []


def test_replies_are_cut_to_what_a_worker_reads():
    reply = {"status": "OK", "time": 1.0, "heartbeat-interval": 0.5, "worker-plugins": {"p": b"code"}, "warning": "x"}
    assert schema.outgoing_reply(reply) == {"status": "OK", "time": 1.0, "heartbeat-interval": 0.5}
    error = {"status": "uncaught-error", "exception": b"pickle", "text": "secret"}
    assert schema.outgoing_reply(error) == {"status": "error", "message": "refused"}
    assert volunteer_schema.check_reply(reply | {"worker-plugins": {"p": "code"}})["worker-plugins"] == {}


@given(st.floats() | st.integers() | st.booleans() | st.text())
def test_numbers(value):
    with contextlib.suppress(Violation):
        assert 0 <= number(value, 0, 10) <= 10
    with contextlib.suppress(Violation):
        assert type(integer(value, 0, 10)) is int


@given(st.text())
def test_text_is_printable_and_bounded(value):
    assert len(text(value, 20)) <= 20
    assert_harmless(text(value, 20))


def test_a_bucket_paces_in_the_long_run_and_forgives_bursts():
    bucket = TokenBucket(rate_per_s=10, burst=100)
    assert bucket.take(100, 0.0) == 0
    assert bucket.take(10, 0.0) == pytest.approx(1.0)
    assert bucket.take(10, 2.0) == 0
    assert bucket.take(1000, 100.0) == pytest.approx(90.0)
