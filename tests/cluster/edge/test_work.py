"""Honest work through the edge: real scheduler, real volunteers, real sockets."""

from __future__ import annotations

import json
import os
import signal
import time

import psutil
import pytest

from muster.cluster.client import NobodyEligibleError
from muster.cluster.coordinator.pki import load_secret
from muster.cluster.coordinator.tickets import TicketSigner


@pytest.fixture(scope="module")
def workers(pool):
    names = ["vol-1", "vol-2"]
    return {name: pool.volunteer(name) for name in names}


def test_units_are_executed_once_each_with_the_right_ticket(pool, workers, client, tools):
    job = tools.job_id()
    keys = tools.submit_units(client, job, 40)
    states = tools.collect(client, 40)
    assert {s.key for s in states} == set(keys)
    assert {(s.status, s.error_text) for s in states} == {("finished", "")}
    signer = TicketSigner(load_secret(pool.pki.ticket_secret))
    done = {name: pool.record(name) for name in workers}
    assert sorted(line["unit"] for lines in done.values() for line in lines) == sorted(
        k.split("-")[1][:32] for k in keys
    )
    assert all(done.values()), "both volunteers worked"
    for name, lines in done.items():
        for line in lines:
            ticket = signer.check(line["ticket"], name, time.time())
            assert (ticket.job, ticket.unit, ticket.issue) == (job, line["unit"], 0)
    assert client.pending() == 0
