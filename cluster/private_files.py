"""Files that hold secrets: written with mode 0600 from the first byte, whole or not at all, read with a size limit.

What it does not do: encrypt, or repair the mode of a folder somebody else made.

Invariants: ``write_private`` never replaces a file; ``replace_private`` swaps in one rename; neither leaves a partial
file under the final name. Works on every platform (where there are no POSIX modes, the folder's own rules apply).
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from muster.errors import ConfigError

MAX_NBYTES = 64 * 1024


def write_private(path: Path, data: bytes) -> None:
    """Create ``path`` with ``data``, mode 0600.

    Raises:
        FileExistsError: ``path`` exists.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace_private(path: Path, data: bytes) -> None:
    """Put ``data`` under ``path``, mode 0600, replacing what was there in one rename."""
    partial = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    try:
        write_private(partial, data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_private(path: Path, *, max_nbytes: int = MAX_NBYTES) -> bytes:
    """The content of ``path``.

    Raises:
        ConfigError: missing, unreadable, or longer than ``max_nbytes``.
    """
    try:
        with path.open("rb") as file:
            data = file.read(max_nbytes + 1)
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}") from None
    if len(data) > max_nbytes:
        raise ConfigError(f"{path}: expected at most {max_nbytes} bytes, found more")
    return data
