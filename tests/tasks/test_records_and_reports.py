"""The small parts of ``tasks`` that need no process: stored records, costs, the report's text, rounds, happenings."""

import dataclasses
import json
import string
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.cluster.coordinator.jobs import JobStore
from muster.cluster.coordinator.rows import HOME, EventRow
from muster.errors import JobError
from muster.tasks import happenings
from muster.tasks.commit import _round_of
from muster.tasks.costs import CATEGORIES, Costs
from muster.tasks.report import Caught, JobReport
from muster.tasks.stored_records import dump, load_contributor, load_unit
from muster.trust import events as ev
from muster.trust.records import ContributorRecord, UnitRecord, UnitState

words = st.text(string.printable, max_size=12)
names = st.lists(words, max_size=4).map(tuple)
counts = st.integers(0, 2**40)
maybe = st.none() | words
units = st.builds(
    UnitRecord,
    unit_id=words,
    n_rows=counts,
    place=words,
    state=st.sampled_from(UnitState),
    issue=counts,
    failures_by=names,
    failed_attempts=names,
    refused_attempts=names,
    attempt=maybe,
    volunteer=maybe,
    contributor=maybe,
    digest=maybe,
    audit_rows=counts,
    audits_pending=names,
    compared=names,
    rows_audited=counts,
    round_passed=counts,
)
contributors = st.builds(ContributorRecord, words, *[counts] * 7, quarantined=st.booleans(), reason=words)


@given(units)
def test_a_units_record_is_read_back_as_it_was(unit: UnitRecord) -> None:
    assert load_unit(dump(unit), unit_id="other", n_rows=0, place="", issue=9) == unit


@given(contributors)
def test_a_contributors_record_is_read_back_as_it_was(who: ContributorRecord) -> None:
    assert load_contributor(dump(who)) == who


def test_a_unit_without_a_record_is_new() -> None:
    fresh = load_unit("", unit_id="u", n_rows=7, place="chunk 0", issue=3)
    assert fresh == UnitRecord("u", 7, "chunk 0", issue=3)


def test_a_record_of_a_newer_muster_is_refused_and_an_older_one_gets_defaults() -> None:
    with pytest.raises(JobError, match="newer Muster: karma"):
        load_contributor(json.dumps({"name": "ada", "karma": 1}))
    assert load_contributor('{"name":"ada"}') == ContributorRecord("ada")


def test_costs_go_to_their_category_and_only_grow() -> None:
    costs = Costs()
    pool: Any = SimpleNamespace(cpu_s=lambda: {"scheduler": 2.0, "gateway": 3.0, "intake": 4.0})
    costs.watch(pool)
    pool.cpu_s = lambda: {"scheduler": 2.5, "gateway": 3.25, "intake": 1.0}  # a clock that went back: it restarted
    with costs.stage("plan"):
        sum(range(100_000))
    costs.collect(pool, referees_cpu_s=1.5)
    assert costs.cpu_s.keys() <= set(CATEGORIES)
    assert (costs.cpu_s["dispatch"], costs.cpu_s["serve and receive"], costs.cpu_s["audit"]) == (0.5, 0.25, 1.5)
    assert costs.cpu_s["intake"] == 0.0
    assert costs.total_cpu_s == pytest.approx(2.25 + costs.cpu_s["plan"])
    with pytest.raises(ValueError, match="coffee"):
        costs.add_cpu("coffee", 1.0)


def test_the_report_says_what_was_taken_over_caught_and_done_at_home() -> None:
    report = JobReport(
        "out",
        "j",
        rows=1200,
        kept=1199,
        rejected=1,
        chunks=12,
        resumed_chunks=5,
        input_nbytes=2**20,
        wall_s=2.0,
        attempts={("ada", "validated"): 10, (HOME, "validated"): 2},
        caught=(Caught("eve", "row 7: other"),),
        rounds=2,
        rows_recomputed=900,
        chunks_at_home=2,
        certificate={"statement": "All is well."},
        next_command="muster verify out",
    )
    lines = dict(report.lines())
    assert lines["rows"] == "1,199 published, 1 rejected, of 1,200"
    assert lines["chunks"] == "12 in 12 attempts; 5 taken over from an earlier run"
    assert lines["caught"] == "eve: row 7: other"
    assert lines["audit"] == "900 rows recomputed, 2 final rounds"
    assert lines["certified"] == "All is well."
    assert "trusted" not in lines  # nothing was measured, so nothing is said


def test_a_finished_out_is_reported_in_two_lines() -> None:
    report = JobReport("out", "j", already_done=True, next_command="muster verify out")
    assert [label for label, _ in report.lines()] == ["published", "next"]


@pytest.fixture
def store(tmp_path: Path):
    store = JobStore(tmp_path)
    store.open_job("j" * 32, spec="{}", source="{}", recipe="{}", schema="")
    yield store
    store.close()


def a_run(store: JobStore) -> Any:
    return SimpleNamespace(store=store, job=store.job("j" * 32))


def conclude(store: JobStore, number: int, root: str, state: str) -> None:
    with store.step() as step:
        step.save_round("j" * 32, number, root=root, state=state, outcome=None)


@pytest.mark.parametrize("state", ["committed", "drawn", "clean"])
def test_a_root_that_was_committed_keeps_its_round(store: JobStore, state: str) -> None:
    run = a_run(store)
    assert _round_of(run, "a" * 64) == (1, "committed")
    conclude(store, 1, "a" * 64, state)
    assert _round_of(run, "a" * 64) == (1, state)
    assert len(store.rounds("j" * 32)) == 1


def test_another_root_or_a_failed_round_begins_the_next(store: JobStore) -> None:
    run = a_run(store)
    _round_of(run, "a" * 64)
    conclude(store, 1, "a" * 64, "drawn")
    assert _round_of(run, "b" * 64) == (2, "committed")
    conclude(store, 2, "b" * 64, "failed")
    assert _round_of(run, "b" * 64) == (3, "committed")


def test_a_job_is_closed_once(store: JobStore) -> None:
    with store.step() as step:
        assert step.close_job("j" * 32)
    with store.step() as step:
        assert not step.close_job("j" * 32)
    assert store.job("j" * 32).state == "published"


def test_a_lease_is_taken_over_from_the_dead_only(store: JobStore) -> None:
    job = "j" * 32
    assert store.take_lease(job, "me", 30.0) is None
    assert store.take_lease(job, "me", 30.0) is None  # renewed
    assert store.take_lease(job, "you", 30.0) == "me"
    assert store.take_lease(job, "you", 30.0, gone="somebody else") == "me"
    assert store.take_lease(job, "you", 30.0, gone="me") is None
    store.drop_lease(job, "me")  # not the holder any more
    assert store.lease_owner(job) == "you"
    assert store.take_lease(job, "you", -1.0) is None
    assert store.take_lease(job, "me", 30.0) is None  # expired


def row(kind: str, outcome: dict[str, Any] | None = None, volunteer: str = "ada") -> EventRow:
    said = None if outcome is None else json.dumps(outcome)
    return EventRow(1, "u", "a", kind, 0.0, 2, volunteer, volunteer, said)


def test_registry_rows_become_events(store: JobStore) -> None:
    run = a_run(store)
    assert happenings.of_row(run, row("uploaded")) is None
    assert happenings.of_row(run, row("started", volunteer=HOME)) is None
    assert happenings.of_row(run, row("started")) == ev.AttemptStarted("u", 2, "a", "ada", "ada")
    validated = happenings.of_row(run, row("validated", {"digest": "d", "kept": 4, "rejected": 1}))
    assert isinstance(validated, ev.ResultValidated)
    assert (validated.n_rows, validated.digest) == (5, "d")
    failed = happenings.of_row(run, row("failed", {"kind": "melted", "text": "hot"}))
    assert isinstance(failed, ev.AttemptFailed)
    assert (failed.kind, failed.text) == ("transfer", "hot")


def test_a_seed_depends_on_the_secret_key_and_the_digest(store: JobStore) -> None:
    run = a_run(store)
    outcome = {"digest": "d", "kept": 4, "rejected": 0}
    first, again = (happenings.of_row(run, row("validated", outcome)) for _ in range(2))
    other = happenings.of_row(run, row("validated", outcome | {"digest": "e"}))
    run.job = dataclasses.replace(run.job, inflight_key=bytes(32))
    rekeyed = happenings.of_row(run, row("validated", outcome))
    seeds = [event.seed for event in (first, again, other, rekeyed) if isinstance(event, ev.ResultValidated)]
    assert seeds[0] == seeds[1]
    assert len(set(seeds)) == 3
