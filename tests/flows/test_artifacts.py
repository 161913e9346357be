"""What artifacts say: bounded tables, escaped text, the certificate as it was signed. No server."""

import json

from hypothesis import given
from hypothesis import strategies as st

from muster.flows.artifacts import MAX_VOLUNTEERS, chunk_rows, escaped, line, percent, report_markdown
from muster.tasks.progress import Progress
from muster.tasks.report import Caught, JobReport

STATES = ["started", "uploaded", "validated", "refused", "failed"]


def test_the_table_counts_chunks_of_the_job_and_of_each_volunteer() -> None:
    attempts = {("ada", "started"): 1, ("ada", "validated"): 4, ("bob", "failed"): 2, ("home", "validated"): 1}
    job, *rest = chunk_rows({"open": 2, "home": 1, "accepted": 4, "trusted": 1}, attempts)
    assert job == {"chunks of": "the whole job", "in work": 3, "accepted": 5, "refused": 0, "failed or lost": 0}
    assert [row["chunks of"] for row in rest] == ["ada", "bob", "trusted workers"]
    assert rest[0]["in work"] == 1
    assert rest[1]["failed or lost"] == 2


@given(st.dictionaries(st.tuples(st.text(max_size=3), st.sampled_from(STATES)), st.integers(1, 9), max_size=400))
def test_the_table_loses_no_attempt_of_those_it_shows(attempts) -> None:
    rows = chunk_rows({}, attempts)[1:]
    assert len(rows) <= MAX_VOLUNTEERS + 1
    if len(rows) <= MAX_VOLUNTEERS:
        assert sum(n for row in rows for n in row.values() if isinstance(n, int)) == sum(attempts.values())


def test_a_big_pool_is_cut_to_the_busiest() -> None:
    rows = chunk_rows({}, {(f"v{i}", "validated"): i + 1 for i in range(MAX_VOLUNTEERS + 50)})
    assert len(rows) == MAX_VOLUNTEERS + 2
    assert rows[1]["chunks of"] == f"v{MAX_VOLUNTEERS + 49}"
    assert rows[-1]["chunks of"] == "… and 50 more volunteers"


def test_the_bar_says_stage_count_and_note() -> None:
    assert line(Progress("compute", 1500, 3000, "chunks", "caught: m_x")) == (
        "**compute** 1,500 of 3,000 chunks · caught: m\\_x"
    )
    assert percent(Progress("compute", 1500, 3000)) == 50.0
    assert percent(Progress("start")) == 0.0


def test_text_of_volunteers_can_not_forge_the_report() -> None:
    evil = "row 3 | ok |\n# Certified\n[x](http://x) <img src=x>"
    report = JobReport("out", "j", rows=1, caught=(Caught("mallory", evil),), certificate={"statement": "s", "n": 1})
    text = report_markdown(report)
    assert "\n# Certified" not in text
    assert "\\[x\\](http://x) \\<img src=x\\>" in text
    assert json.loads(text.split("```json\n")[1].split("\n```")[0]) == report.certificate
    assert escaped("a\n|b") == "a \\|b"
