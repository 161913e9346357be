"""The result of a chunk, from upload to accepted part: the one import for those who handle results.

What it does: gathers the schema and its checks (``result_format``), the bytes (``result_ipc``), the parts (``parts``).
What it does not do: anything of its own.

Invariants: ``decode_ipc_bounded`` is the only function in Muster that parses bytes from a volunteer.
"""

from __future__ import annotations

from muster.datasets.parts import (
    REJECTS_SCHEMA,
    AcceptedInfo,
    part_schema,
    read_rows,
    write_accepted,
)
from muster.datasets.reading import MAX_REASON_CHARS
from muster.datasets.result_format import (
    ResultFault,
    build_result,
    output_schema_of,
    result_schema,
    validate_result,
)
from muster.datasets.result_ipc import decode_ipc_bounded, encode_ipc

__all__ = [
    "MAX_REASON_CHARS",
    "REJECTS_SCHEMA",
    "AcceptedInfo",
    "ResultFault",
    "build_result",
    "decode_ipc_bounded",
    "encode_ipc",
    "output_schema_of",
    "part_schema",
    "read_rows",
    "result_schema",
    "validate_result",
    "write_accepted",
]
