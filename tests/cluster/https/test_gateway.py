"""The gateway against those who are not who they say, or ask for what is not theirs; over real TLS."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time

import httpx
import pytest
from blake3 import blake3

from muster.cluster.bundle import client_context
from muster.cluster.coordinator.pki import create_pool_pki, issue_operator, load_secret
from muster.cluster.coordinator.signed_urls import UrlScope, UrlSigner


def error(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]


def first_range(ref) -> dict[str, str]:
    offset, length = ref.ranges[0]
    return {"Range": f"bytes={offset}-{offset + length - 1}"}


def test_health_needs_no_certificate_and_redeem_does(pool):
    context = ssl.create_default_context(cafile=str(pool.pki.operator_ca))
    with httpx.Client(verify=context, base_url=pool.url, trust_env=False) as anybody:
        assert anybody.get("/v1/health").json()["status"] == "ok"
        unit, _ = pool.fresh_unit()
        assert error(anybody.post("/v1/redeem", json={"ticket": pool.ticket(unit)})) == (401, "no-certificate")


def test_a_certificate_of_another_authority_or_role_fails_the_handshake(pool, tmp_path):
    create_pool_pki(tmp_path / "other", ["127.0.0.1"])
    for issued in (issue_operator(tmp_path / "other", "op"), issue_operator(pool.dir, "op")):
        pem = tmp_path / "client.pem"
        pem.write_text(issued.key_pem + issued.cert_pem)
        context = ssl.create_default_context(cafile=str(pool.pki.operator_ca))
        context.load_cert_chain(pem)
        with (
            httpx.Client(verify=context, base_url=pool.url, trust_env=False) as wrong,
            pytest.raises(httpx.TransportError),
        ):
            wrong.get("/v1/health")


def test_a_volunteer_refuses_a_gateway_of_another_pool(pool, tmp_path):
    other = create_pool_pki(tmp_path / "other", ["127.0.0.1"])
    context = client_context(pool.bundle("vol-1"))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(other.gateway_cert, other.gateway_key)
    ours, theirs = ssl.MemoryBIO(), ssl.MemoryBIO()
    client_end = context.wrap_bio(theirs, ours, server_hostname="127.0.0.1")
    server_end = server.wrap_bio(ours, theirs, server_side=True)
    with pytest.raises(ssl.SSLWantReadError):
        client_end.do_handshake()
    with pytest.raises(ssl.SSLWantReadError):
        server_end.do_handshake()
    with pytest.raises(ssl.SSLCertVerificationError):
        client_end.do_handshake()


def test_plain_http_and_old_tls_get_nothing(pool):
    port = pool.gateway.ready["port"]
    with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
        sock.sendall(b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"HTTP/1.1 200" not in sock.recv(1000)


def test_redeeming_again_renews_the_same_attempt(pool):
    client, first, _ = pool.begin()
    time.sleep(1.1)
    again = client.redeem(first.ticket)
    assert again.attempt == first.attempt
    assert again.expires_s > first.expires_s
    assert again.input_path != first.input_path


def test_a_ticket_of_another_volunteer_or_a_forged_one_is_refused(pool):
    unit, _ = pool.fresh_unit()
    with pool.raw("vol-2", "bob") as thief:
        assert error(thief.post("/v1/redeem", json={"ticket": pool.ticket(unit, "vol-1")})) == (403, "ticket")
        assert error(thief.post("/v1/redeem", json={"ticket": "a.b"})) == (403, "ticket")
        late = pool.tickets.issue(pool.job, unit, 1, "vol-2", time.time() - 100, 50)
        assert error(thief.post("/v1/redeem", json={"ticket": late})) == (403, "ticket")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", (400, "json")),
        (b"[]", (400, "json")),
        (b"{", (400, "json")),
        (b"[" * 8000, (400, "json")),
        (b'{"ticket": 5}', (400, "field")),
        (b'{"ticket": ""}', (400, "field")),
        (b"x" * 9000, (413, "too-large")),
    ],
)
def test_a_body_that_is_no_request_is_refused(pool, body, expected):
    with pool.raw() as raw:
        assert error(raw.post("/v1/redeem", content=body)) == expected


def test_an_unknown_unit_is_settled(pool):
    with pool.raw() as raw:
        assert error(raw.post("/v1/redeem", json={"ticket": pool.ticket("ef" * 16)})) == (410, "settled")


def test_ranges_inside_the_chunk_are_served_and_others_are_not(pool):
    _, assignment, ref = pool.begin()
    offset, length = ref.ranges[0]
    data = pool.data.read_bytes()
    wrong = [
        "bytes=0-0" if offset else f"bytes={offset + length}-{offset + length}",
        f"bytes={offset}-{offset + length}",
    ]
    malformed = ["bytes=-5", "bytes=1-", "bytes=5-1", f"bytes={offset}-{offset},3-4", "rows=1-2", "bytes=1-" + "9" * 30]
    with pool.raw() as raw:
        got = raw.get(assignment.input_path, headers={"Range": f"bytes={offset + 3}-{offset + 12}"})
        assert (got.status_code, got.content) == (206, data[offset + 3 : offset + 13])
        assert got.headers["etag"] == f'"{assignment.etag}"'
        for asked in wrong:
            assert error(raw.get(assignment.input_path, headers={"Range": asked})) == (416, "range")
        for asked in malformed:
            assert raw.get(assignment.input_path, headers={"Range": asked}).status_code in (400, 416)
        assert error(raw.get(assignment.input_path)) == (400, "range")


def test_another_version_than_asked_for_is_refused(pool):
    _, assignment, ref = pool.begin()
    with pool.raw() as raw:
        answer = raw.get(assignment.input_path, headers={**first_range(ref), "If-Match": '"other"'})
        assert error(answer) == (412, "source-changed")


def test_a_url_is_good_for_its_volunteer_attempt_and_method_only(pool):
    _, mine, ref = pool.begin(volunteer="vol-1")
    _, theirs, _ = pool.begin(volunteer="vol-2")
    body = pool.honest_bytes(ref)
    swapped = theirs.input_path.replace(theirs.attempt, mine.attempt)
    with pool.raw("vol-1") as raw, pool.raw("vol-2") as other:
        for path in (theirs.input_path, swapped):
            assert error(raw.get(path, headers=first_range(ref))) == (403, "url")
        assert error(other.get(mine.input_path, headers=first_range(ref))) == (403, "url")
        crossed = mine.input_path.replace("/input/", "/upload/")
        headers = {"X-Muster-Blake3": blake3(body).hexdigest()}
        assert error(raw.put(crossed, content=body, headers=headers)) == (403, "url")
        assert error(other.put(mine.upload_path, content=body, headers=headers)) == (403, "url")
        assert raw.put(mine.input_path, content=body).status_code == 404


def test_an_expired_url_is_refused(pool):
    _, assignment, ref = pool.begin()
    signer = UrlSigner(load_secret(pool.pki.url_secret))
    scope = UrlScope("GET", f"/v1/input/{assignment.attempt}", assignment.attempt, "vol-1", 0)
    with pool.raw() as raw:
        good = signer.sign(scope, time.time() + 5)
        assert raw.get(good, headers=first_range(ref)).status_code == 206
        assert error(raw.get(signer.sign(scope, time.time() - 1), headers=first_range(ref))) == (403, "url")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1",
        "/v1/",
        "/v1/input/",
        "/v1/upload/",
        "/v1/input/../../pki/volunteer-ca.key",
        "/v1/input/..%2f..%2fpki%2fvolunteer-ca.key",
        "/v1/input/%2e%2e",
        "/v1/input//etc/passwd",
        "/v1/health/",
        "/docs",
        "/v1/input/" + "a" * 5000,
    ],
)
def test_nothing_is_listed_and_no_path_leads_outside(pool, path):
    port = pool.gateway.ready["port"]
    context = client_context(pool.bundle("vol-1"))
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as sock,
    ):
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nRange: bytes=0-1\r\nConnection: close\r\n\r\n".encode())
        answer = sock.recv(4000)
    assert answer.split()[1] in (b"404", b"400")
    assert b"PRIVATE KEY" not in answer


def test_a_quarantined_volunteer_gets_and_gives_nothing(pool):
    _, assignment, ref = pool.begin(pool.client("vol-q", "quentin"), "vol-q")
    body = pool.honest_bytes(ref)
    pool.quarantine("quentin")
    time.sleep(2.2)
    with pool.raw("vol-q", "quentin") as raw:
        assert error(raw.get(assignment.input_path, headers=first_range(ref))) == (410, "settled")
        assert error(pool.put(raw, assignment, body)) == (410, "settled")
        assert error(raw.post("/v1/redeem", json={"ticket": assignment.ticket})) == (410, "settled")


def test_a_failure_is_recorded_once_and_only_for_ones_own_attempt(pool):
    _, assignment, _ = pool.begin()
    report = {"attempt": assignment.attempt, "kind": "kernel", "text": "it\nbroke"}
    with pool.raw("vol-2") as other, pool.raw() as raw:
        assert error(other.post("/v1/fail", json=report)) == (404, "attempt")
        unpaired = raw.post("/v1/fail", content=b'{"attempt": "\\ud800", "kind": "kernel", "text": ""}')
        assert error(unpaired) == (404, "attempt")
        assert error(raw.post("/v1/fail", json={**report, "kind": "boredom"})) == (400, "kind")
        assert error(raw.post("/v1/fail", json={**report, "text": "x" * 2001})) == (400, "field")
        assert raw.post("/v1/fail", json=report).json() == {"recorded": True}
        assert raw.post("/v1/fail", json=report).json() == {"recorded": False}
    assert pool.outcome(assignment.attempt) == ("failed", {"kind": "kernel", "text": "it?broke"})


@pytest.mark.parametrize("begun", [b"", b"GET /v1/health HTTP/1.1\r\nHost:"])
def test_a_connection_that_asks_nothing_is_closed(pool, begun):
    context = client_context(pool.bundle("vol-1"))
    with (
        socket.create_connection(("127.0.0.1", pool.gateway.ready["port"]), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as sock,
    ):
        sock.sendall(begun)
        started = time.monotonic()
        with contextlib.suppress(ConnectionError, ssl.SSLEOFError):
            assert sock.recv(100) == b""
        assert time.monotonic() - started < pool.header_timeout_s + 2
