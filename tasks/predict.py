"""``muster plan``: what a job would be and cost, before anything runs, and whether it is cheaper at home.

Plans the chunks for real, reads one of them to learn how far it inflates, and multiplies bytes and rows by the
kernels' cost models and by the constants below. Starts nothing.

Invariants: every constant is a measurement of the reference core (an AMD EPYC of 2025, one core) with its source named;
a prediction is said to be one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from muster.datasets.chunks import ChunkRef
from muster.datasets.reading import read_chunk
from muster.settings import settings
from muster.tasks.job import PreprocessParams
from muster.tasks.plan import Prepared, prepare
from muster.tasks.progress import Reporter

# CPU seconds of the trusted side, measured on embedded pools (benchmarks/results/overhead.md).
SERVE_S_PER_BYTE = 1 / 600e6  # gateway: read a range, TLS, send
RECEIVE_S_PER_BYTE = 1 / 400e6  # gateway: TLS, hash, write
INTAKE_S_PER_ROW = 1.0e-6  # decode, check, digest, encode about 250 bytes a row
DISPATCH_S_PER_CHUNK = 8e-3  # scheduler, registry, dispatcher
PUBLISH_S_PER_BYTE = 1 / 2e9  # hash and link
DECODE_S_PER_BYTE = 1 / 400e6  # Parquet or JSON to Arrow, of the bytes read
START_S = 3.0  # of an embedded pool, wall
RESULT_SHARE = 0.6  # of the Arrow width, after compression
_TEXT_NBYTES = 16  # a string column's mean width


@dataclass(frozen=True)
class PlanReport:
    """A predicted job; sizes in bytes, times in CPU seconds of the reference core."""

    source: str
    out: str
    chunks: int
    rows: int
    download_nbytes: int
    upload_nbytes: int
    home_cpu_s: float
    trusted_cpu_s: float
    audit_rows: int
    parts_s: dict[str, float]

    @property
    def leverage(self) -> float:
        """CPU of doing it at home per trusted CPU of lending it out."""
        return self.home_cpu_s / self.trusted_cpu_s

    @property
    def ceiling(self) -> float:
        """What leverage can't exceed: rows per audited row."""
        return self.rows / max(1, self.audit_rows)

    def __str__(self) -> str:
        mib = 2.0**20
        parts = ", ".join(f"{name} {seconds:.2f}" for name, seconds in self.parts_s.items())
        lines = [
            ("chunks", f"{self.chunks:,} of {self.rows:,} rows"),
            ("wire", f"{self.download_nbytes / mib:,.1f} MiB to volunteers, {self.upload_nbytes / mib:,.1f} MiB back"),
            ("audit", f"{self.audit_rows:,} rows recomputed if nobody lies"),
            ("at home", f"{self.home_cpu_s:.1f} CPU s (--pool local)"),
            ("lent out", f"{self.trusted_cpu_s:.1f} trusted CPU s: {parts}"),
            ("leverage", f"{self.leverage:.1f} (can't exceed {self.ceiling:,.1f})"),
            ("verdict", self.verdict),
        ]
        return "\n".join(f"{label:>8}  {text}" for label, text in lines)

    @property
    def verdict(self) -> str:
        """Whether lending the job out is worth it."""
        if self.leverage < 1.0 or self.home_cpu_s < START_S:
            return "predicted to be cheaper at home: muster preprocess … --pool local"
        if self.leverage < 3.0:
            return "predicted to save little: worth it only if home machines are busy"
        return "predicted to be worth lending out"


def predict(params: PreprocessParams) -> PlanReport:
    """Plan the job and predict what it costs; raises SourceError, KernelError or ConfigError."""
    name = params.pool if params.pool in ("embedded", "local") else "embedded"
    prepared = prepare(params, Path(settings().pool_dir(name)) / "exchange", Reporter())
    chunks = rows = download = 0
    inflation = 1.0
    for ref, _ in prepared.chunks():
        if chunks == 0:
            inflation = _inflation(prepared, ref)
        chunks, rows, download = chunks + 1, rows + ref.n_rows, download + ref.input_nbytes
    return _report(prepared, chunks, rows, download, int(download * inflation))


def _inflation(prepared: Prepared, ref: ChunkRef) -> float:
    """Return decoded bytes per byte read, from one chunk."""
    read = read_chunk(ref, prepared.schema, prepared.source.byte_source(ref.file))
    return max(0.1, float(read.table.nbytes) / max(1, ref.input_nbytes))


def _report(prepared: Prepared, chunks: int, rows: int, download: int, decoded: int) -> PlanReport:
    width = sum(_width(field.type) for field in prepared.recipe.output_schema) + 8
    upload = int(rows * width * RESULT_SHARE)
    compute_s = prepared.recipe.cost_s(decoded, rows)
    predicted = prepared.policy.predict(rows, chunks, prepared.params.volunteers)
    audit_rows = min(rows, predicted.final_rows + predicted.in_flight_rows)
    touched = min(1.0, audit_rows / max(1, chunks))  # uniform draws touch nearly every chunk of a small job
    parts_s = {
        "dispatch": DISPATCH_S_PER_CHUNK * chunks,
        "serve": SERVE_S_PER_BYTE * download,
        "receive": RECEIVE_S_PER_BYTE * upload,
        "intake": INTAKE_S_PER_ROW * rows * width / 250,
        "audit": compute_s * audit_rows / max(1, rows) + touched * DECODE_S_PER_BYTE * (download + upload),
        "publish": PUBLISH_S_PER_BYTE * rows * width,
    }
    home_s = compute_s + DECODE_S_PER_BYTE * download + parts_s["intake"] + parts_s["publish"]
    return PlanReport(
        source=prepared.params.source,
        out=prepared.params.out,
        chunks=chunks,
        rows=rows,
        download_nbytes=download,
        upload_nbytes=upload,
        home_cpu_s=home_s,
        trusted_cpu_s=sum(parts_s.values()),
        audit_rows=audit_rows,
        parts_s=parts_s,
    )


def _width(kind: pa.DataType) -> int:
    """Return an output column's mean bytes a row."""
    try:
        return max(1, int(kind.bit_width) // 8)
    except ValueError:
        return _TEXT_NBYTES
