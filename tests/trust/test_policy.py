"""Policies: the exact sample sizes, the predicted price, and the refusal of whatever checks nothing."""

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from muster.errors import ConfigError
from muster.trust.policy import InFlight, Ladder, Policy, decimal_text, rows_to_draw


@pytest.mark.parametrize(
    ("max_error", "confidence", "n_strata", "rows"),
    [(1e-3, 0.99, 1, 5299), (1e-3, 0.99, 2, 5992), (1e-4, 0.99, 1, 52984), (1e-2, 0.95, 1, 369)],
)
def test_rows_of_the_first_round(max_error, confidence, n_strata, rows):
    assert Policy(max_error=max_error, confidence=confidence).round_rows(1, n_strata) == rows


def test_later_rounds_draw_more_because_alpha_halves():
    policy = Policy()
    assert [policy.round_rows(k, 1) for k in (1, 2, 3)] == [5299, 5992, 6685]
    assert sum(policy.alpha_of_round(k) for k in range(1, 40)) <= policy.alpha


@given(st.floats(1e-6, 0.5), st.floats(0.5, 0.999999), st.integers(1, 20), st.integers(1, 2))
def test_missing_the_stated_share_of_bad_rows_is_rarer_than_the_rounds_alpha(max_error, confidence, k, strata):
    policy = Policy(max_error=max_error, confidence=confidence)
    n = policy.round_rows(k, strata)
    assert n * math.log1p(-max_error) <= math.log(policy.alpha_of_round(k) / strata) + 1e-9


def test_alpha_is_exact_in_decimals():
    assert Policy(confidence=0.99).alpha == 0.01
    assert decimal_text(1e-6) == "0.000001"
    assert rows_to_draw(0.01, 0.001) == 4606


@pytest.mark.parametrize(
    "make",
    [
        lambda: Policy(max_error=0.0),
        lambda: Policy(max_error=1.0),
        lambda: Policy(max_error=float("nan")),
        lambda: Policy(confidence=0.0),
        lambda: Policy(confidence=1.0),
        lambda: Policy(confidence=float("nan")),
        lambda: Policy(max_attempts=0),
        lambda: Policy(max_faults=0),
        lambda: Policy(max_tries=2),
        lambda: InFlight(probation_units=0),
        lambda: InFlight(probation_rows=0),
        lambda: InFlight(later_rate=0.0),
        lambda: InFlight(later_rate=float("nan")),
        lambda: InFlight(later_rows=0),
        lambda: Ladder(unproven_home_after=0),
        lambda: Ladder(proven_rows=0),
        lambda: Ladder(all_home_after=2),
        lambda: Ladder(max_rounds=0),
    ],
)
def test_policies_that_check_nothing_are_refused(make):
    with pytest.raises(ConfigError, match=r"nearest|must"):
        make()


def test_rounds_count_from_one():
    with pytest.raises(ConfigError, match="round"):
        Policy().alpha_of_round(0)
    with pytest.raises(ConfigError, match="strata"):
        Policy().round_rows(1, 0)


def test_price_of_a_large_honest_job():
    overhead = Policy(max_error=1e-4).predict(n_rows=10_000_000, n_units=1000, n_contributors=10)
    assert overhead.final_rows == 52984
    assert overhead.in_flight_rows == 30 * 64 + 49 * 64
    assert overhead.share == pytest.approx(0.0058, abs=1e-4)
    assert Policy().predict(0, 0, 3).share == 0


@given(st.integers(1, 10**9), st.integers(1, 10**4), st.integers(1, 50), st.booleans())
def test_price_never_exceeds_what_there_is(n_rows, n_units, n_contributors, row_wise):
    overhead = Policy(row_wise=row_wise).predict(n_rows, n_units, n_contributors)
    assert 0 < overhead.final_rows <= n_rows
    assert 0 < overhead.in_flight_rows <= n_rows


def test_price_above_the_limit_is_refused_with_the_nearest_target():
    with pytest.raises(ConfigError, match="5,555 of 10,000 rows") as error:
        Policy.from_target(1e-3, 0.99, n_rows=10_000, n_units=10, max_overhead=0.25)
    assert error.value.hint is not None
    assert "--max-error 0.002362" in error.value.hint
    assert Policy.from_target(0.002362, 0.99, n_rows=10_000, n_units=10, max_overhead=0.25).max_error == 0.002362
    with pytest.raises(ConfigError, match="needs a positive"):
        Policy.from_target(max_overhead=0.1)


@given(st.integers(1000, 10**8), st.floats(1e-3, 0.9), st.floats(1e-5, 0.1))
def test_the_nearest_target_can_be_met(n_rows, max_overhead, max_error):
    try:
        policy = Policy.from_target(max_error, n_rows=n_rows, max_overhead=max_overhead)
    except ConfigError as error:
        hint = error.hint or ""
        assume("--max-error" in hint)
        nearest = float(hint.split("--max-error ")[1].split(",")[0])
        policy = Policy.from_target(nearest, n_rows=n_rows, max_overhead=max_overhead)
    assert policy.predict(n_rows, 1, 1).share <= max_overhead
