"""What the user sees when a command fails: one paragraph, a hint, an exit code; never a traceback unless asked for.

Decides no exit code of its own beyond the conventional ones (``MusterError.exit_code`` says the rest).

Invariants: stdout is left alone; an unexpected error leaves its full traceback in a log file whose path is printed;
``MUSTER_DEBUG=1`` prints the traceback instead.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

from muster.errors import ConfigError, MusterError

EXIT_INTERRUPTED = 130  # 128 + SIGINT, as every shell has it
EXIT_TERMINATED = 143  # 128 + SIGTERM
EXIT_UNEXPECTED = 1
EXIT_USAGE = 2
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}

# The base install leaves these out; each command that needs one imports it when it runs.
_EXTRA_OF = {
    "fastapi": "flows",
    "httptools": "pool",
    "prefect": "flows",
    "sqlalchemy": "pool",
    "starlette": "pool",
    "uvicorn": "pool",
}


def guarded(command: Callable[[], object]) -> int:
    """Run ``command`` and return the process's exit status; all failures are reported on stderr."""
    import typer

    try:
        outcome = command()
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except typer.Abort:
        return EXIT_INTERRUPTED
    except typer.Exit as stop:
        return stop.exit_code
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(bool(stop.code))
    except BrokenPipeError:
        return _closed_pipe()
    except MusterError as error:
        return _expected(error)
    except ModuleNotFoundError as error:
        return _expected(_missing_extra(error)) if _extra_of(error) else _unexpected(error)
    except OSError as error:
        return _expected(_full_disk(error)) if error.errno in _FULL else _unexpected(error)
    except Exception as error:
        return _usage(error) if hasattr(error, "format_message") else _unexpected(error)
    return outcome if isinstance(outcome, int) and not isinstance(outcome, bool) else 0


def end_on_sigterm() -> None:
    """Let SIGTERM unwind like Ctrl-C does, so that what was started is stopped; the exit status is 143."""
    signal.signal(signal.SIGTERM, _terminated)


def _terminated(*_signal: object) -> None:
    raise SystemExit(EXIT_TERMINATED)


def _expected(error: MusterError) -> int:
    if _debug():
        _print_traceback()
    say(f"muster: {error.message}")
    if error.hint:
        say(f"hint: {error.hint}")
    return error.exit_code


def _extra_of(error: ModuleNotFoundError) -> str | None:
    return _EXTRA_OF.get((error.name or "").split(".")[0])


def _missing_extra(error: ModuleNotFoundError) -> MusterError:
    extra = _extra_of(error)
    return ConfigError(
        f"this command needs {error.name}, which is not installed here",
        hint=f"pip install 'muster-compute[{extra}]'",
    )


def _full_disk(error: OSError) -> MusterError:
    where = f"{error.filename}: " if error.filename else ""
    return ConfigError(
        f"{where}{error.strerror}; nothing was published",
        hint="make room (the state folder holds results in hand, too) and repeat the command: it goes on where it was",
    )


def _usage(error: Exception) -> int:
    show = getattr(error, "show", None)
    if show is None:
        say(f"muster: {error}")
    else:
        show()
    return EXIT_USAGE


def _unexpected(error: Exception) -> int:
    if _debug():
        _print_traceback()
        return EXIT_UNEXPECTED
    say(f"muster: this is a bug in Muster: {type(error).__name__}: {_first_line(error)}")
    log = _keep_traceback()
    where = f"the full traceback is in {log}" if log else "its log file could not be written"
    say(f"hint: {where}; MUSTER_DEBUG=1 prints it here")
    return EXIT_UNEXPECTED


def _closed_pipe() -> int:
    # The reader of our output went away (muster kernels | head); a second error at interpreter exit helps nobody.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def say(text: str) -> None:
    """Print one paragraph on stderr, wrapped to the terminal when there is one."""
    if sys.stderr.isatty():
        width = min(100, os.get_terminal_size(sys.stderr.fileno()).columns or 80)
        lines = (
            textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False) for line in text.split("\n")
        )
        text = "\n".join(lines)
    sys.stderr.write(text + "\n")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:500] if lines else "(no message)"


def _debug() -> bool:
    return os.environ.get("MUSTER_DEBUG", "").strip().lower() in {"1", "true", "yes", "on"}


def _print_traceback() -> None:
    import traceback

    traceback.print_exc()


def _keep_traceback() -> Path | None:
    """Append the current traceback to the state folder's log; None when that is impossible."""
    import time
    import traceback

    try:
        folder = Path(os.environ.get("MUSTER_HOME") or ".muster").expanduser().absolute() / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / "errors.log"
        with log.open("a", encoding="utf-8") as stream:
            command = " ".join(sys.argv[1:])[:2000]
            stream.write(f"--- {time.strftime('%Y-%m-%dT%H:%M:%S%z')} muster {command}\n{traceback.format_exc()}\n")
    except OSError:
        return None
    return log
