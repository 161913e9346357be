"""HTTPS to one gateway and what its answers mean: one client per process, errors as words, repetition with pauses.

What it does not do: know about tickets, chunks or results (``transfer`` does).

Invariants: trusts the bundle's CA only, speaks to the bundle's origin only, follows no redirect, reads no proxy from
the environment; every answer is read up to a limit; a try that can't succeed is not repeated.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TypeVar

import httpx

from muster.cluster.bundle import Bundle, client_context
from muster.cluster.wan_sockets import accepted_options
from muster.errors import printable

MAX_ERROR_NBYTES = 1 << 14
FIRST_PAUSE_S = 0.1
MAX_PAUSE_S = 15.0
KEEP_ALIVE_S = 170.0  # a little less than the gateway's, so that it is this side that closes
TIMEOUT = httpx.Timeout(60.0, connect=30.0, pool=600.0)
T = TypeVar("T")


class TransferError(Exception):
    """The gateway could not be reached or did not do its part within the time allowed; ``str`` says what was seen."""


class SettledError(Exception):
    """The work is not wanted any more: drop it quietly."""


class SourceChangedError(Exception):
    """The input is no longer the one that was planned; nobody here is to blame."""


class RenewError(Exception):
    """The signed URL has expired or was made for another limit: redeem the ticket again."""


class AgainError(Exception):
    """Worth another try after a pause."""


class GatewayHttp:
    """The connections to one gateway; use from any thread."""

    def __init__(self, bundle: Bundle, max_connections: int) -> None:
        self._extensions = {"sni_hostname": bundle.server_name}
        limits = httpx.Limits(
            max_connections=max_connections, max_keepalive_connections=max_connections, keepalive_expiry=KEEP_ALIVE_S
        )
        transport = httpx.HTTPTransport(
            verify=client_context(bundle), trust_env=False, limits=limits, socket_options=accepted_options()
        )
        self._http = httpx.Client(transport=transport, base_url=bundle.gateway, timeout=TIMEOUT, trust_env=False)

    def stream(
        self, method: str, path: str, headers: Mapping[str, str], content: Iterator[bytes] | None = None
    ) -> AbstractContextManager[httpx.Response]:
        """One request whose answer is read as it comes."""
        return self._http.stream(method, path, headers=headers, content=content, extensions=self._extensions)

    def post(self, path: str, body: Mapping[str, str], max_nbytes: int) -> bytes:
        """The answer to a JSON request.

        Raises:
            as ``check`` does, and AgainError for an answer longer than ``max_nbytes``.
        """
        with self._http.stream("POST", path, json=dict(body), extensions=self._extensions) as response:
            check(response, (200,))
            return read_bounded(response, max_nbytes)

    def close(self) -> None:
        """Close every connection; requests under way fail."""
        self._http.close()


def read_bounded(response: httpx.Response, max_nbytes: int) -> bytes:
    """The body of an answer.

    Raises:
        AgainError: it is longer than ``max_nbytes``.
    """
    data = bytearray()
    for block in response.iter_raw():
        data += block
        if len(data) > max_nbytes:
            raise AgainError(f"an answer of more than {max_nbytes} bytes")
    return bytes(data)


def check(response: httpx.Response, expected: tuple[int, ...]) -> None:
    """Return if the answer has one of the expected statuses, else raise what its status means.

    Raises:
        SettledError: 409, 410. SourceChangedError: 412. RenewError: 403 for a URL. AgainError: 408, 429 and 5xx.
        TransferError: any other.
    """
    status = response.status_code
    if status in expected:
        return
    kind, text = _error_of(read_bounded(response, MAX_ERROR_NBYTES))
    seen = f"{status} {kind}: {text}"
    if status in (409, 410):
        raise SettledError(text)
    if status == 412:
        raise SourceChangedError(text)
    if status == 403 and kind == "url":
        raise RenewError(seen)
    if status in (408, 429) or status >= 500 or kind == "truncated":
        raise AgainError(seen)
    raise TransferError(seen)


def repeat(what: str, call: Callable[[], T], *, for_s: float, stop: threading.Event | None = None) -> T:
    """The result of ``call``, tried again after growing random pauses for up to ``for_s`` seconds.

    Raises:
        TransferError: time is up, or ``stop`` was set; with the last thing that went wrong.
    """
    stop = stop or threading.Event()
    deadline = time.monotonic() + for_s
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            return call()
        except (httpx.TransportError, AgainError) as error:
            seen = f"{type(error).__name__}: {error}"
        if time.monotonic() + pause_s > deadline or stop.wait(pause_s * random.uniform(0.5, 1.0)):  # noqa: S311
            raise TransferError(f"{what}: {seen}")
        pause_s = min(2 * pause_s, MAX_PAUSE_S)


def _error_of(body: bytes) -> tuple[str, str]:
    try:
        fields = json.loads(body)
        return printable(str(fields["error"]), 40), printable(str(fields["text"]), 300)
    except (ValueError, KeyError, TypeError, RecursionError):
        return "unknown", "no usable reason was given"
