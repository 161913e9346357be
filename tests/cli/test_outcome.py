"""Reports on stdout: untouched for scripts, laid out on a terminal."""

import sys

from muster.cli.outcome import entries, show
from muster.tasks.report import JobReport

REPORT = JobReport(out="scored", job_id="0" * 32, rows=7, kept=5, rejected=2, chunks=1, wall_s=1.0, next_command="x  y")


def test_scripts_get_the_report_as_it_is(capsys) -> None:
    show(REPORT)
    assert capsys.readouterr().out == f"{REPORT}\n"


def test_a_terminal_gets_every_label_and_text(capsys, monkeypatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    show(REPORT)
    shown = capsys.readouterr().out
    for label, text in REPORT.lines():
        assert label in shown and text in shown


def test_lines_come_apart_at_the_label() -> None:
    assert entries(str(REPORT)) == REPORT.lines()
    assert entries("low quality  a.py (too short)\nno label here") == [
        ("low quality", "a.py (too short)"),
        ("", "no label here"),
    ]
