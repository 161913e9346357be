"""What was committed and audited is what is published, or nothing is; and nobody waits for who never begins a unit."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from small_jobs import assert_identical, preprocess, write_corpus
from sqlalchemy import update

from muster.cluster.coordinator.jobs import JobStore
from muster.cluster.coordinator.rows import EventRow
from muster.cluster.coordinator.tables import attempts, jobs, units
from muster.datasets.exchange import Exchange
from muster.errors import JobError
from muster.tasks import happenings, recompute
from muster.tasks.certify import _stands
from muster.tasks.commit import Commit, commit
from muster.tasks.enter import enter
from muster.tasks.publish import Publishable, publish_dataset
from muster.tasks.recompute import Claim
from muster.tasks.run import Run
from muster.trust import events as ev

N_ROWS = 500


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Run, Commit]]:
    """A published job's run with its registry open again, and its commit."""
    folder = tmp_path_factory.mktemp("job")
    write_corpus(folder / "corpus.parquet", N_ROWS)
    opened: list[Run] = []
    preprocess(folder / "corpus.parquet", folder / "out", on_open=opened.append)
    pool = replace(opened[0].pool, jobs=JobStore(opened[0].pool.pool_dir))
    run = replace(opened[0], pool=pool)
    yield run, commit(run)
    run.store.close()


@pytest.fixture
def replaced(finished: tuple[Run, Commit]) -> Iterator[tuple[Run, Commit]]:
    """One standing result is another now than at the commit."""
    run, committed = finished
    attempt = next(run.store.accepted(run.job.job_id)).attempt_id
    before = run.store.attempts.outcome(attempt)
    set_outcome(run, attempt, json.dumps(json.loads(before) | {"digest": "0" * 64}))
    yield run, committed
    set_outcome(run, attempt, before)


def set_outcome(run: Run, attempt: str, outcome: str) -> None:
    with run.store.db.write() as c:
        c.execute(update(attempts).where(attempts.c.attempt_id == attempt).values(outcome=outcome))


def test_a_round_stands_only_for_what_was_committed(finished):
    assert _stands(*finished)


def test_a_round_does_not_stand_for_a_result_that_was_replaced_meanwhile(replaced):
    assert not _stands(*replaced)


def test_a_result_that_was_not_committed_is_not_published(replaced, tmp_path: Path):
    run, committed = replaced
    params = run.params.model_copy(update={"out": str(tmp_path / "other")})
    what = Publishable(replace(run.prepared, params=params), committed.manifest, {}, run.store.accepted(run.job.job_id))
    with pytest.raises(JobError, match="chunk 0: another result stands now"):
        publish_dataset(what, run.reporter)
    assert not (tmp_path / "other").exists()


def test_nothing_new_is_audited_with_a_key_that_was_revealed(replaced):
    with pytest.raises(JobError, match="audit key revealed"):
        commit(replaced[0])


def test_a_failed_unit_is_open_again_although_its_job_never_said_that_it_failed(finished):
    run, _ = finished
    unit = next(run.store.accepted(run.job.job_id)).unit_id
    before = run.store.unit(run.job.job_id, unit)
    try:
        set_states(run, unit, "failed", "open")
        enter(run)
        assert run.store.unit(run.job.job_id, unit).state == "open"
    finally:
        set_states(run, unit, before.state, "published")


def set_states(run: Run, unit: str, state: str, job_state: str) -> None:
    with run.store.db.write() as c:
        c.execute(update(units).where(units.c.unit_id == unit).values(state=state))
        c.execute(update(jobs).values(state=job_state))


def test_the_final_audit_reads_the_very_bytes_that_are_published(finished):
    run, _ = finished
    row = next(run.store.accepted(run.job.job_id))
    kept, _ = Exchange(run.source.exchange_dir).accepted_paths(row.attempt_id)
    digest = json.loads(row.outcome)["kept_blake3"]
    first, none = recompute.np.zeros(1, dtype="int64"), recompute.np.zeros(0, dtype="int64")
    claim = Claim(row.chunk, str(kept), None, (digest, ""))
    assert recompute.check_ranks(run.work, claim, first, none).difference is None
    with pytest.raises(JobError, match="not those that intake reported"):
        recompute.check_ranks(run.work, replace(claim, digests=("0" * 64, "")), first, none)


@pytest.mark.parametrize(("kind", "expected"), [("lost-upload", ev.AttemptFailed), ("wrong-schema", ev.ResultRefused)])
def test_an_upload_that_the_pool_lost_is_not_held_against_the_volunteer(finished, kind, expected):
    run, _ = finished
    row = next(run.store.accepted(run.job.job_id))
    outcome = json.dumps({"kind": kind, "text": "gone"})
    event = EventRow(1, row.unit_id, row.attempt_id, "refused", 0.0, 1, row.volunteer, row.contributor, outcome)
    assert isinstance(happenings.of_row(run, event), expected)


@pytest.mark.parametrize("useless", ["fails-1", "silent-1"])
def test_a_volunteer_that_ends_every_unit_at_once_does_not_drive_them_home(tmp_path: Path, useless: str):
    path = tmp_path / "corpus.parquet"
    table = write_corpus(path, N_ROWS)
    report = preprocess(path, tmp_path / "out", ("lags-1", useless), rows_per_chunk=25)
    assert_identical(tmp_path / "out", table)
    assert report.chunks_at_home == 0


def test_a_volunteer_that_takes_units_and_never_begins_them_costs_time_only(tmp_path: Path):
    path = tmp_path / "corpus.parquet"
    table = write_corpus(path, N_ROWS)
    report = preprocess(path, tmp_path / "out", ("honest-1", "holds-1"), unit_timeout_s=3.0)
    assert_identical(tmp_path / "out", table)
    assert not report.caught
