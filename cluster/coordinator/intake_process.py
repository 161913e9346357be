"""The supervisor's handle on one sandboxed child: start it, hand it an upload, take its answer, or end it.

What it does not do: decide what an answer means, or open an upload itself.

Invariants: the child gets a fresh interpreter, an environment without anything of this process's, no standard streams
and one socket; a child that dies, is late or answers nonsense is killed and never used again.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from muster.cluster.coordinator.intake_request import (
    LENGTH,
    MAX_REPLY_NBYTES,
    IntakeFinding,
    IntakeOutcome,
    IntakeRequest,
    ProtocolError,
    encode,
    parse_reply,
    read_message,
)

START_TIMEOUT_S = 60.0
# One thread, so that every wall holds for the whole process; malloc, so that its memory limit means something.
_ENVIRONMENT = {
    "LANG": "C.UTF-8",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "MALLOC_MMAP_THRESHOLD_": "1073741824",  # glibc: keep the memory of one upload for the next, or every page is
    "MALLOC_TRIM_THRESHOLD_": "268435456",  # faulted in anew
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
_MODULE = "muster.cluster.coordinator.intake_child"


class ChildLostError(Exception):
    """The child died, was late or broke the protocol while it had an upload; ``str`` says which."""


class IntakeProcess:
    """One child; serves one upload at a time."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket = ours
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own module, a number as its argument
                [sys.executable, "-I", "-m", _MODULE, str(theirs.fileno())],
                env=_ENVIRONMENT,
                cwd="/",
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        self.walls: str | None = None

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    def wait_ready(self) -> str:
        """The names of the walls around the child, once it is confined.

        Raises:
            ChildLostError: it ended or took too long.
        """
        if self.walls is None:
            try:
                self._socket.settimeout(START_TIMEOUT_S)
                (nbytes,) = LENGTH.unpack(self._receive(LENGTH.size))
                self.walls = self._receive(min(nbytes, 4096)).decode("ascii", "replace")
            except (EOFError, OSError) as error:
                raise ChildLostError(f"it did not start: {self._fate(error)}") from None
        return self.walls

    def open_upload(
        self, request: IntakeRequest, upload: Path, kept: Path, rejects: Path, timeout_s: float
    ) -> IntakeOutcome | IntakeFinding:
        """Have one upload opened; ``kept`` and ``rejects`` are this side's empty files.

        Raises:
            ChildLostError: see there; the child is of no use any more.
            OSError: one of the files can't be opened.
        """
        self.wait_ready()
        descriptors = [os.open(upload, os.O_RDONLY), os.open(kept, os.O_WRONLY), os.open(rejects, os.O_WRONLY)]
        message = encode(request)
        deadline = time.monotonic() + timeout_s
        try:
            self._socket.settimeout(timeout_s)
            socket.send_fds(self._socket, [message[: LENGTH.size]], descriptors)
            self._socket.sendall(message[LENGTH.size :])
            fields = read_message(lambda n: self._receive_before(n, deadline), MAX_REPLY_NBYTES)
            return parse_reply(fields, request.n_rows)
        except (EOFError, OSError, ProtocolError) as error:
            raise ChildLostError(self._fate(error)) from None
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def close(self) -> None:
        """End the child now."""
        self._socket.close()
        self._process.kill()
        self._process.wait()

    def _receive_before(self, nbytes: int, deadline: float) -> bytes:
        self._socket.settimeout(max(0.001, deadline - time.monotonic()))
        return self._socket.recv(nbytes)

    def _receive(self, nbytes: int) -> bytes:
        data = self._socket.recv(nbytes, socket.MSG_WAITALL)
        if len(data) < nbytes:
            raise EOFError
        return data

    def _fate(self, error: Exception) -> str:
        if isinstance(error, TimeoutError):
            return "it did not answer in time"
        if isinstance(error, ProtocolError):
            return f"it answered nonsense: {error}"
        try:
            status = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            return f"it closed its socket ({type(error).__name__})"
        return f"it was ended by signal {-status}" if status < 0 else f"it ended with status {status}"
