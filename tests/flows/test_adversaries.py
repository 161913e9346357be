"""The whole job on a real pool whose volunteers lie, dawdle, vanish, forge and replay: only honest rows are left."""

from pathlib import Path

import pytest
from small_jobs import assert_identical, preprocess, published, write_corpus

N_ROWS = 6000


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("corpus") / "corpus.parquet"
    return path, write_corpus(path, N_ROWS)


def caught(report) -> set[str]:
    return {c.contributor for c in report.caught}


def test_honest_volunteers_are_never_blamed(corpus, tmp_path: Path):
    path, table = corpus
    report = preprocess(path, tmp_path / "out")
    assert_identical(tmp_path / "out", table)
    assert not report.caught
    assert report.kept == N_ROWS
    assert report.rejected == 0


def test_every_forger_is_caught_and_nothing_of_theirs_is_published(corpus, tmp_path: Path):
    path, table = corpus
    names = ("honest-1", "lies-1", "hides-1", "schema-1", "rows-1", "garbage-1", "replays-1")
    report = preprocess(path, tmp_path / "out", names)
    assert_identical(tmp_path / "out", table)
    assert "honest-1" not in caught(report)
    assert {"lies-1", "hides-1"} <= caught(report)
    assert all("row" in c.reason for c in report.caught if c.contributor in ("lies-1", "hides-1"))


def test_a_liar_too_subtle_for_audits_in_flight_meets_the_final_audit(corpus, tmp_path: Path):
    path, table = corpus
    report = preprocess(path, tmp_path / "out", ("honest-1", "subtle-1"))
    # 5,299 of 6,000 rows are recomputed, so that a liar with a dozen bad rows is caught all but surely
    assert caught(report) == {"subtle-1"}
    assert_identical(tmp_path / "out", table)


def test_a_pool_of_liars_is_done_at_home(corpus, tmp_path: Path):
    path, table = corpus
    report = preprocess(path, tmp_path / "out", ("lies-1", "lies-2"))
    assert_identical(tmp_path / "out", table)
    assert caught(report) == {"lies-1", "lies-2"}
    assert report.chunks_at_home > 0
    assert "trusted" in report.statement


def test_slow_vanishing_silent_and_failing_volunteers_cost_time_only(corpus, tmp_path: Path):
    path, table = corpus
    names = ("honest-1", "slow-1", "vanishes-1", "silent-1", "fails-1", "oversized-1")
    report = preprocess(path, tmp_path / "out", names, unit_timeout_s=6.0)
    assert_identical(tmp_path / "out", table)
    assert "honest-1" not in caught(report)
    assert published(tmp_path / "out").num_rows == N_ROWS
