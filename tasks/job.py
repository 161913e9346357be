"""What a job is: the parameters a user gives, the plan made of them, and the id that makes a second run a resume.

Holds no stage of the work and does no I/O beyond reading the environment through the settings.

Invariants: equal source, recipe, parameters that change the result, and OUT give an equal job id, on every machine;
parameters that only change how the work is done (pool, volunteers, progress) do not take part in it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal, Self

from blake3 import blake3
from pydantic import BaseModel, ConfigDict, Field, model_validator

OnBadRow = Literal["fail", "skip", "quarantine"]

DEFAULT_CHUNK_MIB = 8.0


class PreprocessParams(BaseModel):
    """Parameters of the flow ``preprocess``; the CLI's arguments and the form in the Prefect UI are made of them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Annotated[
        str,
        Field(
            title="Source",
            description="Path, folder, glob or any fsspec URL of Parquet, Arrow/Feather, JSONL(.gz/.zst) or text files",
            examples=["data/*.parquet", "s3://bucket/corpus/"],
        ),
    ]
    out: Annotated[str, Field(title="Output", description="Folder or URL of the dataset to publish; must not exist")]
    recipe: Annotated[
        list[str],
        Field(title="Recipe", min_length=1, max_length=16, examples=[["text.quality@1", "text.minhash@1"]]),
    ]
    pool: Annotated[
        str, Field(title="Pool", description="embedded, local, or the https:// URL of a pool's gateway")
    ] = "embedded"
    volunteers: Annotated[int, Field(title="Volunteers (embedded pool)", ge=1, le=64)] = 2
    max_error: Annotated[
        float, Field(title="Largest error rate ε", gt=0, le=0.5, description="Share of rows that may be wrong")
    ] = 1e-3
    confidence: Annotated[float, Field(title="Confidence 1-α", gt=0.5, lt=1)] = 0.99
    rows_per_chunk: Annotated[int | None, Field(title="Rows per chunk", ge=1)] = None
    chunk_mib: Annotated[float | None, Field(title="MiB per chunk", gt=0, le=1024)] = None
    key: Annotated[str | None, Field(title="Key column", description="A label carried along; not the identity")] = None
    with_columns: Annotated[list[str], Field(title="Columns to carry along", max_length=1000)] = []
    limit: Annotated[int | None, Field(title="Only the first rows", ge=1)] = None
    unit_timeout_s: Annotated[float, Field(title="Reissue a chunk after (s)", gt=0)] = 180.0
    on_bad_row: Annotated[OnBadRow, Field(title="A row that can't be read")] = "fail"
    storage_options: Annotated[dict[str, str], Field(title="fsspec options")] = {}

    @model_validator(mode="after")
    def _one_chunk_size(self) -> Self:
        if self.rows_per_chunk is not None and self.chunk_mib is not None:
            raise ValueError("give rows per chunk or MiB per chunk, not both")
        return self

    @property
    def passthrough(self) -> tuple[str, ...]:
        """The source columns to publish beside the new ones, in the order asked for, the key first."""
        wanted = ([self.key] if self.key else []) + self.with_columns
        return tuple(dict.fromkeys(wanted))

    @property
    def chunk_nbytes(self) -> int:
        """The target size of a chunk's input in bytes."""
        return int((self.chunk_mib or DEFAULT_CHUNK_MIB) * 2**20)


def job_id(params: PreprocessParams, source_fingerprint: str, recipe_identity: str) -> str:
    """Return the job's id: 32 hex digits of a hash over everything that changes what is published, and where."""
    return _hash(
        {
            "source": source_fingerprint,
            "recipe": recipe_identity,
            "out": _place(params.out),
            "max_error": params.max_error,
            "confidence": params.confidence,
            "rows_per_chunk": params.rows_per_chunk,
            "chunk_nbytes": params.chunk_nbytes,
            "passthrough": params.passthrough,
            "limit": params.limit,
            "on_bad_row": params.on_bad_row,
        }
    )


def _place(out: str) -> str:
    """Return OUT in one spelling: ``out``, ``./out/`` and the absolute path are one place."""
    return out.rstrip("/") if "://" in out else str(Path(out).expanduser().absolute())


def unit_id(recipe_identity: str, chunk_fingerprint: str, occurrence: int) -> str:
    """Return the unit's id: equal work has an equal id; ``occurrence`` tells equal chunks of one job apart."""
    return _hash({"recipe": recipe_identity, "chunk": chunk_fingerprint, "occurrence": occurrence})


def local_attempt_id(job: str, unit: str) -> str:
    """Return the name of a unit's result with ``--pool local``: jobs share none."""
    return _hash({"job": job, "unit": unit})


def _hash(value: object) -> str:
    return blake3(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:32]
