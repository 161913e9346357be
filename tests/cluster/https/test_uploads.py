"""Uploads: whole or not at all, within their limit, with their digest, once."""

from __future__ import annotations

import socket
import time

import httpx
import pytest
from blake3 import blake3

from muster.cluster.bundle import client_context
from muster.cluster.volunteer.transfer import SettledError, TransferError


def error(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]


def leftovers(pool) -> list[str]:
    return [path.name for path in (pool.dir / "exchange" / "uploads").rglob(".tmp-*") if path.is_file()]


def wait_for(condition, timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_an_upload_is_taken_once_and_sending_it_again_is_harmless(pool):
    _, assignment, ref = pool.begin()
    body = pool.honest_bytes(ref)
    with pool.raw() as raw:
        assert pool.put(raw, assignment, body).status_code == 201
        assert pool.put(raw, assignment, body).status_code == 200
        other = pool.honest_bytes(ref, minhash_b00=[9] * ref.n_rows)
        assert error(pool.put(raw, assignment, other)) == (409, "ended")
    state, outcome = pool.outcome(assignment.attempt)
    assert state == "validated"
    kept, _ = pool.exchange.accepted_paths(assignment.attempt)
    assert blake3(kept.read_bytes()).hexdigest() == outcome["kept_blake3"]


def test_more_than_the_limit_is_refused_before_it_is_sent(pool):
    _, assignment, _ = pool.begin()
    with pool.raw() as raw:
        assert error(pool.put(raw, assignment, b"x" * (assignment.max_upload_nbytes + 1))) == (413, "too-large")
    assert not pool.exchange.has_upload(assignment.attempt)


def test_a_wrong_or_missing_digest_is_refused_and_the_right_one_taken_afterwards(pool):
    _, assignment, ref = pool.begin()
    body = pool.honest_bytes(ref)
    with pool.raw() as raw:
        assert error(pool.put(raw, assignment, body, **{"X-Muster-Blake3": "0" * 64})) == (400, "digest")
        assert error(pool.put(raw, assignment, body, **{"X-Muster-Blake3": "../x"})) == (400, "digest")
        assert not pool.exchange.has_upload(assignment.attempt)
        assert not leftovers(pool)
        assert pool.put(raw, assignment, body).status_code == 201


def test_an_upload_without_a_length_is_refused(pool):
    _, assignment, ref = pool.begin()
    body = pool.honest_bytes(ref)
    headers = {"X-Muster-Blake3": blake3(body).hexdigest()}
    with pool.raw() as raw:
        assert error(raw.put(assignment.upload_path, content=iter([body]), headers=headers)) == (411, "length")


def test_an_upload_that_breaks_off_leaves_nothing_and_can_be_repeated(pool):
    _, assignment, ref = pool.begin()
    body = pool.honest_bytes(ref)
    context = client_context(pool.bundle("vol-1"))
    with (
        socket.create_connection(("127.0.0.1", pool.gateway.ready["port"]), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as sock,
    ):
        head = f"PUT {assignment.upload_path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        sock.sendall(head.encode() + f"X-Muster-Blake3: {blake3(body).hexdigest()}\r\n\r\n".encode() + body[:100])
        wait_for(lambda: leftovers(pool))
    wait_for(lambda: not leftovers(pool))
    assert not pool.exchange.has_upload(assignment.attempt)
    with pool.raw() as raw:
        assert pool.put(raw, assignment, body).status_code == 201


def test_a_newer_upload_replaces_one_that_hangs(pool):
    _, assignment, ref = pool.begin()
    body = pool.honest_bytes(ref)
    context = client_context(pool.bundle("vol-1"))
    with (
        socket.create_connection(("127.0.0.1", pool.gateway.ready["port"]), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as sock,
    ):
        head = f"PUT {assignment.upload_path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        sock.sendall(head.encode() + f"X-Muster-Blake3: {blake3(body).hexdigest()}\r\n\r\n".encode() + body[:100])
        wait_for(lambda: leftovers(pool))
        with pool.raw() as raw:
            assert pool.put(raw, assignment, body).status_code == 201
        assert b" 408 " in sock.recv(1000)
    assert not leftovers(pool)


def test_after_a_crash_between_file_and_record_the_same_upload_is_taken(pool):
    _, assignment, ref = pool.begin()
    body = pool.honest_bytes(ref)
    pending = pool.exchange.begin_upload(assignment.attempt, len(body))
    pending.write(body)
    pending.commit()
    with pool.raw() as raw:
        other = pool.honest_bytes(ref, minhash_b00=[9] * ref.n_rows)
        assert error(pool.put(raw, assignment, other)) == (409, "ended")
        assert pool.put(raw, assignment, body).status_code == 201
    assert pool.outcome(assignment.attempt)[0] == "validated"


def test_a_failed_attempt_takes_no_upload(pool, tmp_path):
    client, assignment, ref = pool.begin()
    client.fail(assignment, "kernel", "it broke")
    body = pool.honest_bytes(ref)
    path = tmp_path / "result.arrow"
    path.write_bytes(body)
    with pytest.raises(SettledError):
        client.upload(assignment, path, blake3(body).hexdigest())
    with pytest.raises(SettledError):
        client.redeem(assignment.ticket)


def test_an_attempt_that_fails_while_its_bytes_arrive_leaves_no_file(pool):
    client, assignment, ref = pool.begin()
    body = pool.honest_bytes(ref)
    context = client_context(pool.bundle("vol-1"))
    with (
        socket.create_connection(("127.0.0.1", pool.gateway.ready["port"]), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as sock,
    ):
        head = f"PUT {assignment.upload_path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        sock.sendall(head.encode() + f"X-Muster-Blake3: {blake3(body).hexdigest()}\r\n\r\n".encode() + body[:100])
        wait_for(lambda: leftovers(pool))
        client.fail(assignment, "kernel", "changed my mind")
        sock.sendall(body[100:])
        assert b" 409 " in sock.recv(1000)
    assert not leftovers(pool)
    assert not pool.exchange.has_upload(assignment.attempt)


def test_the_client_refuses_to_send_what_would_not_be_taken(pool, tmp_path):
    client, assignment, _ = pool.begin()
    path = tmp_path / "result.arrow"
    path.write_bytes(b"x" * (assignment.max_upload_nbytes + 1))
    with pytest.raises(TransferError, match="at most"):
        client.upload(assignment, path, "0" * 64)
