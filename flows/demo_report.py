"""What the demo shows at its end: the job's report, what became of liar and victim, and a look at the data.

Reads the published dataset and the corpus; the duplicates are found here, after publication, for the demo only (the
flow ``dedup`` does it for real).

Invariant: every number is measured in this run; leverage is stated with both of its parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from muster.tasks.report import JobReport


@dataclass(frozen=True)
class Duplicates:
    """Files that share a MinHash band with another one, and examples of such groups."""

    files: int
    groups: int


@dataclass(frozen=True)
class DemoReport:
    """Everything the demo has to say; ``str`` is what the CLI prints."""

    job: JobReport
    verified: str
    victim: str
    taken_over: list[tuple[str, str]]
    plain_cpu_s: float
    duplicates: Duplicates
    low_quality: list[tuple[str, str]]
    corpus: str
    wall_s: float

    def __str__(self) -> str:
        lines = [(label, text) for label, text in self.job.lines() if label not in ("next", "published")]
        lines += self._story()
        width = max(len(label) for label, _ in lines)
        return "\n".join(f"{label:>{width}}  {text}" for label, text in lines)

    def _story(self) -> list[tuple[str, str]]:
        by = ", ".join(sorted({name for _, name in self.taken_over})) or "nobody: it had just finished"
        trusted_s = sum(self.job.trusted_cpu_s.values())
        leverage = self.plain_cpu_s / trusted_s if trusted_s else 0.0
        examples = "; ".join(f"{path} ({reason})" for path, reason in self.low_quality[:3])
        return [
            ("killed", f"{self.victim} (kill -9) with {len(self.taken_over)} chunks in hand; done instead by {by}"),
            ("compared", "published columns are byte-identical to a plain run of the recipe in this process"),
            ("leverage", f"{leverage:.1f} = {self.plain_cpu_s:.1f} CPU s at home / {trusted_s:.1f} trusted CPU s"),
            (
                "duplicates",
                f"{self.duplicates.files:,} files in {self.duplicates.groups:,} groups share a MinHash band",
            ),
            ("low quality", examples),
            ("verified", self.verified),
            ("files", f"{self.job.out} (dataset), {self.corpus} (input)"),
            ("demo", f"{self.wall_s:.0f} s in all"),
            ("next", f"muster verify {self.job.out} --recompute 100"),
        ]


def find_duplicates(out: Path) -> Duplicates:
    """Group the files by their first MinHash band and count those that are not alone."""
    bands = pq.read_table(out, columns=["minhash_b00"])["minhash_b00"].drop_null()
    counts = pa.Table.from_arrays([bands], ["band"]).group_by("band").aggregate([("band", "count")])
    shared = counts.filter(pc.greater(counts["band_count"], 1))
    return Duplicates(int(pc.sum(shared["band_count"]).as_py() or 0), shared.num_rows)


def low_quality(out: Path, corpus: Path) -> list[tuple[str, str]]:
    """Return (path, reason) of the first files that the quality rules would drop, one for each reason."""
    scored = pq.read_table(out, columns=["id", "quality_keep", "quality_reason"])
    dropped = scored.filter(pc.invert(pc.fill_null(scored["quality_keep"], True)))
    first = dropped.group_by("quality_reason").aggregate([("id", "min")])
    paths = pq.read_table(corpus, columns=["path"])["path"]
    rows = zip(first["id_min"].to_pylist(), first["quality_reason"].to_pylist(), strict=True)
    return [(str(paths[i].as_py()), str(reason)) for i, reason in sorted(rows)[:3]]
