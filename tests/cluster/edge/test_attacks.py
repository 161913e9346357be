"""A volunteer with a genuine certificate turns hostile: nothing of what it sends is executed or unpickled.

Each attack runs against a scheduler that does honest work at the same time; a bomb is a pickle that would touch a file.
"""

from __future__ import annotations

import ast
import inspect
import re
import socket
import struct
import threading
import time

import msgpack
import psutil
import pytest
from distributed.comm.tcp import _add_frames_header
from distributed.protocol.core import dumps
from distributed.protocol.serialize import ToPickle
from distributed.scheduler import Scheduler


@pytest.fixture(scope="module")
def evil(pool):
    bundle = pool.bundle("evil")
    return bundle.cert, bundle.key


@pytest.fixture(scope="module")
def honest(pool):
    return pool.volunteer("honest")


@pytest.fixture(autouse=True)
def honest_work_goes_on(pool, honest, client, tools, bombs):
    yield
    tools.submit_units(client, tools.job_id(), 3, exclude={"evil"})
    assert {s.status for s in tools.collect(client, 3)} == {"finished"}
    assert honest.process.poll() is None
    assert list(bombs.iterdir()) == []


def test_no_other_operation_of_the_scheduler_is_reachable(pool, evil, tools, bomb):
    source = inspect.getsource(Scheduler.__init__)
    ops = set(re.findall(r'^            "([\w-]+)": self\.', source, re.MULTILINE)) - {
        "register-worker",
        "heartbeat_worker",
    }
    ops |= {"identity", "echo", "dump_state", "get_runspec", "shuffle_get", "publish_get", "queue_get", "gather"}
    ops |= {"muster_volunteers", "muster_edge", "proxy", "run_function", "feed", "register-client", "unregister"}
    assert len(ops) > 60
    payload = bomb("op").decode("latin1")
    for op in sorted(ops):
        peer = tools.RawPeer(pool, evil)
        peer.send({"op": op, "function": payload, "plugin": payload, "keys": ["a"], "client": "evil", "reply": True})
        with pytest.raises((EOFError, OSError)):
            pytest.fail(f"{op} was answered: {peer.receive()}")
        peer.close()
    for op in ("run_function", "feed", "update-graph"):
        peer = tools.RawPeer(pool, evil)
        peer.send({"op": op, "function": bomb("op-bytes")})
        assert peer.closed()


def test_hostile_frames_end_the_connection_at_no_cost(pool, evil, tools, bomb):
    resident = psutil.Process(pool.scheduler.pid).memory_info
    tools.RawPeer(pool, evil).close()
    before = resident().rss
    stock, _, _ = _add_frames_header(dumps({"x": ToPickle(tools.Bomb(pool.pool_dir / "stock"))}))
    frames = {
        "4 GiB announced": struct.pack("!I", 2**32 - 1) + b"x" * 100_000,
        "2 MiB announced": struct.pack("!I", 2 << 20) + b"x" * (2 << 20),
        "array bomb": struct.pack("!I", 5) + b"\xdd\xff\xff\xff\xff",
        "map bomb": struct.pack("!I", 5) + b"\xdf\xff\xff\xff\xff",
        "deep nesting": struct.pack("!I", 60_000) + b"\x91" * 59_999 + b"\xc0",
        "extension": struct.pack("!I", 4) + b"\xc7\x01\x05x",
        "binary": struct.pack("!I", 4) + b"\xc4\x02ab",
        "trailing bytes": struct.pack("!I", 2) + b"\x80\x80",
        "Dask's own frames": b"".join(stock),
    }
    for name, data in frames.items():
        for hello in (True, False):
            peer = tools.RawPeer(pool, evil, hello=hello)
            try:
                peer.socket.sendall(data)
                assert peer.closed(), f"{name}, hello {hello}"
            except OSError:
                pass
            peer.close()
    assert resident().rss - before < 20 << 20
    assert not (pool.pool_dir / "stock").exists()


def test_bytes_or_reserved_maps_in_a_registration(pool, evil, tools, bomb, client):
    peer = tools.RawPeer(pool, evil)
    with pytest.raises((EOFError, OSError)):
        peer.register(extra={"a": bomb("extra")})
    peer = tools.RawPeer(pool, evil)
    reply = peer.register(
        address="vol://honest.spoof",
        name={"__Enum__": True, "__module__": "distributed", "__name__": "core", "name": "os"},
        extra={"a": {"__Serialized__": True, "data": [{"serializer": "pickle"}, ["x"]]}},
        versions={"__Pickled__": 1},
        nanny="tls://127.0.0.1:2",
        services={"dashboard": 1},
    )
    assert reply.keys() == {"status", "time", "heartbeat-interval"}
    assert {v.name for v in client.volunteers()} == {"honest", "evil"}
    peer.close()
    tools.wait_for(lambda: {v.name for v in client.volunteers()} == {"honest"})


def test_claims_full_of_bombs_reach_the_client_as_text(pool, evil, tools, bomb, client):
    peer = tools.RawPeer(pool, evil)
    peer.register(nthreads=9)
    answered: list[str] = []
    thread = threading.Thread(target=_answer_with_bombs, args=(peer, bomb("claim").decode("latin1"), answered))
    thread.start()
    keys = tools.submit_units(client, tools.job_id(50), 20)
    states = {s.key: s for s in tools.collect(client, 20)}
    peer.socket.shutdown(socket.SHUT_RDWR)
    thread.join()
    assert len(answered) >= 4
    assert states.keys() == set(keys)
    erred = [s for s in states.values() if s.status == "error"]
    assert erred
    for state in erred:
        assert state.volunteer == "evil"
        assert state.error_text.isprintable()
        assert len(state.error_text) <= 2500


def _answer_with_bombs(peer, payload: str, answered: list[str]) -> None:
    try:
        while True:
            for message in peer.receive():
                if message["op"] != "compute-task":
                    continue
                assert set(message) == {"op", "key", "run_id", "priority", "stimulus_id", "unit"}
                claim = {
                    "key": message["key"],
                    "run_id": message["run_id"],
                    "thread": 1,
                    "startstops": [],
                    "worker": "x",
                }
                answered.append(message["key"])
                if len(answered) % 2:
                    more = {"op": "task-finished", "nbytes": 2**50, "type": payload, "typename": "A" * 1000}
                    peer.send([claim | more | {"metadata": {"__Pickled__": 1}}])
                else:
                    more = {"op": "task-erred", "exception": payload, "traceback": payload, "traceback_text": payload}
                    peer.send([claim | more | {"exception_text": "evil\x1b[31m" + "x" * 5000}])
    except (OSError, EOFError):
        pass


def test_events_that_clients_would_unpickle_are_dropped(pool, evil, tools, bomb):
    peer = tools.RawPeer(pool, evil)
    peer.register()
    event = {"op": "log-event", "topic": ["warn", "print"], "msg": {"message": "x", "category": "y"}}
    peer.send([event])
    assert not peer.closed(0.5)
    peer.send([event | {"msg": {"message": bomb("warn"), "category": bomb("category")}}])
    assert peer.closed()


def test_claims_on_anothers_task_count_for_nothing(pool, evil, tools, client):
    (key,) = tools.submit_units(client, tools.job_id(2000), 1, exclude={"evil"})
    tools.wait_for(lambda: pool.record("honest", "began")[-1]["unit"] == key.split("-")[1][:32], what="honest at work")
    peer = tools.RawPeer(pool, evil)
    peer.register()
    for first in range(0, 1000, 100):
        forged = []
        for run_id in range(first, first + 100):
            forged.append(
                {"op": "task-erred", "key": key, "run_id": run_id, "exception_text": "forged", "worker": "honest"}
            )
            forged.append({"op": "task-finished", "key": key, "run_id": run_id})
            forged.append({"op": "steal-response", "key": key, "state": "waiting", "stimulus_id": "steal-1"})
        peer.send(forged)
    assert not peer.closed(0.5)
    assert client.states.empty(), "nothing was believed"
    (state,) = tools.collect(client, 1)
    assert (state.key, state.status) == (key, "finished")
    assert pool.record("honest")[-1]["unit"] == key.split("-")[1][:32], "the honest volunteer did finish it"
    peer.close()


@pytest.mark.parametrize(
    "entry",
    [
        {"op": "reschedule", "key": "k"},
        {"op": "task-finished", "key": "k" * 300, "run_id": 1},
        {"op": "task-finished", "key": ["k"], "run_id": 1},
        {"op": "task-finished", "key": "k", "run_id": True},
        {"op": "task-finished", "key": "k", "run_id": -1},
        {"op": "task-erred", "key": "k", "run_id": 1, "exception_text": {"a": 1}},
        {"op": "worker-status-change", "status": "closed"},
        {"op": "update-graph"},
        {"op": ["task-finished"]},
        {},
        "close",
    ],
)
def test_a_malformed_stream_entry_ends_the_connection(pool, evil, tools, entry):
    peer = tools.RawPeer(pool, evil)
    peer.register()
    peer.send([entry])
    assert peer.closed()


def test_a_flood_is_slowed_down_not_buffered(pool, evil, tools, client):
    peer = tools.RawPeer(pool, evil)
    peer.register()
    body = msgpack.packb([{"op": "keep-alive"}] * 9_000)
    frame = struct.pack("!I", len(body)) + body
    before = psutil.Process(pool.scheduler.pid).memory_info().rss
    peer.socket.settimeout(0.5)
    sent = 0
    deadline = time.monotonic() + 2
    try:
        while time.monotonic() < deadline:
            peer.socket.sendall(frame)
            sent += 1
    except TimeoutError:
        pass
    assert client.edge_counts()["paced"] >= 1
    assert psutil.Process(pool.scheduler.pid).memory_info().rss - before < 20 << 20
    peer.socket.close()
    assert sent < 200


def test_nothing_but_the_clients_own_tasks_was_unpickled(pool, honest):
    """Runs last: the scheduler's audit of ``pickle.find_class`` over all attacks above."""
    found = {ast.literal_eval(line)[1] for line in pool.pickle_log.read_text().splitlines()}
    assert found == {"LLGExpr", "Expr._reconstruct", "Task", "execute_unit"}
    assert (pool.scratch("honest") / "pickles.log").read_text() == ""
