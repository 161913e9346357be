"""``muster verify``: check a published dataset offline, and on request recompute random rows from its source.

The offline checks are ``datasets.verify``; this module adds the recomputation, which needs the source that the
certificate names and the recipe's kernels. Nothing is written.

Invariants: a return means that every check passed; the first thing wrong is a VerificationError naming file and row; a
source that changed since is said to have changed, never blamed on the dataset.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from muster.datasets.digest import table_digest
from muster.datasets.keystore import KeyStore
from muster.datasets.manifest import ManifestRow
from muster.datasets.publish_targets import open_location
from muster.datasets.reading import read_chunk
from muster.datasets.result_format import POSITION_COLUMN
from muster.datasets.sources import Source, open_source
from muster.datasets.verify import VerifyReport, dataset_manifest, verify_dataset
from muster.errors import SourceChangedError, VerificationError
from muster.kernels.recipe import Recipe

Ranks = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Verified:
    """What was verified; ``str`` is what the CLI prints."""

    out: str
    report: VerifyReport
    recomputed: int

    def __str__(self) -> str:
        report = self.report
        signer = report.key_name or f"UNPINNED KEY {report.key_id}"
        size = f"{report.kept:,} rows in {report.n_parts} parts, {report.nbytes / 2**20:.1f} MiB"
        lines = [f"{self.out}: {size}, {report.rejected:,} rejects; every byte as signed by {signer}"]
        if self.recomputed:
            lines.append(f"{self.recomputed:,} random rows recomputed here from the source: all identical")
        return "\n".join([*lines, str(report.certificate.get("statement", ""))])


def verify(out: str, *, recompute: int = 0, keystore: Path, unsafe_any_key: bool = False) -> Verified:
    """Check a dataset; raises VerificationError at the first place that is wrong."""
    report = verify_dataset(out, KeyStore(keystore), unsafe_any_key=unsafe_any_key)
    recomputed = _recompute(out, report.certificate, n) if (n := min(recompute, report.kept)) else 0
    return Verified(out, report, recomputed)


def _recompute(out: str, certificate: Mapping[str, Any], n: int) -> int:
    """Recompute ``n`` published rows, drawn uniformly; return how many were compared."""
    recipe = Recipe.of([(step["kernel"], step["params"]) for step in certificate["recipe_steps"]])
    if recipe.identity != certificate["recipe"]:
        raise VerificationError(
            f"{out}: its kernels were of another build than those installed here",
            hint=f"install the version that published it: {certificate.get('environment')}",
        )
    with tempfile.TemporaryDirectory(prefix="muster-verify-") as scratch:
        source = open_source(str(certificate["source"]["url"]), exchange_dir=Path(scratch))
        if source.fingerprint() != certificate["source"]["fingerprint"]:
            raise SourceChangedError(f"{source.url}: not the source that {out} was made from; can't recompute its rows")
        files = {file.name: file.index for file in source.files}
        wanted = [(files[row.file], row, ranks) for row, ranks in _drawn(out, n)]
        _compare_all(out, source, recipe, wanted)
    return n


def _drawn(out: str, n: int) -> list[tuple[ManifestRow, Ranks]]:
    """Return the manifest rows hit by ``n`` uniform draws of kept rows, with the ranks drawn in each."""
    rows = [row for row in dataset_manifest(out) if row.kept]
    ends = np.cumsum([row.kept for row in rows])
    generator = np.random.default_rng(secrets.randbits(128))
    drawn = np.sort(generator.choice(int(ends[-1]), size=n, replace=False))
    chunks = np.searchsorted(ends, drawn, side="right")
    return [(rows[c], drawn[chunks == c] - (ends[c] - rows[c].kept)) for c in np.unique(chunks)]


def _compare_all(out: str, source: Source, recipe: Recipe, wanted: list[tuple[int, ManifestRow, Ranks]]) -> None:
    """Go through the source once, and through the drawn rows beside it."""
    schema = source.input_schema(recipe.input_schema)
    waiting = sorted(wanted, key=lambda item: (item[0], item[1].first_row))
    held: list[tuple[int, ManifestRow, pa.Table]] = []
    for ref in source.chunks(schema.names):
        last = ref.first_row + ref.n_rows
        while waiting and (waiting[0][0], waiting[0][1].first_row) < (ref.file, last):
            file, row, ranks = waiting.pop(0)
            held.append((file, row, _published(out, row, ranks, recipe)))
        held = [h for h in held if h[0] == ref.file and h[1].first_row + h[1].n_rows > ref.first_row]
        for _, row, table in held:
            positions = table[POSITION_COLUMN].to_numpy()
            here = np.flatnonzero((positions >= ref.first_row) & (positions < last))
            if len(here):
                rows = read_chunk(ref, schema, source.byte_source(ref.file), positions[here].tolist())
                _compare(out, row, recipe.run(rows.table), table.take(pa.array(here)))


def _published(out: str, row: ManifestRow, ranks: Ranks, recipe: Recipe) -> pa.Table:
    columns = [POSITION_COLUMN, *recipe.output_schema.names]
    fs, root = open_location(out)
    with fs.open(f"{root}/{row.part}", "rb") as file:
        return pq.read_table(file, columns=columns).take(pa.array(ranks))


def _compare(out: str, row: ManifestRow, computed: pa.Table, there: pa.Table) -> None:
    found = there.select(computed.column_names)
    for i, position in enumerate(there[POSITION_COLUMN].to_pylist()):
        for name in computed.column_names:
            expected, published = computed.select([name]).slice(i, 1), found.select([name]).slice(i, 1)
            if table_digest(expected) != table_digest(published):
                raise VerificationError(
                    f"{out}/{row.part}: {row.file}, row {position}, column {name}: "
                    f"expected {expected[name][0].as_py()!r}, found {published[name][0].as_py()!r}"
                )
