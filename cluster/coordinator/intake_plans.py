"""What an upload is checked against, from the job's plan: its rows, result schema, limits and the file's name.

What it does not do: see an upload.

Invariants: everything comes from the registry, nothing from a volunteer; a job's recipe and source are read once.
"""

from __future__ import annotations

import base64
import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING

from muster.cluster.coordinator.intake_request import IntakeRequest
from muster.cluster.coordinator.registry import AttemptRow, Registry

if TYPE_CHECKING:
    from muster.datasets.sources import Source

CPU_FLOOR_S = 20
SLOWEST_NBYTES_PER_CPU_S = 5_000_000
_MAX_JOBS = 64


class IntakePlans:
    """Requests for attempts; use from any thread."""

    def __init__(self, registry: Registry, exchange_dir: Path) -> None:
        self._registry = registry
        self._exchange_dir = exchange_dir
        self._lock = threading.Lock()
        self._jobs: OrderedDict[str, tuple[str, Source]] = OrderedDict()

    def request(self, row: AttemptRow) -> IntakeRequest:
        """What the child needs to open this attempt's upload.

        Raises:
            KernelError: the recipe is not usable here. SourceError: the chunk or the source is not.
        """
        from muster.datasets.chunks import ChunkRef

        with self._lock:
            schema, source = self._job(row)
        chunk = ChunkRef.from_json(row.chunk)
        return IntakeRequest(
            schema=schema,
            first_row=chunk.first_row,
            n_rows=chunk.n_rows,
            file_name=source.files[chunk.file].name,
            max_nbytes=row.max_nbytes,
            cpu_s=CPU_FLOOR_S + row.max_nbytes // SLOWEST_NBYTES_PER_CPU_S,
        )

    def _job(self, row: AttemptRow) -> tuple[str, Source]:
        known = self._jobs.get(row.job_id)
        if known is None:
            from muster.datasets.results import result_schema
            from muster.datasets.sources import Source
            from muster.kernels.recipe import Recipe

            schema = result_schema(Recipe.from_json(row.recipe).output_schema)
            text = base64.b64encode(schema.serialize().to_pybytes()).decode("ascii")
            source = Source.from_json(self._registry.job_source(row.job_id)[0], exchange_dir=self._exchange_dir)
            known = self._jobs[row.job_id] = (text, source)
            while len(self._jobs) > _MAX_JOBS:
                self._jobs.popitem(last=False)
        return known
