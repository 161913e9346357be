"""Small real jobs for the end-to-end tests: a corpus, its oracle, and a pool of scripted volunteers."""

import random
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from muster.cluster.embedded import EmbeddedVolunteer
from muster.datasets.digest import table_digest
from muster.datasets.result_format import FILE_COLUMN, POSITION_COLUMN
from muster.flows.pipeline import run
from muster.kernels.recipe import Recipe
from muster.tasks.job import PreprocessParams
from muster.tasks.report import JobReport

RECIPE = ["text.quality@1", "text.minhash@1"]
WORDS = ("the", "be", "to", "of", "and", "that", "have", "with", "quick", "brown", "fox", "lazy", "data", "chunk")


def write_corpus(path: Path, n_rows: int, seed: int = 0, row_group_rows: int = 250) -> pa.Table:
    """Write a Parquet file of ``n_rows`` texts; return its table."""
    rng = random.Random(seed)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(1, 120))) + "\n" * rng.randint(0, 2) for _ in range(n_rows)]
    table = pa.table({"id": pa.array(range(n_rows)), "text": texts})
    pq.write_table(table, path, row_group_size=row_group_rows)
    return table


def volunteers(*names: str) -> list[EmbeddedVolunteer]:
    """Return volunteers whose scripts are their names' first words, one contributor each."""
    return [EmbeddedVolunteer(name, name, module="scripted_volunteers") for name in names]


def preprocess(
    source: Path | str,
    out: Path,
    names: Sequence[str] = ("honest-1", "honest-2"),
    *,
    pool_name: str | None = None,
    on_open: Callable[[Any], None] | None = None,
    **params: Any,
) -> JobReport:
    """Run ``preprocess`` on an embedded pool of its own."""
    job = PreprocessParams(source=str(source), out=str(out), **{"recipe": RECIPE, "rows_per_chunk": 250} | params)
    name = pool_name or f"t-{uuid.uuid4().hex[:8]}"
    return run(job, volunteers=volunteers(*names), pool_name=name, on_open=on_open)


def expected(table: pa.Table, recipe: Sequence[str] = RECIPE) -> pa.Table:
    """Return what the recipe gives in this process."""
    return Recipe.parse(recipe).run(table)


def published(out: Path) -> pa.Table:
    """Return the published rows in the order of file and position."""
    table = pq.read_table(out)
    index = table.schema.get_field_index(FILE_COLUMN)
    table = table.set_column(index, FILE_COLUMN, table[FILE_COLUMN].cast(pa.string()))
    return table.sort_by([(FILE_COLUMN, "ascending"), (POSITION_COLUMN, "ascending")])


def assert_identical(out: Path, table: pa.Table) -> None:
    """The published kernel columns are, byte for byte, those of a plain run over ``table``."""
    wanted = expected(table)
    assert table_digest(published(out).select(wanted.column_names)) == table_digest(wanted)
