"""Intake: honest results are accepted with their digest; everything else is refused with a reason and harms nobody."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import struct
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from muster.cluster.coordinator.intake_process import _ENVIRONMENT
from muster.datasets.digest import table_digest


def ipc(table: pa.Table, **options) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return sink.getvalue()


def upload(pool, make, volunteer="vol-1"):
    """Upload what ``make(ref)`` gives for a fresh unit; returns the attempt and its chunk."""
    _, assignment, ref = pool.begin(volunteer=volunteer)
    with pool.raw(volunteer) as raw:
        answer = pool.put(raw, assignment, make(ref))
    assert answer.status_code == 201, answer.text
    return assignment.attempt, ref


def test_an_honest_result_is_accepted_as_it_was_sent(pool):
    attempt, ref = upload(pool, pool.honest_bytes)
    state, outcome = pool.outcome(attempt)
    assert state == "validated"
    assert outcome["digest"] == table_digest(pool.result(ref))
    assert (outcome["kept"], outcome["rejected"]) == (ref.n_rows, 0)
    kept, rejects = pool.exchange.accepted_paths(attempt)
    table = pq.read_table(kept)
    assert table["_muster_position"].to_pylist() == list(range(ref.first_row, ref.first_row + ref.n_rows))
    assert set(table["_muster_file"].to_pylist()) == {"rows.jsonl"}
    assert rejects is None
    assert pool.upload_is_gone(attempt)


def test_rejected_rows_are_kept_apart(pool):
    def make(ref):
        columns = {name: [None, *range(1, ref.n_rows)] for name in pool.schema.names[2:]}
        return pool.honest_bytes(ref, reject=["no text", *[None] * (ref.n_rows - 1)], **columns)

    attempt, ref = upload(pool, make)
    state, outcome = pool.outcome(attempt)
    assert (state, outcome["kept"], outcome["rejected"]) == ("validated", ref.n_rows - 1, 1)
    _, rejects = pool.exchange.accepted_paths(attempt)
    assert pq.read_table(rejects)["reason"].to_pylist() == ["no text"]


def inflating(pool, ref) -> bytes:
    """A stream of the right shape whose string column inflates far beyond its limit."""
    table = pool.result(ref, reject=["x" * (64 << 20), *[None] * (ref.n_rows - 1)])
    return ipc(table, compression="zstd")


def lying_length(pool, ref) -> bytes:
    """A compressed buffer that claims to inflate to an exabyte."""
    data = bytearray(pool.honest_bytes(ref))
    table = pool.result(ref)
    at = data.find(struct.pack("<q", table["position"].nbytes))
    data[at : at + 8] = struct.pack("<q", 1 << 60)
    return bytes(data)


CASES = {
    "garbage": (lambda pool, ref: os.urandom(5000), {"undecodable"}),
    "empty": (lambda pool, ref: b"", {"undecodable"}),
    "truncated": (lambda pool, ref: pool.honest_bytes(ref)[:-300], {"undecodable", "wrong-rows"}),
    "trailing bytes": (lambda pool, ref: pool.honest_bytes(ref) + b"more", {"wrong-rows", "undecodable"}),
    "wrong schema": (lambda pool, ref: ipc(pa.table({"x": [1] * ref.n_rows})), {"wrong-schema", "undecodable"}),
    "too few rows": (lambda pool, ref: pool.honest_bytes(replace(ref, n_rows=ref.n_rows - 1)), {"wrong-rows"}),
    "other positions": (
        lambda pool, ref: pool.honest_bytes(ref, position=list(range(ref.n_rows))[::-1]),
        {"wrong-positions"},
    ),
    "values in a rejected row": (
        lambda pool, ref: pool.honest_bytes(ref, reject=["why", *[None] * (ref.n_rows - 1)]),
        {"reject-not-null"},
    ),
    "an unprintable reason": (
        lambda pool, ref: pool.honest_bytes(
            ref,
            reject=["a\x1b[2J", *[None] * (ref.n_rows - 1)],
            **{name: [None, *range(1, ref.n_rows)] for name in pool.schema.names[2:]},
        ),
        {"bad-reason"},
    ),
    "a bomb": (inflating, {"too-big", "wrong-rows", "wrong-schema"}),
    "a lying length": (lying_length, {"too-big", "undecodable"}),
    "Parquet": (lambda pool, ref: b"PAR1" + os.urandom(100) + b"PAR1", {"undecodable"}),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_no_result_is_refused_with_its_kind(pool, case):
    make, kinds = CASES[case]
    attempt, _ = upload(pool, lambda ref: make(pool, ref))
    state, outcome = pool.outcome(attempt)
    assert (state, outcome["kind"] in kinds) == ("refused", True), outcome
    assert outcome["text"].isprintable()
    assert pool.upload_is_gone(attempt)
    assert not [path for path in (pool.dir / "exchange" / "accepted").rglob(f"*{attempt}*") if path.is_file()]


def test_a_child_that_is_killed_is_replaced_and_the_upload_still_accepted(pool):
    before = pool.intake_children()
    for child in before:
        child.kill()
    attempt, _ = upload(pool, pool.honest_bytes)
    assert pool.outcome(attempt)[0] == "validated"
    assert not {child.pid for child in before} & {child.pid for child in pool.intake_children()}


def test_an_upload_that_breaks_every_child_is_refused_and_the_next_one_accepted(pool):
    stop = threading.Event()

    def kill_all():
        while not stop.is_set():
            for child in pool.intake_children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
            time.sleep(0.005)

    killer = threading.Thread(target=kill_all)
    killer.start()
    try:
        attempt, _ = upload(pool, pool.honest_bytes)
        state, outcome = pool.outcome(attempt)
    finally:
        stop.set()
        killer.join()
    assert (state, outcome["kind"]) == ("refused", "intake-crash")
    assert "signal 9" in outcome["text"]
    attempt, _ = upload(pool, pool.honest_bytes)
    assert pool.outcome(attempt)[0] == "validated"


def test_a_child_that_hangs_does_not_hold_up_the_others(pool):
    first, _ = upload(pool, pool.honest_bytes)
    pool.outcome(first)
    stopped = pool.intake_children()
    for child in stopped:
        child.send_signal(signal.SIGSTOP)
    try:
        held, _ = upload(pool, pool.honest_bytes)
        if len(stopped) == 1:
            other, _ = upload(pool, pool.honest_bytes)
            assert pool.outcome(other)[0] == "validated"
    finally:
        for child in stopped:
            child.send_signal(signal.SIGCONT)
    assert pool.outcome(held)[0] == "validated"


def test_the_child_has_no_environment_network_or_foreign_descriptor(pool):
    attempt, _ = upload(pool, pool.honest_bytes)
    pool.outcome(attempt)
    child = pool.intake_children()[0]
    assert set(child.environ()) == set(_ENVIRONMENT)
    assert child.num_threads() == 1
    assert not child.net_connections("inet")
    targets = {str(fd.readlink()) for fd in Path(f"/proc/{child.pid}/fd").iterdir()}
    assert not [target for target in targets if "registry" in target or "secrets" in target or "pki" in target]
    walls = pool.intake.ready["walls"]
    for wall in ("RLIMIT_NOFILE", "no new privileges"):
        assert wall in walls
    if "no network" in walls:
        assert Path(f"/proc/{child.pid}/ns/net").readlink() != Path("/proc/self/ns/net").readlink()
