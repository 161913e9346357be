"""Tickets and signed URLs: genuine ones pass, anything changed, swapped, late or oversized does not."""

from __future__ import annotations

import dataclasses
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.cluster.coordinator.signed_urls import UrlError, UrlScope, UrlSigner
from muster.cluster.coordinator.tickets import TicketError, TicketSigner

JOB, UNIT = "ab" * 16, "cd" * 16
SIGNER = TicketSigner(b"k" * 32)
URLS = UrlSigner(b"u" * 32)
SCOPE = UrlScope("GET", "/v1/input/a1", "a1", "vol-1", 0)


def test_a_ticket_says_what_was_put_in():
    ticket = SIGNER.check(SIGNER.issue(JOB, UNIT, 3, "vol-1", 1000.0, 60.0), "vol-1", 1059.9)
    assert (ticket.job, ticket.unit, ticket.issue, ticket.volunteer, ticket.expires_s) == (
        JOB,
        UNIT,
        3,
        "vol-1",
        1060.0,
    )


def test_a_ticket_is_for_one_volunteer_and_expires():
    token = SIGNER.issue(JOB, UNIT, 0, "vol-1", 1000.0, 60.0)
    with pytest.raises(TicketError, match="another volunteer"):
        SIGNER.check(token, "vol-2", 1001.0)
    with pytest.raises(TicketError, match="expired"):
        SIGNER.check(token, "vol-1", 1060.0)


def test_another_pools_ticket_is_refused():
    token = TicketSigner(b"x" * 32).issue(JOB, UNIT, 0, "vol-1", 1000.0, 60.0)
    with pytest.raises(TicketError, match="not a ticket of this pool"):
        SIGNER.check(token, "vol-1", 1001.0)


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_any_changed_character_is_refused(position, shift):
    token = SIGNER.issue(JOB, UNIT, 0, "vol-1", 1000.0, 60.0)
    position %= len(token)
    changed = token[:position] + chr((ord(token[position]) + shift) % 256) + token[position + 1 :]
    if changed == token:
        return
    with pytest.raises(TicketError):
        SIGNER.check(changed, "vol-1", 1001.0)


@given(st.text(max_size=3000))
def test_arbitrary_text_is_refused(text):
    with pytest.raises(TicketError):
        SIGNER.check(text, "vol-1", 0.0)


@pytest.mark.parametrize("ttl_s", [0.0, -1.0, 31 * 86400.0, float("nan")])
def test_a_senseless_time_to_live_is_refused(ttl_s):
    with pytest.raises(ValueError, match="time to live"):
        SIGNER.issue(JOB, UNIT, 0, "vol-1", 1000.0, ttl_s)


def split(url):
    path, query = url.split("?")
    return path, query


def test_a_url_is_good_for_exactly_one_use():
    path, query = split(URLS.sign(SCOPE, 2000.7))
    assert path == SCOPE.path
    URLS.check(SCOPE, query, 1999.9)
    with pytest.raises(UrlError, match="expired"):
        URLS.check(SCOPE, query, 2000.0)
    others = {"method": "PUT", "path": "/v1/input/a2", "attempt": "a2", "volunteer": "vol-2", "max_nbytes": 1}
    for field, value in others.items():
        with pytest.raises(UrlError, match="not signed"):
            URLS.check(dataclasses.replace(SCOPE, **{field: value}), query, 1000.0)


def test_fields_can_not_be_shifted_into_each_other():
    first, second = (
        dataclasses.replace(SCOPE, attempt="ab", volunteer="c"),
        dataclasses.replace(SCOPE, attempt="a", volunteer="bc"),
    )
    _, query = split(URLS.sign(first, 2000))
    with pytest.raises(UrlError):
        URLS.check(second, query, 1000.0)


@pytest.mark.parametrize(
    "change",
    [
        lambda q: q.replace("exp=2000", "exp=2001"),
        lambda q: q + "&x=1",
        lambda q: q.replace("exp=", "exp=0"),
        lambda q: "&".join(reversed(q.split("&"))),
        lambda q: q[:-1],
        lambda q: re.sub("sig=.*", "sig=", q),
        lambda q: "",
        lambda q: q + "A" * 10_000,
    ],
)
def test_a_changed_query_is_refused(change):
    _, query = split(URLS.sign(SCOPE, 2000))
    with pytest.raises(UrlError):
        URLS.check(SCOPE, change(query), 1000.0)
