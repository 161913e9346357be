"""What a user sees when a command fails, and with which exit status."""

import errno

import pytest
import typer

from muster.cli.failures import guarded
from muster.errors import PoolError, SourceError, VerificationError


def _raise(error: BaseException):
    def command() -> None:
        raise error

    return command


@pytest.fixture(autouse=True)
def _home(monkeypatch, tmp_path):
    monkeypatch.setenv("MUSTER_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MUSTER_DEBUG", raising=False)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (SourceError("a.parquet: no footer"), 2),
        (PoolError("pool is away"), 2),
        (VerificationError("part-0: differs"), 3),
    ],
)
def test_an_expected_error_is_one_line_and_its_own_exit_status(capsys, tmp_path, error, status) -> None:
    assert guarded(_raise(error)) == status
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == f"muster: {error.message}\n"
    assert not (tmp_path / "home").exists()


def test_a_missing_extra_is_named_with_the_way_to_get_it(capsys) -> None:
    missing = ModuleNotFoundError("No module named 'sqlalchemy.orm'", name="sqlalchemy.orm")
    assert guarded(_raise(missing)) == 2
    assert "muster-compute[pool]" in capsys.readouterr().err


def test_any_other_missing_module_is_a_bug(capsys) -> None:
    assert guarded(_raise(ModuleNotFoundError("No module named 'nonsense'", name="nonsense"))) == 1
    assert "bug" in capsys.readouterr().err


def test_a_hint_follows_the_message(capsys) -> None:
    assert guarded(_raise(SourceError("data/: no files", hint="give a glob"))) == 2
    assert capsys.readouterr().err == "muster: data/: no files\nhint: give a glob\n"


def test_an_unexpected_error_leaves_its_traceback_in_a_log(capsys, tmp_path) -> None:
    assert guarded(_raise(ZeroDivisionError("by zero\nand more"))) == 1
    shown = capsys.readouterr().err
    log = tmp_path / "home" / "logs" / "errors.log"
    assert "ZeroDivisionError: by zero\n" in shown and str(log) in shown and "Traceback" not in shown
    assert "Traceback" in log.read_text() and "and more" in log.read_text()


def test_a_full_disk_is_no_bug_and_says_what_to_do(capsys) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "out/part-00003.parquet")

    assert guarded(full) == 2
    said = capsys.readouterr().err
    assert said.startswith("muster: out/part-00003.parquet: No space left on device")
    assert "repeat the command" in said


def test_an_unwritable_log_does_not_hide_the_error(capsys, monkeypatch, tmp_path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("MUSTER_HOME", str(blocked))
    assert guarded(_raise(ZeroDivisionError("by zero"))) == 1
    assert "by zero" in capsys.readouterr().err


@pytest.mark.parametrize("error", [SourceError("no footer"), ZeroDivisionError("by zero")])
def test_debug_prints_the_traceback(capsys, monkeypatch, error) -> None:
    monkeypatch.setenv("MUSTER_DEBUG", "1")
    guarded(_raise(error))
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_an_interrupt_is_quiet(capsys) -> None:
    assert guarded(_raise(KeyboardInterrupt())) == 130
    assert guarded(_raise(typer.Abort())) == 130
    assert capsys.readouterr() == ("", "")


def test_exit_statuses_pass_through() -> None:
    assert guarded(lambda: None) == 0
    assert guarded(lambda: 3) == 3
    assert guarded(_raise(typer.Exit(4))) == 4
    assert guarded(_raise(SystemExit(5))) == 5
