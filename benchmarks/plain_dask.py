"""The peer of ``overhead.py``: a plain Dask LocalCluster, the same kernels, Parquet in, Parquet out. No Muster pool.

One task for each row group: read its text column, ``Recipe.run``, write one Parquet part with file, position and kernel
columns and the same Parquet options as Muster's parts. It does NOT transfer, hash, verify, audit, sign or publish
atomically, and it trusts its workers: that is the work that Muster is compared with.

Prints one JSON object: seconds by phase and CPU seconds. Usage: ``python benchmarks/plain_dask.py '{"source": …,
"out": …, "recipe": [...], "workers": 2}'``.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

BEGAN_S = time.monotonic()


def plan(source: Path) -> list[tuple[str, int, int]]:
    """Return (file, row group, its first row's position) for every row group, from the footers."""
    import pyarrow.parquet as pq

    found = []
    for path in sorted(source.glob("*.parquet")):
        first = 0
        metadata = pq.read_metadata(path)
        for group in range(metadata.num_row_groups):
            found.append((str(path), group, first))
            first += metadata.row_group(group).num_rows
    return found


def compute(task: tuple[str, int, int], recipe_json: str, out: str) -> int:
    """Compute one row group and write its part; return its rows."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from muster.datasets.parts import ROW_GROUP_ROWS, parquet_options, part_schema
    from muster.kernels.recipe import Recipe

    path, group, first = task
    recipe = Recipe.from_json(recipe_json)
    with pq.ParquetFile(path, memory_map=True) as file:
        table = file.read_row_group(group, columns=recipe.input_schema.names, use_threads=False)
    made, n = recipe.run(table), table.num_rows
    name = pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), pa.array([Path(path).name]))
    columns = [name, pa.array(np.arange(first, first + n)), *made.columns]
    rows = pa.Table.from_arrays(columns, schema=part_schema(made.schema))
    target = Path(out, f"part-{Path(path).stem}-{group:05d}.parquet")
    pq.write_table(rows, target, row_group_size=ROW_GROUP_ROWS, **parquet_options(rows.schema))
    return int(n)


def warm(recipe_json: str) -> None:
    """Import the kernels and load them from the compile cache, on a worker."""
    from muster.datasets import parts  # noqa: F401
    from muster.kernels.recipe import Recipe

    Recipe.from_json(recipe_json).warm()


def cpu_s(_: Any = None) -> float:
    """CPU seconds (user and system) of this process."""
    return time.process_time()


def main() -> None:
    """Run the job and print what it took."""
    from distributed import Client, LocalCluster

    from muster.kernels.recipe import Recipe

    args = json.loads(sys.argv[1])
    recipe = Recipe.parse(args["recipe"]).to_json()
    with (
        LocalCluster(
            n_workers=args["workers"], threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster) as client,
    ):
        up_s = time.monotonic()
        client.run(warm, recipe)
        ready_s, ready_cpu = time.monotonic(), sum(client.run(cpu_s).values())
        own_cpu = time.process_time()
        Path(args["out"]).mkdir(parents=True)
        tasks = plan(Path(args["source"]))
        rows = sum(client.gather(client.map(compute, tasks, recipe_json=recipe, out=args["out"], pure=False)))
        done_s = time.monotonic()
        measured = {
            "startup_s": up_s - BEGAN_S,
            "first_call_s": ready_s - up_s,
            "wall_s": done_s - ready_s,
            "workers_cpu_s": sum(client.run(cpu_s).values()) - ready_cpu,
            "scheduler_cpu_s": time.process_time() - own_cpu,
            "rows": rows,
            "chunks": len(tasks),
        }
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
