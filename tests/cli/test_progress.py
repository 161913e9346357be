"""Progress away from a terminal: few lines, the first and the last of each stage among them."""

import io
from types import SimpleNamespace

import pytest

from muster.cli import progress as progress_module
from muster.cli.progress import ProgressView
from muster.tasks.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(s=1000.0)
    monkeypatch.setattr(progress_module, "time", SimpleNamespace(monotonic=lambda: now.s))
    return now


def test_a_stage_prints_its_first_and_last_state_and_one_line_every_few_seconds(clock) -> None:
    stream = io.StringIO()
    with ProgressView(stream) as view:
        for done in range(101):
            view(Progress("compute", done, 100))
            clock.s += 0.1
    assert stream.getvalue().splitlines() == [
        "compute: 0 of 100 chunks",
        "compute: 50 of 100 chunks",
        "compute: 100 of 100 chunks",
    ]


def test_an_unknown_total_shows_the_note_only(clock) -> None:
    stream = io.StringIO()
    ProgressView(stream)(Progress("plan", note="reading footers"))
    assert stream.getvalue() == "plan: reading footers\n"


def test_a_terminal_gets_bars() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    with ProgressView(stream) as view:
        view(Progress("compute", 1, 3))
        view(Progress("compute", 3, 3, note="no faults"))
    assert "3/3 chunks" in stream.getvalue() and "no faults" in stream.getvalue()
