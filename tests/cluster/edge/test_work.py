"""Honest work through the edge: real scheduler, real volunteers, real sockets."""

from __future__ import annotations

import ast
import os
import signal
import time

import psutil
import pytest

from muster.cluster.client import NobodyEligibleError, PoolClient
from muster.cluster.coordinator.pki import load_secret
from muster.cluster.coordinator.tickets import TicketSigner
from muster.cluster.unit import make_unit, unit_key
from muster.errors import PoolError


@pytest.fixture(scope="module")
def workers(pool):
    return {name: pool.volunteer(name) for name in ("vol-1", "vol-2")}


def test_units_are_executed_once_each_with_the_right_ticket(pool, workers, client, tools):
    job = tools.job_id()
    keys = tools.submit_units(client, job, 40)
    states = tools.collect(client, 40)
    assert {s.key for s in states} == set(keys)
    assert {(s.status, s.error_text) for s in states} == {("finished", "")}
    signer = TicketSigner(load_secret(pool.pki.ticket_secret))
    done = {name: pool.record(name) for name in workers}
    executed = sorted(line["unit"] for lines in done.values() for line in lines)
    assert executed == sorted(key.split("-")[1][:32] for key in keys)
    assert all(done.values()), "both volunteers worked"
    for name, lines in done.items():
        for line in lines:
            ticket = signer.check(line["ticket"], name, time.time())
            assert (ticket.job, ticket.unit, ticket.issue) == (job, line["unit"], 0)
    assert client.pending() == 0


def test_volunteers_have_no_listening_socket_and_the_scheduler_two(pool, workers):
    for started in workers.values():
        assert _listening(started.pid) == []
    assert sorted(_listening(pool.scheduler.pid)) == sorted(
        [("127.0.0.1", pool.tls_port), ("127.0.0.1", pool.vol_port)]
    )


def _listening(pid: int) -> list[tuple[str, int]]:
    connections = psutil.Process(pid).net_connections(kind="inet")
    udp = [c for c in connections if c.type.name == "SOCK_DGRAM"]
    assert udp == []
    return [(c.laddr.ip, c.laddr.port) for c in connections if c.status == psutil.CONN_LISTEN]


def test_a_failing_unit_reports_bounded_printable_text(client, workers, tools):
    tools.submit_units(client, tools.job_id(), 1, prefix="dead")
    (state,) = tools.collect(client, 1)
    assert state.status == "error"
    assert state.error_text.startswith("kernel: boom ?[31mxx")
    assert state.volunteer in workers
    assert state.error_text.isprintable()
    assert len(state.error_text) <= 2500


def test_volunteers_are_listed_with_their_load(client, workers, tools):
    job = tools.job_id(400)
    keys = tools.submit_units(client, job, 6)
    tools.wait_for(lambda: sum(v.in_flight for v in client.volunteers()) == 6, what="six units in hand")
    assert {(v.name, v.nthreads) for v in client.volunteers()} == {("vol-1", 3), ("vol-2", 3)}
    assert all(v.address.startswith(f"vol://{v.name}.") for v in client.volunteers())
    assert {s.key for s in tools.collect(client, 6)} == set(keys)


def test_an_excluded_volunteer_gets_nothing(pool, client, workers, tools):
    before = len(pool.record("vol-1", "began"))
    tools.submit_units(client, tools.job_id(), 12, exclude={"vol-1", "somebody-else"})
    assert {s.status for s in tools.collect(client, 12)} == {"finished"}
    assert len(pool.record("vol-1", "began")) == before
    with pytest.raises(NobodyEligibleError, match="every live volunteer is excluded"):
        tools.submit_units(client, tools.job_id(), 1, exclude={"vol-1", "vol-2"})


def test_a_released_unit_is_taken_back(pool, client, workers, tools):
    job = tools.job_id(300)
    keys = tools.submit_units(client, job, 30)
    for key in keys:
        client.release(key)
    assert client.pending() == 0
    tools.wait_for(lambda: sum(v.in_flight for v in client.volunteers()) == 0, what="nothing in hand")
    time.sleep(0.5)
    units = {key.split("-")[1][:32] for key in keys}
    began = [line for name in workers for line in pool.record(name, "began") if line["unit"] in units]
    assert len(began) <= 12, "at most what was in hand was worked on"
    assert client.states.empty()


def test_only_units_reach_a_volunteer(client, workers, tools, tmp_path):
    mark = tmp_path / "executed"
    dask_client = client._client
    cases = {
        "system": (os.system, f"touch {mark}"),
        "wrong-text": (__import__("muster.cluster.unit").cluster.unit.execute_unit, "{}"),
        "lambda": (lambda text: os.system(text), f"touch {mark}"),
    }
    for name, (function, argument) in cases.items():
        future = dask_client.submit(function, argument, key=f"evil-{name}-{time.time_ns()}", pure=False)
        tools.wait_for(future.done, what=name)
        assert future.status == "error"
        assert "refused by the edge" in str(future._state.exception)
    assert not mark.exists()


def test_code_for_the_workers_never_leaves_the_scheduler(client, workers, tmp_path, tools):
    for attempt in (lambda: client._client.run(os.getpid), lambda: client._client.call_stack()):
        with pytest.raises(Exception):  # noqa: B017 - whichever way Dask words a peer that is never dialled
            attempt()
    assert len(client.volunteers()) == 2, "nobody was lost over it"


def test_a_wrong_certificate_or_port_is_a_clear_pool_error(pool, workers):
    stranger = pool.bundle("vol-9")
    with pytest.raises(PoolError, match="pool at tls://127"):
        PoolClient(f"tls://127.0.0.1:{pool.tls_port}", ca=pool.ca, cert=stranger.cert, key=stranger.key, timeout_s=3)
    with pytest.raises(PoolError, match=r"pool at tls://127.0.0.1:9: "):
        PoolClient("tls://127.0.0.1:9", ca=pool.ca, cert=stranger.cert, key=stranger.key, timeout_s=1)


def test_stolen_by_a_late_volunteer(pool, client, workers, tools):
    job = tools.job_id(200)
    tools.submit_units(client, job, 4)  # teaches the scheduler how long such units take
    tools.collect(client, 4)
    tools.submit_units(client, job, 20, exclude={"nobody"})  # restricted units go to the volunteers at once
    unrestricted = tools.submit_units(client, job, 20)
    late = pool.volunteer("vol-3")
    try:
        states = tools.collect(client, 40, timeout_s=60)
        assert {s.status for s in states} == {"finished"}
        units = {key.split("-")[1][:32] for key in unrestricted}
        assert [line for line in pool.record("vol-3") if line["unit"] in units]
    finally:
        late.stop()


def test_units_of_a_killed_volunteer_are_done_by_the_other(pool, client, workers, tools):
    victim = pool.volunteer("vol-4")
    tools.wait_for(lambda: len(client.volunteers()) == 3, what="three volunteers")
    keys = tools.submit_units(client, tools.job_id(500), 9)
    tools.wait_for(lambda: pool.record("vol-4", "began"), what="the victim at work")
    os.kill(victim.pid, signal.SIGKILL)
    assert {s.key for s in tools.collect(client, 9)} == set(keys)
    assert "vol-4" not in {v.name for v in client.volunteers()}


def test_units_restricted_to_a_volunteer_that_is_gone_are_stranded(pool, client, workers, tools):
    only = pool.volunteer("vol-6")
    tools.wait_for(lambda: "vol-6" in {v.name for v in client.volunteers()}, what="vol-6")
    (key,) = tools.submit_units(client, tools.job_id(60_000), 1, exclude={"vol-1", "vol-2"})
    tools.wait_for(lambda: pool.record("vol-6", "began"), what="vol-6 at work")
    assert client.stranded() == []
    os.kill(only.pid, signal.SIGKILL)
    tools.wait_for(lambda: client.stranded() == [key], what="the loss being noticed")
    client.release(key)
    assert client.stranded() == []


def test_a_volunteer_stops_on_sigterm_within_seconds(pool, client, workers, tools):
    started = pool.volunteer("vol-5")
    tools.submit_units(client, tools.job_id(400), 9)
    tools.wait_for(lambda: pool.record("vol-5", "began"), what="at work")
    began_s = time.monotonic()
    started.process.terminate()
    assert started.wait(6) == 0
    assert time.monotonic() - began_s < 4
    assert {s.status for s in tools.collect(client, 9)} == {"finished"}


def test_nobody_unpickled_anything_of_a_volunteer(pool, client, workers):
    """Runs last: what the scheduler and the volunteers ever unpickled."""
    for (
        name
    ) in workers:  # a failed task's exception is pickled and unpickled by the worker itself, before it is dropped
        found = {ast.literal_eval(line) for line in (pool.scratch(name) / "pickles.log").read_text().splitlines()}
        assert {found_name for module, found_name in found if not module.startswith("tblib")} <= {"UnitError"}
    allowed = {"LLGExpr", "Expr._reconstruct", "Task", "execute_unit"}
    found = {ast.literal_eval(line) for line in pool.pickle_log.read_text().splitlines()}
    names = {name for module, name in found if not module.startswith("distributed.protocol.pickle")}
    tests_own = {name for module, name in found if module.startswith("cloudpickle")} | {"system", "getpid"}
    assert "execute_unit" in names, "the audit works"
    assert names <= allowed | tests_own, names


def test_client_notices_a_lost_scheduler(pool, tools, capfd):
    """Ends this module's scheduler."""
    client = pool.client()
    unit = "ab" * 16
    client.submit(make_unit(tools.job_id(5000), unit, 0), unit_key("cd" * 16, unit, 0))
    pool.scheduler.stop()

    def lost() -> bool:
        try:
            client.check()
        except PoolError:
            return True
        return False

    tools.wait_for(lost, what="the loss being noticed")
    with pytest.raises(PoolError):
        client.volunteers()
    began_s = time.monotonic()
    client.close()
    assert time.monotonic() - began_s < 4
    assert "Traceback" not in pool.scheduler.log()
    assert capfd.readouterr().err == ""
