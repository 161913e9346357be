"""``decide`` rule by rule: what each event does to a unit and its contributor, and what is refused."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.errors import JobError
from muster.trust.decide import TRANSITIONS, decide, resume
from muster.trust.events import (
    AcceptResult,
    AttemptFailed,
    AttemptStarted,
    AuditFailed,
    AuditReported,
    AuditRows,
    BadRow,
    CompareOnly,
    ComputeAtHome,
    DiscardContributor,
    Event,
    FailJob,
    HomeRequested,
    IssueUnit,
    RecordVerdict,
    RefereeComputed,
    RefereeFailed,
    ResultDiscarded,
    ResultRefused,
    ResultValidated,
)
from muster.trust.policy import InFlight, Policy
from muster.trust.records import ContributorRecord, Records, UnitRecord, UnitState
from muster.trust.sampling import in_flight_seed

KEY = bytes(range(32))
POLICY = Policy(in_flight=InFlight(probation_units=2, probation_rows=5, later_rate=1e-6))
OPEN = UnitRecord("u", 100, "chunk 7 (a.jsonl, rows 700 to 799)")
ANN = ContributorRecord("ann")
BAD = BadRow(733, "3", "4")


def result(attempt="a1", contributor="ann", digest="good", issue=1, n_rows=100):
    seed = in_flight_seed(KEY, digest)
    return ResultValidated("u", issue, attempt, f"{contributor}-pc", contributor, digest, n_rows, seed)


def failure(attempt, volunteer="pc1", kind="kernel", issue=1, issue_over=True):
    return AttemptFailed("u", issue, attempt, volunteer, "ann", kind, "boom", issue_over)


def refusal(attempt, issue=1, source_unchanged=True):
    return ResultRefused("u", issue, attempt, "pc1", "ann", "wrong-schema", "extra column", source_unchanged)


def audit(attempt="a1", contributor="ann", bad=None, round_number=None, rows=5, source_unchanged=True):
    return AuditReported("u", attempt, contributor, round_number, rows, bad, source_unchanged)


def run(unit, who, *events, policy=POLICY):
    """Apply events in turn; returns unit, contributors and the last instructions without verdicts."""
    people = {record.name: record for record in ([who] if isinstance(who, ContributorRecord) else who)}
    instructions = ()
    for event in events:
        changed, instructions = decide(Records(unit, people), event, policy)
        unit = changed.unit or unit
        people |= changed.contributors
    return unit, people, [i for i in instructions if not isinstance(i, RecordVerdict)]


def test_every_state_has_a_rule_for_every_event():
    for state in UnitState:
        assert set(TRANSITIONS[state]) == set(Event.__args__)


def test_a_first_result_is_accepted_and_audited_during_probation():
    unit, people, (accept, order) = run(OPEN, ANN, AttemptStarted("u", 1, "a1", "pc", "ann"), result())
    assert accept == AcceptResult("u", "a1", "ann", "good")
    assert isinstance(order, AuditRows)
    assert len(order.offsets) == 5
    assert unit.state is UnitState.ACCEPTED
    assert not unit.quiet
    assert people["ann"].validated == people["ann"].audits_started == 1
    unit, people, rest = run(unit, people.values(), audit())
    assert rest == []
    assert unit.quiet
    assert people["ann"].rows_passed == unit.rows_audited == 5


def test_the_same_result_again_changes_nothing():
    unit, people, _ = run(OPEN, ANN, result())
    assert decide(Records(unit, people), result(), POLICY) == (Records(None, {}), ())


def test_later_results_are_audited_at_the_rate_of_the_policy():
    proven = replace(ANN, audits_started=2)
    assert run(OPEN, proven, result())[2] == [AcceptResult("u", "a1", "ann", "good")]
    always = replace(POLICY, in_flight=InFlight(probation_units=1, later_rate=1.0, later_rows=7))
    order = run(OPEN, proven, result(), policy=always)[2][1]
    assert len(order.offsets) == 7
    rate = replace(POLICY, in_flight=InFlight(probation_units=1, later_rate=0.25))
    drawn = sum(len(run(OPEN, proven, result(digest=str(i)), policy=rate)[2]) == 2 for i in range(800))
    assert 150 < drawn < 250


def test_kernels_that_are_not_row_wise_are_audited_whole():
    order = run(OPEN, ANN, result(), policy=replace(POLICY, row_wise=False))[2][1]
    assert order.offsets is None


def test_one_bad_row_ends_the_contributor_and_reopens_the_unit():
    unit, people, (discard, issue) = run(OPEN, ANN, result(), audit(bad=BAD))
    assert isinstance(discard, DiscardContributor)
    assert "row 733: expected 3, found 4 from ann" in discard.reason
    assert "chunk 7 (a.jsonl" in discard.reason
    assert issue == IssueUnit("u", 2)
    assert unit == replace(OPEN, issue=2)
    assert people["ann"].quarantined


def test_a_quarantined_contributors_result_is_never_accepted():
    unit, _, instructions = run(OPEN, replace(ANN, quarantined=True), result())
    assert instructions == [IssueUnit("u", 2)]
    assert unit.state is UnitState.OPEN
    assert run(replace(OPEN, issue=3), replace(ANN, quarantined=True), result(issue=2))[2] == []


def test_bad_rows_of_a_changed_source_fail_the_job_and_blame_nobody():
    for report in (audit(bad=BAD, source_unchanged=False), audit(source_unchanged=False)):
        unit, people, (fail,) = run(OPEN, ANN, result(), report)
        assert isinstance(fail, FailJob)
        assert "source changed" in fail.text
        assert unit.state is UnitState.FAILED
        assert not people["ann"].quarantined
    unit, people, (fail,) = run(OPEN, ANN, refusal("a1", source_unchanged=False))
    assert isinstance(fail, FailJob)
    assert people["ann"].faults == 0


def test_three_failures_on_different_volunteers_go_home_and_failing_there_fails_the_job():
    unit, people, last = run(OPEN, ANN, failure("a1", "pc1"), failure("a2", "pc1", issue=2))
    assert last == [IssueUnit("u", 3)]
    unit, people, last = run(unit, people.values(), failure("a3", "pc2", issue=3), failure("a4", "pc3", issue=4))
    assert last == [ComputeAtHome("u")]
    assert unit.state is UnitState.HOME
    unit, _, (fail,) = run(unit, people.values(), RefereeFailed("u", "KernelError: column text is not a string"))
    assert unit.state is UnitState.FAILED
    for part in ("chunk 7 (a.jsonl, rows 700 to 799)", "column text is not a string", "3 volunteers"):
        assert part in fail.text


def test_a_unit_that_fails_on_volunteers_only_is_settled_at_home():
    unit = replace(OPEN, state=UnitState.HOME)
    unit, _, last = run(unit, ANN, RefereeComputed("u", "good"))
    assert last == [AcceptResult("u", "home", None, "good")]
    assert unit.state is UnitState.TRUSTED
    assert unit.contributor is None


def test_losses_do_not_count_as_failures_but_are_bounded():
    unit, people = OPEN, [ANN]
    for i in range(POLICY.max_tries - 1):
        unit, known, last = run(unit, people, failure(f"a{i}", f"pc{i}", "lost", issue=unit.issue))
        people = list(known.values())
        assert last == [IssueUnit("u", i + 2)]
    assert unit.failures_by == ()
    assert run(unit, people, failure("z", "pc", "lost", issue=unit.issue))[2] == [ComputeAtHome("u")]


def test_nothing_is_reissued_while_dask_runs_the_same_key_or_a_newer_issue():
    unit, people, last = run(OPEN, ANN, failure("a1", kind="lost", issue_over=False))
    assert last == []
    assert run(unit, people.values(), failure("a1", kind="no-upload"))[2] == [IssueUnit("u", 2)]
    assert run(replace(OPEN, issue=2), ANN, failure("a1", issue=1))[2] == []


def test_a_key_that_ended_before_anybody_redeemed_it_is_reissued():
    event = AttemptFailed("u", 1, "u.1", None, None, "no-upload", "finished without an attempt")
    unit, people, last = run(OPEN, ANN, event)
    assert last == [IssueUnit("u", 2)]
    assert unit.failures_by == ()
    assert people["ann"] == ANN


def test_refused_uploads_count_and_end_the_contributor():
    events = [refusal(f"a{i}", issue=i) for i in (1, 2, 3)]
    unit, people, last = run(OPEN, ANN, *events)
    assert people["ann"].faults == 3
    assert [type(i) for i in last] == [DiscardContributor, IssueUnit]
    assert unit.failures_by == ("pc1",)
    assert run(OPEN, ANN, refusal("a1"), refusal("a1"))[1]["ann"].faults == 1


def test_a_late_equal_result_agrees_and_a_different_one_goes_to_the_referee_once():
    bob = ContributorRecord("bob", audits_started=2)
    start = [replace(ANN, audits_started=2), bob]
    assert run(OPEN, start, result(), result("b1", "bob"))[2] == []
    unit, people, last = run(OPEN, start, result(), result("b1", "bob", digest="other"))
    assert last == [CompareOnly("u", "a1", "b1")]
    assert sorted(unit.audits_pending) == ["a1", "b1"]
    assert run(unit, people.values(), result("b1", "bob", digest="other"))[2] == []
    after, known, last = run(unit, people.values(), audit(rows=1), audit("b1", "bob", BAD, rows=1))
    assert [type(i) for i in last] == [DiscardContributor]
    assert known["bob"].quarantined
    assert not known["ann"].quarantined
    assert after.quiet
    after, known, last = run(unit, people.values(), audit("b1", "bob", rows=1), audit(bad=BAD, rows=1))
    assert known["ann"].quarantined
    assert after.state is UnitState.OPEN


def test_a_late_result_for_a_trusted_unit_is_compared_with_the_referees():
    unit = replace(OPEN, state=UnitState.TRUSTED, attempt="home", digest="good")
    unit, people, last = run(unit, ANN, result(digest="other"))
    assert last == [CompareOnly("u", "home", "a1")]
    assert run(unit, people.values(), AuditFailed("u", "a1", "no memory"))[0].quiet
    unit, people, _ = run(unit, people.values(), audit(bad=BAD))
    assert unit.state is UnitState.TRUSTED
    assert unit.quiet
    assert people["ann"].quarantined


def test_discards_take_back_only_what_stands_by_a_quarantined_contributor():
    unit, people, _ = run(OPEN, replace(ANN, audits_started=2), result())
    with pytest.raises(JobError, match="good standing"):
        run(unit, people.values(), ResultDiscarded("u", "ann"))
    outlaw = replace(people["ann"], quarantined=True)
    assert run(unit, outlaw, ResultDiscarded("u", "ann"))[2] == [IssueUnit("u", 2)]
    assert run(unit, [outlaw, ContributorRecord("bob", quarantined=True)], ResultDiscarded("u", "bob"))[2] == []


def test_an_audit_that_the_referee_can_not_do_and_the_ladder_send_the_unit_home():
    unit, people, last = run(OPEN, ANN, result(), AuditFailed("u", "a1", "KernelError"))
    assert last == [ComputeAtHome("u")]
    assert unit.state is UnitState.HOME
    assert not people["ann"].quarantined
    assert run(OPEN, ANN, result(), HomeRequested("u", "unproven"))[2] == [ComputeAtHome("u")]


def test_rounds_count_once():
    unit, people, _ = run(OPEN, replace(ANN, audits_started=2), result(), audit(round_number=1), audit(round_number=1))
    assert people["ann"].rows_passed == 5
    assert unit.round_passed == 1


@pytest.mark.parametrize(
    ("unit", "people", "event", "text"),
    [
        (None, [ANN], result(), "expected the record of unit u, got none"),
        (replace(OPEN, unit_id="w"), [ANN], result(), "got w"),
        (OPEN, [], result(), "contributor ann is missing"),
        (OPEN, [ANN], result(n_rows=99), "100 rows, got 99"),
        (replace(OPEN, refused_attempts=("a1",)), [ANN], result(), "was refused"),
        (OPEN, [ANN], audit(rows=0), "no row"),
    ],
)
def test_facts_that_do_not_fit_are_refused(unit, people, event, text):
    with pytest.raises(JobError, match=text):
        decide(Records(unit, {who.name: who for who in people}), event, POLICY)


def test_a_report_under_the_wrong_name_is_refused():
    unit, people, _ = run(OPEN, ANN, result())
    with pytest.raises(JobError, match="is by ann, not by bob"):
        run(unit, [*people.values(), ContributorRecord("bob")], audit(contributor="bob", bad=BAD))


def test_resume_repeats_exactly_what_was_under_way():
    assert resume(OPEN, POLICY) == (IssueUnit("u", 1),)
    assert resume(replace(OPEN, state=UnitState.HOME), POLICY) == (ComputeAtHome("u"),)
    unit, people, (_, order) = run(OPEN, ANN, result())
    assert resume(unit, POLICY, in_flight_seed(KEY, "good")) == (order,)
    with pytest.raises(JobError, match="seed is missing"):
        resume(unit, POLICY)
    both = [*people.values(), ContributorRecord("bob")]
    disputed, people, (compare,) = run(unit, both, result("b1", "bob", digest="other"))
    assert resume(disputed, POLICY, in_flight_seed(KEY, "good")) == (compare, order)
    settled = run(disputed, people.values(), audit(), audit(), audit("b1", "bob"))[0]
    assert resume(settled, POLICY) == ()


def test_resume_repeats_a_comparison_whose_first_report_came_before_the_crash():
    proven = [replace(ANN, audits_started=2), ContributorRecord("bob")]
    unit, people, (compare,) = run(OPEN, proven, result(), result("b1", "bob", digest="other"))
    half, _, _ = run(unit, people.values(), audit("b1", "bob", rows=1))
    assert resume(half, POLICY, in_flight_seed(KEY, "good")) == (compare,)


@given(st.text(max_size=5000), st.text(max_size=5000))
def test_texts_of_volunteers_are_cut_and_never_published(expected, found):
    unit, people, _ = run(OPEN, ANN, result())
    _, instructions = decide(Records(unit, people), audit(bad=BadRow(733, expected, found)), POLICY)
    assert all(len(i.reason) <= 1000 for i in instructions if isinstance(i, DiscardContributor))
    leaves = [i.fields for i in instructions if isinstance(i, RecordVerdict)]
    assert all(set(fields) <= {"unit", "attempt", "contributor", "position", "round"} for fields in leaves)
