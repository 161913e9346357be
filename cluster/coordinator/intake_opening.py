"""Opens one upload: decode within bounds, validate against the plan, write what is accepted, or say what is wrong.

Runs in intake's child only, behind its walls.
What it does not do: talk to the supervisor (``intake_child``), or know whose upload it is.

Invariants: everything that foreign bytes can cause comes back as a finding; ``warm`` runs every step once, so that
nothing needs a path afterwards.
"""

from __future__ import annotations

import base64
import io
import mmap

import pyarrow as pa

from muster.cluster.coordinator.intake_request import IntakeFinding, IntakeOutcome, IntakeRequest
from muster.cluster.coordinator.intake_sandbox import limit_job
from muster.datasets.results import ResultFault, decode_ipc_bounded, encode_ipc, validate_result, write_accepted


def open_upload(request: IntakeRequest, upload: int, kept: int, rejects: int) -> IntakeOutcome | IntakeFinding:
    """Open the upload behind a descriptor and write what is accepted to two others."""
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


def warm() -> None:
    """Take one tiny result through every step, so that nothing is imported or opened lazily later."""
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    schema = pa.schema([("position", pa.int64()), ("reject", pa.string()), ("x", pa.float64()), ("s", pa.string())])
    table = pa.table([[0, 1], [None, "why"], [1.5, None], ["a", None]], schema=schema)
    rows = IntakeRequest(schema="", first_row=0, n_rows=2, file_name="", max_nbytes=1 << 20, cpu_s=1)
    decoded = decode_ipc_bounded(encode_ipc(table, schema), schema, 2, 1 << 20)
    validate_result(decoded, rows, schema)
    write_accepted(decoded, rows, "warm", io.BytesIO(), io.BytesIO())
