"""``muster`` as a user types it, called in this process: exit status and what it printed."""

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

from muster.cli.app import app
from muster.cli.failures import guarded


@dataclass(frozen=True)
class Done:
    """One call of the command."""

    status: int
    out: str
    err: str

    @property
    def message(self) -> str:
        """The error and its hint, without the lines of progress before them."""
        return self.err[self.err.index("muster: ") :] if "muster: " in self.err else ""


def muster(*arguments: object) -> Done:
    """Call the command with these arguments."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = guarded(lambda: app(args=[str(argument) for argument in arguments], standalone_mode=False))
    return Done(status, out.getvalue(), err.getvalue())


def local(source: object, *options: object, out: str = "out", recipe: str = "text.minhash@1") -> Done:
    """Call ``muster preprocess SOURCE out --pool local``."""
    return muster("preprocess", source, out, "-r", recipe, "--pool", "local", *options)


def assert_refused(done: Done, *words: str, status: int = 2) -> None:
    """The call failed as a user's error, in one message with these words, and published nothing."""
    assert done.status == status, done.err
    for word in words:
        assert word in done.message, done.message
    assert "Traceback" not in done.err
    assert "bug in Muster" not in done.err
    assert nothing_published()


def nothing_published(folder: Path | None = None) -> bool:
    """Neither OUT nor anything hidden beside it is in the folder."""
    here = folder or Path.cwd()
    return not (here / "out").exists() and not list(here.glob(".out*"))
