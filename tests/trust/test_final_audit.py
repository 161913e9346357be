"""The final audit: exact sizes, exact mapping to rows, uniform draws, outcomes, and the bound itself by simulation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.errors import JobError
from muster.trust.final_audit import RoundResult, conclude_round, plan_round
from muster.trust.policy import Ladder, Policy

KEY = bytes(range(32))
ROOT = "5a" * 32


def test_exact_sizes_with_one_and_two_strata():
    million = np.full(1000, 1000)
    one = plan_round(Policy(), KEY, ROOT, 1, {"kept": million, "rejected": np.zeros(1000)})
    two = plan_round(Policy(), KEY, ROOT, 1, {"kept": million, "rejected": million})
    assert [(s.name, s.n_rows, s.whole) for s in one.strata] == [("kept", 5299, False)]
    assert [(s.name, s.n_rows) for s in two.strata] == [("kept", 5992), ("rejected", 5992)]
    assert two.n_rows == 11984


def test_a_small_stratum_is_recomputed_whole():
    plan = plan_round(Policy(), KEY, ROOT, 1, {"kept": np.full(10, 10_000), "rejected": np.arange(10)})
    kept, rejected = plan.strata
    assert not kept.whole
    assert rejected.whole
    assert rejected.n_rows == rejected.population == 45
    assert rejected.chunks.tolist() == [c for c in range(10) for _ in range(c)]
    assert rejected.ranks.tolist() == [r for c in range(10) for r in range(c)]


def test_nothing_to_draw_when_trusted_workers_computed_everything():
    plan = plan_round(Policy(), KEY, ROOT, 1, {"kept": np.zeros(5), "rejected": np.zeros(5)})
    assert plan.strata == ()
    assert plan.n_rows == 0
    assert list(plan.by_chunk()) == []


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 3)), min_size=1, max_size=60), st.integers(1, 4))
def test_mapping_is_that_of_the_rows_written_out(counts, round_number):
    kept, rejected = (np.array(column) for column in zip(*counts, strict=True))
    policy = Policy(max_error=0.1, confidence=0.9)
    plan = plan_round(policy, KEY, ROOT, round_number, {"kept": kept, "rejected": rejected})
    written = {
        name: [(c, r) for c, n in enumerate(column) for r in range(n)]
        for name, column in (("kept", kept), ("rejected", rejected))
    }
    for stratum in plan.strata:
        drawn = list(zip(stratum.chunks.tolist(), stratum.ranks.tolist(), strict=True))
        assert stratum.population == len(written[stratum.name])
        assert len(set(drawn)) == len(drawn) == stratum.n_rows
        assert set(drawn) <= set(written[stratum.name])
        assert drawn == sorted(drawn)
        assert stratum.whole == (len(drawn) == stratum.population)
    by_chunk = [(c, name, r) for c, ranks in plan.by_chunk() for name, rows in ranks.items() for r in rows.tolist()]
    flat = [(c, s.name, r) for s in plan.strata for c, r in zip(s.chunks.tolist(), s.ranks.tolist(), strict=True)]
    assert sorted(by_chunk) == sorted(flat)
    chunks = [c for c, _ in plan.by_chunk()]
    assert chunks == sorted(set(chunks))


def test_the_same_arguments_give_the_same_plan_and_rounds_differ():
    populations = {"kept": np.full(100, 1000), "rejected": np.zeros(100)}
    first = plan_round(Policy(), KEY, ROOT, 1, populations).strata[0]
    again = plan_round(Policy(), KEY, ROOT, 1, populations).strata[0]
    second = plan_round(Policy(), KEY, ROOT, 2, populations).strata[0]
    assert first.ranks.tolist() == again.ranks.tolist()
    assert first.ranks.tolist() != second.ranks[: len(first.ranks)].tolist()


def test_nonsense_populations_are_refused():
    for populations in (
        {"kept": [1]},
        {"kept": [1], "rejected": [1], "trusted": [1]},
        {"kept": [1, 2], "rejected": [1]},
        {"kept": [-1], "rejected": [1]},
        {"kept": [[1]], "rejected": [[1]]},
    ):
        with pytest.raises(JobError):
            plan_round(Policy(), KEY, ROOT, 1, populations)


def small_plan(round_number=1):
    return plan_round(Policy(), KEY, ROOT, round_number, {"kept": np.full(10, 10), "rejected": np.zeros(10)})


def test_an_incomplete_round_can_not_be_clean():
    with pytest.raises(JobError, match="expected 100 recomputed rows, got 99"):
        conclude_round(small_plan(), 99, (), Policy())
    with pytest.raises(JobError, match="got 101"):
        conclude_round(small_plan(), 101, (), Policy())


def test_a_round_with_rows_that_no_referee_could_recompute_fails_without_blame():
    outcome = conclude_round(small_plan(), 90, (), Policy(), [("ann", 9)], units_without_outcome=1)
    assert outcome.result is RoundResult.FAILED
    assert outcome.contributors == ()


def test_outcomes_climb_the_ladder():
    policy = Policy(ladder=Ladder(unproven_home_after=2, proven_rows=50, all_home_after=3, max_rounds=4))
    people = [("ann", 80), ("bob", 10), ("eve", 0)]
    assert conclude_round(small_plan(), 100, (), policy, people).result is RoundResult.CLEAN
    outcomes = [conclude_round(small_plan(k), 100, ["eve", "eve"], policy, people) for k in (1, 2, 3, 4)]
    assert [o.contributors for o in outcomes] == [("eve",)] * 4
    assert [o.to_home for o in outcomes] == [(), ("bob",), ("ann", "bob"), ()]
    assert [o.result for o in outcomes] == [RoundResult.FAILED] * 3 + [RoundResult.UNCERTIFIED]


def test_real_draws_miss_as_often_as_the_hypergeometric_law_says():
    """20,000 jobs with real plans, b = εN + 1 bad rows: the share of clean first rounds is the exact probability."""
    policy = Policy(max_error=0.05, confidence=0.9)
    n_rows, n_bad, jobs = 2000, 101, 20_000
    chunks = np.full(20, 100)
    nothing = np.zeros(20)
    clean = 0
    for job in range(jobs):
        key = job.to_bytes(32, "little")
        stratum = plan_round(policy, key, ROOT, 1, {"kept": chunks, "rejected": nothing}).strata[0]
        positions = stratum.chunks * 100 + stratum.ranks
        # Bad rows sit in the first positions: a draw that is uniform does not care where.
        clean += not (positions < n_bad).any()
    n = policy.round_rows(1, 1)
    exact = np.prod([(n_rows - n_bad - i) / (n_rows - i) for i in range(n)])
    assert exact <= policy.alpha_of_round(1)
    assert abs(clean / jobs - exact) < 4 * np.sqrt(exact * (1 - exact) / jobs)


@given(st.sampled_from([(0.01, 0.95), (0.02, 0.9), (0.001, 0.99)]), st.integers(0, 2**32))
@settings(max_examples=6, deadline=None)
def test_bad_data_is_certified_at_most_with_probability_alpha(target, seed):
    """200,000 jobs whose adversary is back at just above ε after every failed round, in one or in both strata."""
    max_error, confidence = target
    policy = Policy(max_error=max_error, confidence=confidence)
    rng = np.random.default_rng(seed)
    jobs, population = 200_000, 100_000
    n_bad = int(max_error * population) + 1
    for n_strata in (1, 2):
        open_jobs, certified_bad = jobs, 0
        for k in range(1, policy.ladder.max_rounds + 1):
            n = min(policy.round_rows(k, n_strata), population)
            missed = rng.hypergeometric(n_bad, population - n_bad, n, open_jobs) == 0
            certified_bad += int(missed.sum())
            open_jobs -= int(missed.sum())
        sigma = np.sqrt(policy.alpha / jobs)
        assert certified_bad / jobs <= policy.alpha + 3 * sigma
        if n_strata == 1:
            # The worst adversary comes near the bound: a weaker audit would be noticed here.
            assert certified_bad / jobs > policy.alpha / 2
