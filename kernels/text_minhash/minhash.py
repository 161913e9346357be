"""``text.minhash@1``: MinHash band keys of a text column, for finding near-duplicates.

The parameters are FineWeb's (word 5-grams, 14 bands of 8 rows, 64-bit hashes; Penedo et al., The FineWeb Datasets,
2024; huggingface/datatrove ``pipeline/dedup/minhash.py``): two documents with Jaccard similarity s share a band with
probability 1 - (1 - s**8)**14. It does NOT cluster or drop anything: equal keys in one column mean "compare these".

Definition. Words are runs of ASCII letters (made lower-case), ASCII digits and code points beyond ASCII. A shingle is
the hash of ``ngram`` consecutive words; a document of fewer words has one shingle, of all its words; a document without
words has null keys (it is near nothing). Value j of the signature is the minimum of a_j * x + b_j mod 2**64 over the
shingles x, with the pinned table of ``permutations.py``; band k folds values k*rows to (k+1)*rows - 1. This differs
from datatrove's text normalisation (numbers, weekdays, NFD) and its modulus 2**61 - 1: keys are not comparable.

Exact: integers only. Remaining headroom: the word scan, about 1.3x.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from muster.kernels.arrow_buffers import TextBuffers, flat_array, validity_buffer
from muster.kernels.kernel import Params
from muster.kernels.text_kernel import TextKernel, TextParams
from muster.kernels.text_minhash.permutations import permutations

_MAX_PERMUTATIONS = 1024
# Seconds on one core of an AMD EPYC (Zen 5), measured by benchmarks/kernels.py on documents and on short rows.
_COST_S_PER_BYTE = 2.7e-9
_COST_S_PER_ROW = 2.0e-7


class MinhashParams(TextParams):
    """Parameters of ``text.minhash@1``."""

    ngram: int = Field(default=5, ge=1, le=64, description="words in a shingle")
    bands: int = Field(default=14, ge=1, le=100, description="number of band keys")
    rows: int = Field(default=8, ge=1, le=100, description="signature values folded into one band key")
    signature: bool = Field(default=False, description="also return the whole signature as one list column")

    @model_validator(mode="after")
    def _bounded(self) -> MinhashParams:
        if self.bands * self.rows > _MAX_PERMUTATIONS:
            raise ValueError(f"bands * rows is {self.bands * self.rows}, at most {_MAX_PERMUTATIONS}")
        return self


class TextMinhash(TextKernel):
    """MinHash band keys: ``minhash_b00`` … as flat uint64 columns."""

    name = "text.minhash"
    version = 1
    summary = "MinHash band keys of word n-grams (FineWeb: 5-grams, 14 x 8, 64-bit) for near-duplicate search"
    params_model = MinhashParams

    def output_schema(self, params: Params) -> pa.Schema:
        """Return ``bands`` uint64 columns and, with ``signature``, one fixed_size_list<uint64>[bands * rows]."""
        p: MinhashParams = self.parse_params(params)
        fields = [pa.field(f"minhash_b{band:02d}", pa.uint64()) for band in range(p.bands)]
        if p.signature:
            fields.append(pa.field("minhash_signature", _signature_type(p)))
        return pa.schema(fields)

    def max_output_nbytes_per_row(self, params: Params) -> int:
        """Return 9 bytes for each 64-bit value: the value and its share of validity bits and padding."""
        p: MinhashParams = self.parse_params(params)
        return 9 * p.bands + (9 * p.bands * p.rows + 1 if p.signature else 0)

    def cost_s(self, params: Params, nbytes: int, n_rows: int) -> float:
        """Predict seconds; the permutations' share grows with their number."""
        p: MinhashParams = self.parse_params(params)
        return (_COST_S_PER_BYTE * nbytes + _COST_S_PER_ROW * n_rows) * (0.3 + 0.7 * p.bands * p.rows / 112)

    @cached_property
    def _compiled(self) -> Any:
        from muster.kernels.compiled import build_stamp
        from muster.kernels.text_minhash.cpu import compile_rows

        return compile_rows(build_stamp(self.build_digest))

    def _run_cpu(self, rows: TextBuffers, params: Any) -> list[pa.Array]:
        p: MinhashParams = params
        n, n_permutations = rows.n_rows, p.bands * p.rows
        a, b = (np.array(v, np.uint64).reshape(p.bands, p.rows).T.ravel() for v in permutations(n_permutations))
        keys = np.zeros((p.bands, n), np.uint64)
        has = np.zeros(n, np.uint8)
        signatures = np.zeros((n if p.signature else 0, n_permutations), np.uint64)
        shape = (p.bands, p.rows, p.ngram)
        self._compiled(rows.offsets, rows.data, rows.valid, a, b, shape, keys, has, signatures)
        validity = validity_buffer(has)
        columns = [flat_array(keys[band], pa.uint64(), validity) for band in range(p.bands)]
        if p.signature:
            values = flat_array(signatures.ravel(), pa.uint64(), None)
            columns.append(pa.Array.from_buffers(_signature_type(p), n, [validity], children=[values]))
        return columns

    def _run_reference(self, texts: list[str | None], params: Any) -> list[pa.Array]:
        from muster.kernels.text_minhash.reference import band_keys_of, signature_of

        p: MinhashParams = params
        signatures = [None if t is None else signature_of(t, p.ngram, p.bands * p.rows) for t in texts]
        keys = [[None] * p.bands if s is None else band_keys_of(s, p.bands, p.rows) for s in signatures]
        columns = [pa.array([row[band] for row in keys], pa.uint64()) for band in range(p.bands)]
        if p.signature:
            columns.append(pa.array(signatures, _signature_type(p)))
        return columns


def _signature_type(p: MinhashParams) -> pa.DataType:
    return pa.list_(pa.uint64(), p.bands * p.rows)
