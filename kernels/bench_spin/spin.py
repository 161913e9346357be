"""``bench.spin@1``: a load for benchmarks, one second of CPU for each megabyte of text, with an exact 64-bit answer.

It stands for work that is dense in compute per byte, such as neural inference, when the cost of lending work out is
measured (leverage). It does NOT compute anything useful. ``rounds`` sets the work: the default takes about one second
per MB (10**6 bytes) on one core of the reference machine (AMD EPYC, Zen 5), in proportion otherwise.

Exact: integers only, each step depends on the one before.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from muster.kernels.arrow_buffers import TextBuffers, flat_array, validity_buffer
from muster.kernels.kernel import Params
from muster.kernels.text_kernel import TextKernel, TextParams

# Seconds per byte and round on one core of an AMD EPYC (Zen 5), measured by benchmarks/kernels.py.
_COST_S_PER_BYTE_ROUND = 1.65e-9


class SpinParams(TextParams):
    """Parameters of ``bench.spin@1``."""

    rounds: int = Field(default=600, ge=1, le=1_000_000, description="steps of the chain for each byte of text")


class BenchSpin(TextKernel):
    """A chain of integer steps over the text's bytes: ``spin_state`` as uint64."""

    name = "bench.spin"
    version = 1
    summary = "benchmark load: about one second of CPU per MB of text, exact integers, no other use"
    params_model = SpinParams

    def output_schema(self, params: Params) -> pa.Schema:
        """Return one uint64 column."""
        self.parse_params(params)
        return pa.schema([pa.field("spin_state", pa.uint64())])

    def max_output_nbytes_per_row(self, params: Params) -> int:
        """Return 9 bytes: the value and its share of validity bits and padding."""
        self.parse_params(params)
        return 9

    def cost_s(self, params: Params, nbytes: int, n_rows: int) -> float:
        """Predict seconds: bytes times rounds; the number of rows does not matter."""
        del n_rows
        p: SpinParams = self.parse_params(params)
        return _COST_S_PER_BYTE_ROUND * p.rounds * nbytes

    @cached_property
    def _compiled(self) -> Any:
        from muster.kernels.bench_spin.cpu import compile_rows
        from muster.kernels.compiled import build_stamp

        return compile_rows(build_stamp(self.build_digest))

    def _run_cpu(self, rows: TextBuffers, params: Any) -> list[pa.Array]:
        states = np.zeros(rows.n_rows, np.uint64)
        self._compiled(rows.offsets, rows.data, params.rounds, states)
        if rows.valid.size == 0:
            return [flat_array(states, pa.uint64(), None)]
        states[rows.valid == 0] = 0
        return [flat_array(states, pa.uint64(), validity_buffer(rows.valid))]

    def _run_reference(self, texts: list[str | None], params: Any) -> list[pa.Array]:
        from muster.kernels.bench_spin.reference import spin

        return [pa.array([None if text is None else spin(text, params.rounds) for text in texts], pa.uint64())]
