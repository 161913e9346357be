"""Every error that Muster raises on purpose, in two families.

``MusterError``: ours or the user's; it ends a command with a clear message and an exit code.
``VolunteerFault``: evidence about a volunteer; it is recorded and never ends a job.

Invariants: a message names the file, row, column or volunteer, says what was expected and what was found;
text from elsewhere goes into one through ``printable``; nothing here imports anything outside the standard library
(``trust`` may import this module).
"""

from __future__ import annotations


def printable(text: str, max_chars: int = 200, *, mark: str = "?") -> str:
    """Return ``text`` cut to ``max_chars`` characters, with ``mark`` for each one that can't be printed."""
    return "".join(c if c.isprintable() else mark for c in text[:max_chars])


class MusterError(Exception):
    """A problem of the user's input or of Muster itself; ``exit_code`` is the process's exit status."""

    exit_code = 2

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, self.hint))


def _rebuild(kind: type[MusterError], message: str, hint: str | None) -> MusterError:
    return kind(message, hint=hint)


class ConfigError(MusterError):
    """A setting, argument or state folder is unusable."""


class SourceError(MusterError):
    """The input data can't be used: missing, empty, corrupt, wrong schema; names file, row and column."""


class SourceChangedError(SourceError):
    """A source file is no longer the one that was planned."""


class BadRowError(SourceError):
    """A row could not be read and the job says ``--on-bad-row fail``; names file, row and reason."""


class OutputError(MusterError):
    """OUT exists, is not ours, or can't be written."""


class KernelError(MusterError):
    """A kernel is unknown, its parameters are wrong, or it failed on trusted compute too."""


class KernelInputError(KernelError):
    """A kernel was handed data it can't take: a missing or wrongly typed column, broken offsets."""


class PoolError(MusterError):
    """The pool can't be reached, refused the credentials, or lost a service."""


class JobError(MusterError):
    """The job itself can't go on: a unit failed at home too, another run holds it, no certificate is possible."""


class VerificationError(MusterError):
    """A published dataset is not what its certificate says; names the file and the place."""

    exit_code = 3


class VolunteerFault(Exception):  # noqa: N818 - a finding, not an error of the program
    """Evidence that a volunteer misbehaved: which kind, and what was seen. Recorded, never fatal to a job.

    ``kind`` is a short stable word such as ``wrong-schema``; ``text`` is made printable and bounded here. Whoever
    records it knows which volunteer it was.
    """

    MAX_TEXT_CHARS = 300

    def __init__(self, kind: str, text: str) -> None:
        text = printable(text, self.MAX_TEXT_CHARS)
        super().__init__(f"{kind}: {text}")
        self.kind = kind
        self.text = text

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.kind, self.text))
