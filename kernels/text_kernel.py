"""What all text kernels share: one text column in, flat columns out, chunk by chunk, on a chosen backend.

It does NOT know any algorithm. A subclass gives ``_run_cpu`` (compiled, on Arrow buffers) and ``_run_reference``
(plain Python, on a list of str or None).

Invariants: null rows give null in every output column; one output batch for each input chunk; the reference and the
compiled version share no code but the schemas.
"""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from muster.errors import KernelError
from muster.kernels.arrow_buffers import TextBuffers, text_buffers, text_chunks
from muster.kernels.kernel import BACKENDS, Kernel, Params


class TextParams(BaseModel):
    """Parameters of every text kernel."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    column: str = Field(default="text", min_length=1, max_length=200, description="name of the text column to read")


class TextKernel(Kernel):
    """A kernel that reads one string column."""

    shared_sources = ("arrow_buffers.py", "compiled.py", "machine_words.py", "text_kernel.py")
    dependencies = ("numba>=0.61", "numpy<2.5", "pyarrow>=20")

    @abstractmethod
    def _run_cpu(self, rows: TextBuffers, params: Any) -> list[pa.Array]:
        """Compute the output columns of one chunk with the compiled version."""

    @abstractmethod
    def _run_reference(self, texts: list[str | None], params: Any) -> list[pa.Array]:
        """Compute the output columns of one chunk with the plain Python oracle."""

    def input_schema(self, params: Params) -> pa.Schema:
        """Return the one text column that is read."""
        return pa.schema([pa.field(self.parse_params(params).column, pa.string())])

    def run(
        self,
        table: pa.Table,
        params: Params | None = None,
        assets: Mapping[str, Any] | None = None,
        backend: str = "cpu",
    ) -> pa.Table:
        """Return the new columns for every row of ``table``. See :meth:`muster.kernels.kernel.Kernel.run`."""
        values = self.parse_params(params)
        if assets:
            raise KernelError(f"kernel {self.id}: takes no assets, found {', '.join(sorted(assets))[:200]}")
        if backend not in BACKENDS:
            raise KernelError(f"kernel {self.id}: unknown backend {backend!r}; known: {', '.join(BACKENDS)}")
        if backend == "cuda":
            raise KernelError(f"no CUDA version of {self.id} yet", hint='use backend="cpu"')
        if backend == "cpu" and sys.byteorder != "little":
            raise KernelError(f"kernel {self.id}: the compiled version needs a little-endian machine")
        schema = self.output_schema(values)
        batches, first_row = [], 0
        for chunk in text_chunks(table, values.column, self.id):
            rows = text_buffers(chunk, values.column, self.id, first_row)
            columns = (
                self._run_cpu(rows, values) if backend == "cpu" else self._run_reference(chunk.to_pylist(), values)
            )
            batches.append(pa.RecordBatch.from_arrays(columns, schema=schema))
            first_row += len(chunk)
        return pa.Table.from_batches(batches, schema)

    def warm(self) -> None:
        """Compile, or load from the compile cache, by running on two rows."""
        column = self.parse_params(None).column
        self.run(pa.table({column: pa.array(["one two three four five six", None], pa.string())}))
