"""Plan: what the job is, before anything runs: source, recipe, frozen schema, id, units.

``prepare`` needs no pool and costs little, so that wrong input is refused before a process starts; ``enter`` puts the
units into a registry later. Computes nothing and reads no row.

Invariants: the same files, recipe and parameters give the same job id and the same units in the same order.
"""

from __future__ import annotations

import base64
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from muster.datasets.chunks import ChunkRef, chunk_fingerprint
from muster.datasets.sources import Source, open_source
from muster.errors import ConfigError, SourceError
from muster.kernels.recipe import Recipe
from muster.tasks.job import PreprocessParams, job_id, unit_id
from muster.tasks.progress import Progress, Reporter
from muster.tasks.recompute import Work
from muster.trust.policy import Policy


@dataclass(frozen=True)
class Prepared:
    """A job that could start: everything that its id depends on."""

    params: PreprocessParams
    source: Source
    recipe: Recipe
    schema: pa.Schema  # the frozen schema of the recipe's input columns
    policy: Policy
    job_id: str

    @property
    def work(self) -> Work:
        """What referees get."""
        encoded = base64.b64encode(self.schema.serialize().to_pybytes()).decode()
        return Work(
            source=self.source.to_json(),
            recipe=self.recipe.to_json(),
            schema=encoded,
            exchange_dir=str(self.source.exchange_dir),
            storage_options=tuple(sorted(self.params.storage_options.items())),
        )

    def chunks(self) -> Iterator[tuple[ChunkRef, str]]:
        """Yield each chunk with its unit's id, in order."""
        params, seen = self.params, Counter[str]()
        refs = self.source.chunks(
            self.schema.names,
            rows_per_chunk=params.rows_per_chunk,
            chunk_nbytes=params.chunk_nbytes,
            limit=params.limit,
        )
        for ref in refs:
            fingerprint = chunk_fingerprint(ref, self.schema)
            yield ref, unit_id(self.recipe.identity, fingerprint, seen[fingerprint])
            seen[fingerprint] += 1


def prepare(params: PreprocessParams, exchange_dir: Path, reporter: Reporter) -> Prepared:
    """Open source and recipe, check that they fit together, and name the job.

    Raises SourceError, KernelError or ConfigError; nothing has been started or written by then.
    """
    recipe = Recipe.parse(params.recipe)
    _require_apart(params)
    policy = Policy(max_error=params.max_error, confidence=params.confidence, row_wise=recipe.row_wise)
    reporter.update(Progress("plan", note="opening the source"))
    source = open_source(params.source, exchange_dir=exchange_dir, storage_options=params.storage_options or None)
    schema = source.input_schema(recipe.input_schema)
    for name in params.passthrough:
        if name not in source.schema.names:
            there = ", ".join(source.schema.names)
            raise SourceError(f"{params.source}: there is no column {name!r} to carry along; the columns are {there}")
        if name in recipe.output_schema.names or name.startswith("_muster"):
            raise SourceError(f"{params.source}: column {name!r} would clash with a column that the job adds")
    identity = job_id(params, source.fingerprint(), recipe.identity)
    return Prepared(params, source, recipe, schema, policy, identity)


def _require_apart(params: PreprocessParams) -> None:
    """Refuse an OUT inside the SOURCE folder: what is published there would be input of the next run."""
    if "://" in params.source or "://" in params.out:
        return
    source, out = (Path(os.path.abspath(Path(text).expanduser())) for text in (params.source, params.out))  # noqa: PTH100
    if source.is_dir() and out.is_relative_to(source):
        raise ConfigError(
            f"OUT {params.out} lies inside SOURCE {params.source}: its files would be input of the next run",
            hint="choose an OUT beside the source",
        )
