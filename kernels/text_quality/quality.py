"""``text.quality@1``: the counters and the keep/drop decision of Gopher's and FineWeb's quality filters, in one pass.

Rules and thresholds are those of huggingface/datatrove 0.10.1 (``GopherQualityFilter``, ``FineWebQualityFilter``,
``GopherRepetitionFilter``, defaults), with words split at whitespace (``str.split``; datatrove's own English splitter
is spaCy's, which gives other words). Sources: Rae et al. 2021 (arXiv:2112.11446, table A1); Penedo et al. 2024, The
FineWeb Datasets. It does NOT apply C4's rules: they drop lines and edit the text, and come with a later version.

``mode="all"`` returns every counter (so that other thresholds can be tried without reading the text again) and the
decision; ``mode="decide"`` only the decision, stopping at the first failing rule. Both give the same reason: the first
failing rule in the order Gopher quality, FineWeb, Gopher repetition (``counters.RULES``), cheap ones first.

Exact: integers, and single float64 divisions compared with constants. Character classes are pinned (Unicode 14.0).
Remaining headroom: the tables of words and 2-grams, about 1.5x.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from muster.kernels.arrow_buffers import TextBuffers, flat_array, validity_buffer
from muster.kernels.kernel import Params
from muster.kernels.text_kernel import TextKernel, TextParams
from muster.kernels.text_quality.counters import COUNTERS, N_COUNTERS, RULES

# Seconds on one core of an AMD EPYC (Zen 5), measured by benchmarks/kernels.py on documents and on short rows.
_COST_S_PER_BYTE = {"all": 1.5e-8, "decide": 4.0e-9}
_COST_S_PER_ROW = {"all": 6.0e-7, "decide": 1.0e-7}
_REASON_NBYTES = 4 + max(map(len, RULES))


class QualityParams(TextParams):
    """Parameters of ``text.quality@1``."""

    mode: Literal["all", "decide"] = Field(
        default="all", description="all: every counter and the decision; decide: the decision only, faster"
    )


class TextQuality(TextKernel):
    """``quality_keep`` (bool), ``quality_reason`` (string, null where kept) and, in mode all, int32 counters."""

    name = "text.quality"
    version = 1
    summary = "Gopher quality and repetition and FineWeb quality filters: counters, keep and reason"
    params_model = QualityParams

    def output_schema(self, params: Params) -> pa.Schema:
        """Return keep and reason and, in mode all, one int32 column for each counter (uint8 for the stop words)."""
        fields = [pa.field("quality_keep", pa.bool_()), pa.field("quality_reason", pa.string())]
        if self.parse_params(params).mode == "all":
            fields += [pa.field(f"quality_{name}", _counter_type(name)) for name in COUNTERS]
        return pa.schema(fields)

    def max_output_nbytes_per_row(self, params: Params) -> int:
        """Return a byte for keep, the longest reason, and 5 bytes for each counter with its validity bit."""
        return 2 + _REASON_NBYTES + (5 * N_COUNTERS if self.parse_params(params).mode == "all" else 0)

    def cost_s(self, params: Params, nbytes: int, n_rows: int) -> float:
        """Predict seconds from bytes and rows."""
        mode = self.parse_params(params).mode
        return _COST_S_PER_BYTE[mode] * nbytes + _COST_S_PER_ROW[mode] * n_rows

    @cached_property
    def _compiled(self) -> Any:
        from muster.kernels.compiled import build_stamp
        from muster.kernels.text_quality.cpu import compile_rows

        return compile_rows(build_stamp(self.build_digest))

    def _run_cpu(self, rows: TextBuffers, params: Any) -> list[pa.Array]:
        from muster.kernels.text_quality.cpu import scratch_for
        from muster.kernels.text_quality.scan import class_table, stop_word_codes

        n = rows.n_rows
        decide = params.mode == "decide"
        codes = np.zeros(n, np.uint8)
        counts = np.zeros((N_COUNTERS, 0 if decide else n), np.int32)
        tables = (class_table(), stop_word_codes())
        scratch = scratch_for(int(np.diff(rows.offsets).max(initial=0)))
        self._compiled(rows.offsets, rows.data, rows.valid, *tables, scratch, decide, codes, counts)
        validity = validity_buffer(rows.valid) if rows.valid.size else None
        keep = pa.Array.from_buffers(
            pa.bool_(), n, [validity, pa.py_buffer(np.packbits(codes == 0, bitorder="little"))]
        )
        columns = [keep, _reasons(codes)]
        for name, values in zip(COUNTERS, counts, strict=True) if not decide else ():
            kind = _counter_type(name)
            columns.append(flat_array(values.astype(kind.to_pandas_dtype(), copy=False), kind, validity))
        return columns

    def _run_reference(self, texts: list[str | None], params: Any) -> list[pa.Array]:
        from muster.kernels.text_quality.reference import counters_of, failures

        found = [None if text is None else counters_of(text) for text in texts]
        reasons = [None if c is None else next(failures(c), None) for c in found]
        keep = [None if c is None else reason is None for c, reason in zip(found, reasons, strict=True)]
        columns = [pa.array(keep, pa.bool_()), pa.array(reasons, pa.string())]
        if params.mode == "all":
            columns += [pa.array([c and c[name] for c in found], _counter_type(name)) for name in COUNTERS]
        return columns


def _counter_type(name: str) -> pa.DataType:
    return pa.uint8() if name == "stop_words" else pa.int32()


def _reasons(codes: np.ndarray[Any, np.dtype[np.uint8]]) -> pa.Array:
    """Turn rule codes into names; 0 (kept, or a null row) becomes null."""
    indices = pa.array((np.maximum(codes, 1) - 1).astype(np.int8), pa.int8(), mask=codes == 0)
    return pa.DictionaryArray.from_arrays(indices, pa.array(RULES, pa.string())).dictionary_decode()
