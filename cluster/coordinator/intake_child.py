"""The process that first opens what a volunteer uploaded: decodes, validates, re-encodes, digests; nothing else does.

Started anew (no inherited memory) with an empty environment and one socket to its supervisor; for each upload it gets
three file descriptors (upload, kept rows, rejects) and a request, and answers with a small JSON message.
What it does not do: know the pool, the volunteer, the registry or any secret, or open a path.

Invariants: confined (``intake_sandbox``) before it reads the first foreign byte; one upload at a time; it ends when its
supervisor does.
"""

from __future__ import annotations

import base64
import contextlib
import io
import mmap
import os
import socket
import sys

import pyarrow as pa

from muster.cluster.coordinator.intake_request import (
    LENGTH,
    MAX_REQUEST_NBYTES,
    IntakeFinding,
    IntakeOutcome,
    IntakeRequest,
    encode,
    read_body,
)
from muster.cluster.coordinator.intake_sandbox import confine, limit_job
from muster.datasets.results import ResultFault, decode_ipc_bounded, encode_ipc, validate_result, write_accepted

N_DESCRIPTORS = 3


def main() -> None:
    """Serve the socket whose number is the only argument."""
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    _warm()
    limit_job(1 << 20, 3600)  # opens what it needs while paths can still be opened
    walls = confine()
    with socket.socket(fileno=int(sys.argv[1])) as sock:
        hello = ", ".join(walls).encode()
        sock.sendall(LENGTH.pack(len(hello)) + hello)
        with contextlib.suppress(EOFError, ConnectionError):
            while True:
                _serve_one(sock)


def _serve_one(sock: socket.socket) -> None:
    header, descriptors = _receive_descriptors(sock)
    try:
        fields = read_body(sock.recv, LENGTH.unpack(header)[0], MAX_REQUEST_NBYTES)
        reply = _open_upload(IntakeRequest(**fields), *descriptors)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    sock.sendall(encode(reply))


def _open_upload(request: IntakeRequest, upload: int, kept: int, rejects: int) -> IntakeOutcome | IntakeFinding:
    limit_job(request.max_nbytes, request.cpu_s)
    try:
        # Unmapped when the last array on it is gone: closing it here would fail if one outlived the call.
        data = pa.py_buffer(mmap.mmap(upload, 0, access=mmap.ACCESS_READ))
        return _accept(request, data, kept, rejects)
    except ResultFault as fault:
        return IntakeFinding(fault.kind, fault.text)
    except MemoryError:
        return IntakeFinding("too-big", "opening it ran out of the memory that intake may use")
    except (OSError, ValueError) as error:
        return IntakeFinding("undecodable", f"{type(error).__name__}: {error}"[:300])


def _accept(request: IntakeRequest, data: pa.Buffer, kept: int, rejects: int) -> IntakeOutcome:
    schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(request.schema)))
    table = decode_ipc_bounded(data, schema, request.n_rows, request.max_nbytes)
    validate_result(table, request, schema)
    with open(kept, "wb", closefd=False) as out_kept, open(rejects, "wb", closefd=False) as out_rejects:
        info = write_accepted(table, request, request.file_name, out_kept, out_rejects)
    return IntakeOutcome(**{name: getattr(info, name) for name in IntakeOutcome.__slots__})


def _receive_descriptors(sock: socket.socket) -> tuple[bytes, list[int]]:
    header, descriptors, _, _ = socket.recv_fds(sock, LENGTH.size, N_DESCRIPTORS)
    if not header:
        raise EOFError
    while len(header) < LENGTH.size:
        header += sock.recv(LENGTH.size - len(header))
    if len(descriptors) != N_DESCRIPTORS:
        raise EOFError
    return header, descriptors


def _warm() -> None:
    """Take one tiny result through every step, so that nothing is imported or opened lazily later."""
    schema = pa.schema([("position", pa.int64()), ("reject", pa.string()), ("x", pa.float64()), ("s", pa.string())])
    table = pa.table([[0, 1], [None, "why"], [1.5, None], ["a", None]], schema=schema)
    rows = IntakeRequest(schema="", first_row=0, n_rows=2, file_name="", max_nbytes=1 << 20, cpu_s=1)
    decoded = decode_ipc_bounded(encode_ipc(table, schema), schema, 2, 1 << 20)
    validate_result(decoded, rows, schema)
    write_accepted(decoded, rows, "warm", io.BytesIO(), io.BytesIO())


if __name__ == "__main__":
    main()
