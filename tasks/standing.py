"""Standing results as rows of the manifest: what a pool and a local run have in common.

Needs no database, so that the base install can publish. Decides nothing.

Invariant: a row says who computed it: a contributor's public name, or ``TRUSTED``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from muster.cluster.coordinator.rows import HOME, AcceptedRow
from muster.datasets.chunks import ChunkRef
from muster.datasets.manifest import ManifestRow
from muster.datasets.sources import Source

TRUSTED = "trusted"  # the manifest's word for the data team's own compute


def manifest_rows(source: Source, accepted: Iterable[AcceptedRow]) -> Iterator[ManifestRow]:
    """Yield the manifest's row of each accepted unit; their files' digests are filled in at publication."""
    for row in accepted:
        ref, outcome = ChunkRef.from_json(row.chunk), json.loads(row.outcome)
        yield ManifestRow(
            index=row.chunk_index,
            file=source.files[ref.file].name,
            fingerprint=ref.fingerprint,
            first_row=ref.first_row,
            n_rows=ref.n_rows,
            kept=outcome["kept"],
            rejected=outcome["rejected"],
            unit=row.unit_id,
            digest=outcome["digest"],
            computed_by=TRUSTED if row.contributor == HOME else row.contributor,
        )
