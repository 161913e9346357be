"""Unit messages: strict, bounded, and the only thing that execute_unit takes."""

from __future__ import annotations

import json

import pytest
from dask.utils import key_split
from hypothesis import given
from hypothesis import strategies as st

from muster.cluster.unit import (
    MAX_MESSAGE_CHARS,
    UnitError,
    UnitMessage,
    check_unit,
    execute_unit,
    make_unit,
    set_executor,
    unit_key,
)

JOB, UNIT = "ab" * 16, "01" * 16
hex_ids = st.text("0123456789abcdef", min_size=32, max_size=32)
issues = st.integers(0, 2**31 - 1)
tickets = st.text("ABCxyz019_-.", max_size=1024)


@given(hex_ids, hex_ids, issues, tickets)
def test_a_message_survives_its_journey(job, unit, issue, ticket):
    message = check_unit(make_unit(job, unit, issue))
    assert message == UnitMessage(job, unit, issue)
    stamped = message.with_ticket(ticket)
    assert check_unit(stamped.to_json()) == UnitMessage(job, unit, issue, ticket)
    assert len(stamped.to_json()) <= MAX_MESSAGE_CHARS


@given(hex_ids, hex_ids, issues)
def test_one_dask_group_for_each_job(job, unit, issue):
    key = unit_key(job, unit, issue)
    assert key_split(key) == f"j{job[:8]}"
    assert key == f"j{job[:8]}-{unit}.{issue}"


GOOD = {"v": 1, "job": JOB, "unit": UNIT, "issue": 3}


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"v": True},
        {"v": "1"},
        {"job": JOB[:-1]},
        {"job": JOB.upper()},
        {"job": 7},
        {"unit": UNIT + "0"},
        {"unit": UNIT[:-1] + "\n"},
        {"unit": None},
        {"issue": -1},
        {"issue": 2**31},
        {"issue": 1.0},
        {"issue": True},
        {"ticket": 5},
        {"ticket": "a b"},
        {"ticket": "a" * 1025},
        {"url": "file:///etc/passwd"},
    ],
)
def test_a_wrong_or_unknown_field_is_refused(change):
    assert check_unit(json.dumps(GOOD)) == UnitMessage(JOB, UNIT, 3)
    with pytest.raises(UnitError):
        check_unit(json.dumps(GOOD | change))


@pytest.mark.parametrize("missing", sorted(GOOD))
def test_a_missing_field_is_refused(missing):
    with pytest.raises(UnitError, match="expected the fields"):
        check_unit(json.dumps({k: v for k, v in GOOD.items() if k != missing}))


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "[" * 2000, b"{}", None, 5, "1" * 5000, "NaN"])
def test_anything_else_is_refused(text):
    with pytest.raises(UnitError):
        check_unit(text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda s: st.lists(s) | st.dictionaries(st.text(), s)
    )
)
def test_arbitrary_json_is_refused_with_unit_error_only(value):
    with pytest.raises(UnitError):
        check_unit(json.dumps(value))


def test_make_unit_refuses_what_nobody_could_parse():
    with pytest.raises(UnitError, match="job"):
        make_unit("job", UNIT, 0)
    with pytest.raises(UnitError, match="issue"):
        make_unit(JOB, UNIT, -1)


def test_without_an_executor_nothing_runs_and_errors_read_well():
    seen = []
    with pytest.raises(UnitError, match="no executor in this process"):
        execute_unit(make_unit(JOB, UNIT, 0))
    set_executor(seen.append)
    try:
        execute_unit(make_unit(JOB, UNIT, 0))
        with pytest.raises(UnitError):
            execute_unit("{}")
    finally:
        set_executor(None)
    assert seen == [UnitMessage(JOB, UNIT, 0)]
    assert repr(UnitError("settled")) == "settled"
