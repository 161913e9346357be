"""The process that first opens what a volunteer uploaded: gets descriptors and a request, answers with a small message.

Started anew (no inherited memory) with an empty environment and one socket to its supervisor. What opening means is in
``intake_opening``; nothing else in a pool does it.
What it does not do: know the pool, the volunteer, the registry or any secret, or open a path.

Invariants: it leaves the network before it has a second thread and is confined (``intake_sandbox``) before it reads the
first foreign byte; one upload at a time; it ends when its supervisor does.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys

from muster.cluster.coordinator.intake_request import LENGTH, MAX_REQUEST_NBYTES, IntakeRequest, encode, read_body
from muster.cluster.coordinator.intake_sandbox import confine, leave_network, limit_job

N_DESCRIPTORS = 3
_WARM_NBYTES, _WARM_CPU_S = 1 << 20, 3600


def main() -> None:
    """Serve the socket whose number is the only argument."""
    walls = leave_network()
    from muster.cluster.coordinator.intake_opening import warm

    warm()
    limit_job(_WARM_NBYTES, _WARM_CPU_S)  # opens what it needs while paths can still be opened
    walls += confine()
    with socket.socket(fileno=int(sys.argv[1])) as sock:
        hello = ", ".join(walls).encode()
        sock.sendall(LENGTH.pack(len(hello)) + hello)
        with contextlib.suppress(EOFError, ConnectionError):
            while True:
                _serve_one(sock)


def _serve_one(sock: socket.socket) -> None:
    from muster.cluster.coordinator.intake_opening import open_upload

    header, descriptors = _receive_descriptors(sock)
    try:
        fields = read_body(sock.recv, LENGTH.unpack(header)[0], MAX_REQUEST_NBYTES)
        reply = open_upload(IntakeRequest(**fields), *descriptors)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    sock.sendall(encode(reply))


def _receive_descriptors(sock: socket.socket) -> tuple[bytes, list[int]]:
    header, descriptors, _, _ = socket.recv_fds(sock, LENGTH.size, N_DESCRIPTORS)
    if not header:
        raise EOFError
    while len(header) < LENGTH.size:
        header += sock.recv(LENGTH.size - len(header))
    if len(descriptors) != N_DESCRIPTORS:
        raise EOFError
    return header, descriptors


if __name__ == "__main__":
    main()
