"""The Prefect server of a run that names none: started by this process, ended with it, and left alone by Ctrl-C.

A terminal's Ctrl-C reaches the whole process group. A server that died of it could not be told how the run ended, and
Prefect would go on trying; so the server starts with SIGINT blocked and is stopped by its parent.

Invariant: does nothing where PREFECT_API_URL (environment or profile) names a server.
"""

from __future__ import annotations

import signal
import threading

START_TIMEOUT_S = 120  # Prefect's own 20 s are too few for a busy machine's first start, which makes the database

_failures: list[BaseException] = []


def start_ephemeral_server() -> None:
    """Start the server unless one is named; Ctrl-C works meanwhile. Raises what Prefect raises if it does not start."""
    from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_ALLOW_EPHEMERAL_MODE

    if PREFECT_API_URL.value() or not PREFECT_SERVER_ALLOW_EPHEMERAL_MODE.value():
        return
    _failures.clear()
    starting = threading.Thread(target=_start, name="prefect-server-start", daemon=True)
    starting.start()
    starting.join()
    if _failures:
        raise _failures[0]


def _start() -> None:
    from prefect.server.api.server import SubprocessASGIServer

    if hasattr(signal, "pthread_sigmask"):  # a child inherits the mask of the thread that starts it
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        SubprocessASGIServer().start(START_TIMEOUT_S)
    except BaseException as error:
        _failures.append(error)
