"""Kernels beside datatrove: same texts, same process, one thread, interleaved; outputs checked in the same run.

Run it with an interpreter that has Muster's ``bench`` extra (datatrove 0.10.1 needs ``xxhash<4`` and tokenizers):

    pip install -e '.[bench]'
    python benchmarks/kernels.py --documents 2500 --repeats 7

Texts: text files of the running interpreter's standard library and site-packages, under 100 kB each. It does NOT use
spaCy, which datatrove would use for English: its word splitter is replaced by ``str.split``, so that both sides have
the same words (with spaCy datatrove is several times slower still). Times are process CPU seconds, medians.

It prints and writes ``benchmarks/results/kernels-cpu.md``; it exits with 1 if one decision differs.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
from datatrove.data import Document
from datatrove.pipeline.dedup import minhash
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
from datatrove.pipeline.filters import (
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
    fineweb_quality_filter,
    gopher_quality_filter,
    gopher_repetition_filter,
)

from muster.kernels import registry
from muster.kernels.kernel import Kernel
from muster.kernels.text_quality import reference as rules
from muster.kernels.text_quality.counters import COUNTERS

SUFFIXES = {".py", ".pyi", ".md", ".rst", ".txt", ".c", ".h", ".json", ".cfg", ".toml"}
MAX_FILE_NBYTES = 100_000


def documents(limit: int) -> list[str]:
    """Read every n-th readable text file, so that ``limit`` of them are spread over all."""
    roots = {Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")}
    paths = sorted({path for root in roots for path in root.rglob("*") if path.suffix in SUFFIXES})
    found = []
    for path in paths:
        if path.stat().st_size > MAX_FILE_NBYTES:
            continue
        try:
            text = path.read_bytes().decode()
        except UnicodeDecodeError:
            continue
        if text:
            found.append(text)
    step = max(1, len(found) // limit)
    return found[::step][:limit]


class SplitWords:
    """datatrove's word tokenizer, splitting at whitespace."""

    def word_tokenize(self, text: str) -> list[str]:
        """Split as ``str.split`` does."""
        return text.split()


class Datatrove:
    """datatrove's filters and MinHash signatures with whitespace words."""

    def __init__(self) -> None:
        for module in (gopher_quality_filter, gopher_repetition_filter, fineweb_quality_filter):
            module.split_into_words = lambda text, _language: text.split()
        never = 1e9
        self.filters = (GopherQualityFilter(), FineWebQualityFilter(), GopherRepetitionFilter())
        self.thorough = GopherRepetitionFilter(
            never, never, never, never, ((2, never), (3, never), (4, never)), tuple((n, never) for n in range(5, 11))
        )
        minhash.load_word_tokenizer = lambda _language: SplitWords()
        self.minhash = MinhashDedupSignature("unused", MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8))

    def each(self, texts: list[str]) -> list[tuple[object, ...]]:
        """Return what each filter says on each text, all three asked."""
        return [tuple(f.filter(Document(text=text, id="")) for f in self.filters) for text in texts]

    def every_counter(self, texts: list[str]) -> None:
        """Ask all filters with the repetition filter's thresholds out of reach, so that it computes everything."""
        for text in texts:
            document = Document(text=text, id="")
            self.filters[0].filter(document)
            self.filters[1].filter(document)
            self.thorough.filter(document)

    def decide(self, texts: list[str]) -> list[str | None]:
        """Return the first failing filter's reason, cheap filters first; None where a text is kept."""
        return [self._reason(Document(text=text, id="")) for text in texts]

    def _reason(self, document: Document) -> str | None:
        for step in self.filters:
            verdict = step.filter(document)
            if verdict is not True:
                return str(verdict[1])
        return None

    def signatures(self, texts: list[str]) -> None:
        """Compute MinHash signatures."""
        for text in texts:
            shingles = self.minhash.get_shingles(text)
            if shingles.size:
                self.minhash.get_signature(shingles)


def medians(candidates: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Run all candidates in turn, ``repeats`` times after one unmeasured round; return median CPU seconds."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(repeats + 1):
        for name, run in candidates.items():
            start = time.process_time()
            run()
            if turn:
                times[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def differing_decisions(texts: list[str], peer: Datatrove) -> list[str]:
    """Compare every filter's verdict, and the combined reason, of each text; describe each difference."""
    kernel = registry.get("text.quality@1")
    table = pa.table({"text": texts})
    rows = kernel.run(table).to_pylist()
    decided = kernel.run(table, {"mode": "decide"})["quality_reason"].to_pylist()
    found = []
    for i, (row, verdicts, reason) in enumerate(zip(rows, peer.each(texts), peer.decide(texts), strict=True)):
        counters = {name: row[f"quality_{name}"] for name in COUNTERS}
        if not (row["quality_reason"] == decided[i] == reason):
            found.append(f"text {i}: reason {row['quality_reason']} / {decided[i]}, datatrove {reason}")
        steps = (rules.gopher_quality_failures, rules.fineweb_failures, rules.gopher_repetition_failures)
        for step, verdict in zip(steps, verdicts, strict=True):
            ours = next(step(counters), None)
            theirs = None if verdict is True else verdict[1]
            if ours != theirs and theirs != "empty":
                found.append(f"text {i}: {step.__name__} {ours}, datatrove {theirs}")
    return found


def machine() -> str:
    """Name the processor and the versions."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = f"{models[0]}, {len(models)} cores" if models else cpu
    packages = ", ".join(f"{name} {version(name)}" for name in ("numba", "numpy", "pyarrow", "datatrove", "xxhash"))
    return f"{cpu}; Python {platform.python_version()}; {packages}"


def measure(texts: list[str], peer_texts: list[str], peer: Datatrove, repeats: int) -> Iterator[tuple[str, ...]]:
    """Yield table rows: what, Muster MB/s, datatrove MB/s, ratio."""
    ours, theirs = (sum(len(text.encode()) for text in some) / 1e6 for some in (texts, peer_texts))
    table = pa.table({"text": texts})
    quality, near = registry.get("text.quality@1"), registry.get("text.minhash@1")
    pairs = {
        "text.quality@1, mode all": (lambda: quality.run(table), lambda: peer.every_counter(peer_texts)),
        "text.quality@1, mode decide": (
            lambda: quality.run(table, {"mode": "decide"}),
            lambda: peer.decide(peer_texts),
        ),
        "text.minhash@1": (lambda: near.run(table), lambda: peer.signatures(peer_texts)),
    }
    for name, (mine, other) in pairs.items():
        seconds = medians({"muster": mine, "datatrove": other}, repeats)
        speed, peer_speed = ours / seconds["muster"], theirs / seconds["datatrove"]
        yield name, f"{speed:.0f}", f"{peer_speed:.2f}", f"{speed / peer_speed:.0f}x"


def short_rows(texts: list[str], repeats: int) -> Iterator[tuple[str, ...]]:
    """Yield table rows for the kernels alone on paragraphs: what, MB/s, ns a row."""
    pieces = [piece for text in texts for piece in text.split("\n\n") if piece]
    table = pa.table({"text": pieces})
    nbytes = sum(len(piece.encode()) for piece in pieces)
    cases: list[tuple[str, Kernel, dict[str, Any]]] = [
        ("text.quality@1, mode all", registry.get("text.quality@1"), {}),
        ("text.quality@1, mode decide", registry.get("text.quality@1"), {"mode": "decide"}),
        ("text.minhash@1", registry.get("text.minhash@1"), {}),
    ]
    for name, kernel, params in cases:
        seconds = medians({name: lambda k=kernel, p=params: k.run(table, p)}, repeats)[name]
        yield (
            f"{name}, {len(pieces):,} rows of {nbytes // len(pieces)} B",
            f"{nbytes / seconds / 1e6:.0f}",
            (f"{seconds / len(pieces) * 1e9:.0f}"),
        )


def spin_speed() -> float:
    """Return seconds a megabyte of ``bench.spin@1`` with its default rounds."""
    kernel, table = registry.get("bench.spin@1"), pa.table({"text": ["spin " * 40_000]})
    return medians({"spin": lambda: kernel.run(table)}, 3)["spin"] / 0.2


def first_calls() -> tuple[float, float]:
    """Return wall seconds of loading and warming both text kernels in a new process: compiling anew, then cached."""
    code = (
        "import time; t = time.perf_counter(); from muster.kernels.recipe import Recipe;"
        "Recipe.parse(['text.quality@1', 'text.minhash@1']).warm(); print(time.perf_counter() - t)"
    )
    with tempfile.TemporaryDirectory() as folder:
        runs = [
            subprocess.run(
                [sys.executable, "-c", code],
                env={**os.environ, "NUMBA_CACHE_DIR": folder},
                check=True,
                capture_output=True,
                text=True,
            ).stdout
            for _ in range(2)
        ]
    return float(runs[0]), float(runs[1])


NOTES = """
Unequal work, named:
- datatrove's spaCy word splitter is replaced by `str.split` on both sides; datatrove's strings become Python objects,
  Muster reads Arrow buffers (making them is not timed: that is how the data comes out of Parquet).
- Quality, mode all: Muster returns 31 counters; datatrove computes what its three filters need, with the repetition
  filter's thresholds out of reach (its other two still stop at their first failing rule).
- MinHash: Muster's words are runs of letters, digits and characters beyond ASCII, ASCII made lower-case; datatrove also
  normalises numbers, weekdays and NFD, and hashes with xxh64 modulo 2**61 - 1. Same 5-grams and 14 x 8 permutations.
- datatrove runs on a part of the texts (it is slow); speeds are per byte of what each side read.
"""


def main() -> int:
    """Run, print, write; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=2500, help="texts for Muster and for the decisions")
    parser.add_argument("--peer-documents", type=int, default=150, help="texts of those for timing datatrove")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--date", default=time.strftime("%Y-%m-%d"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "kernels-cpu.md")
    args = parser.parse_args()
    texts, peer = documents(args.documents), Datatrove()
    differences = differing_decisions(texts, peer)
    peer_texts = texts[:: max(1, len(texts) // args.peer_documents)]
    nbytes = sum(len(text.encode()) for text in texts)
    command = f"python benchmarks/kernels.py --documents {args.documents} --repeats {args.repeats}"
    corpus = (
        f"\n{len(texts):,} text files of the interpreter's libraries, {nbytes / 1e6:.1f} MB; datatrove timed on"
        f" {len(peer_texts)} of them. Process CPU time, interleaved, median of {args.repeats}."
    )
    lines = [
        "# Kernels on one core, beside datatrove",
        f"\n{args.date}; {machine()}\n\nCommand: `{command}`",
        corpus,
        f"\nDecisions: {len(differences)} differences in {4 * len(texts):,} comparisons (three filters and reason).",
        "\n| kernel | MB/s | datatrove MB/s | ratio |\n|---|---:|---:|---:|",
        *(f"| {' | '.join(row)} |" for row in measure(texts, peer_texts, peer, args.repeats)),
        "\n| kernel alone, short rows | MB/s | ns a row |\n|---|---:|---:|",
        *(f"| {' | '.join(row)} |" for row in short_rows(texts, args.repeats)),
        f"\n`bench.spin@1`: {spin_speed():.2f} s of CPU a MB with its default rounds.",
    ]
    cold, cached = first_calls()
    lines.append(
        f"\nNew process, import and warm both text kernels: {cold:.1f} s compiling, {cached:.1f} s from the cache."
    )
    report = "\n".join([*lines, NOTES])
    print(report)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(report)
    print("\n".join(differences[:20]))
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
