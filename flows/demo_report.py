"""What the demo shows at its end: the job's report, what became of liar and victim, and a look at the data.

Reads the published dataset and the corpus; the duplicates are found here, after publication, for the demo only.

Invariant: every number is measured in this run; leverage is stated with both of its parts.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from muster.tasks.report import JobReport


@dataclass(frozen=True)
class Duplicates:
    """How many files share a MinHash band with another one, in how many groups."""

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
            (
                "leverage",
                f"at least {leverage:.1f}: {self.plain_cpu_s:.1f} CPU s in kernels, {trusted_s:.1f} trusted",
            ),
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
    """Join files that share any MinHash band (with one value of it) into groups; count files and groups."""
    table = pq.read_table(out)
    names = [name for name in table.column_names if name.startswith("minhash_b")]
    leader = list(range(table.num_rows))

    def find(row: int) -> int:
        while leader[row] != row:
            leader[row] = leader[leader[row]]
            row = leader[row]
        return row

    for name in names:
        band = table[name].combine_chunks()
        order = pc.array_sort_indices(band).to_numpy()
        values = band.take(pa.array(order)).to_pylist()
        for i in range(1, len(order)):
            if values[i] is not None and values[i] == values[i - 1]:
                leader[find(int(order[i]))] = find(int(order[i - 1]))
    sizes = Counter(find(row) for row in range(table.num_rows))
    groups = [n for n in sizes.values() if n > 1]
    return Duplicates(sum(groups), len(groups))


def low_quality(out: Path, corpus: Path) -> list[tuple[str, str]]:
    """Return (path, reason) of the first files that the quality rules would drop, one for each reason."""
    scored = pq.read_table(out, columns=["id", "quality_keep", "quality_reason"])
    dropped = scored.filter(pc.invert(pc.fill_null(scored["quality_keep"], True)))
    first = dropped.group_by("quality_reason").aggregate([("id", "min")])
    paths = pq.read_table(corpus, columns=["path"])["path"]
    rows = zip(first["id_min"].to_pylist(), first["quality_reason"].to_pylist(), strict=True)
    return [(str(paths[i].as_py()), str(reason)) for i, reason in sorted(rows)[:3]]
