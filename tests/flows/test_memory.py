"""The flow process stays under 1 GiB for any input: 3 GB of Parquet, a pool of two, measured with ``ru_maxrss``."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

SOURCE_NBYTES = 3_000_000_000
LIMIT_NBYTES = 1 << 30
GROUP_ROWS = 8_192

# In a process of its own: ru_maxrss is the highest that a process ever had, and pytest's own is not the flow's.
FLOW = """
import json, resource, sys
from muster.flows.pipeline import run
from muster.tasks.job import PreprocessParams

report = run(PreprocessParams(**json.loads(sys.argv[1])))
unit = 1 if sys.platform == "darwin" else 1024
rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
print(json.dumps({"rss": rss, "kept": report.kept, "rejected": report.rejected, "chunks": report.chunks}))
"""


def write_source(folder: Path, nbytes: int) -> tuple[int, int]:
    """Write uncompressed Parquet files until ``nbytes`` are on disk; return rows and bytes."""
    folder.mkdir()
    block = [f"row {i} " + "lorem ipsum dolor sit amet consectetur " * 25 for i in range(GROUP_ROWS)]
    rows = total = 0
    while total < nbytes:
        path = folder / f"part-{rows:09d}.parquet"
        schema = pa.schema([("id", pa.int64()), ("text", pa.string())])
        with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
            for _ in range(40):
                ids = pa.array(range(rows, rows + GROUP_ROWS), pa.int64())
                writer.write_table(pa.table([ids, pa.array(block)], schema=schema))
                rows += GROUP_ROWS
        total += path.stat().st_size
    return rows, total


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(sys.platform == "win32", reason="ru_maxrss is POSIX")
def test_flow_process_stays_under_one_gib_on_three_gigabytes(tmp_path: Path) -> None:
    source, out, home = tmp_path / "source", tmp_path / "out", tmp_path / "home"
    if shutil.disk_usage(tmp_path).free < 3 * SOURCE_NBYTES:
        pytest.skip("needs 9 GB of free disk")
    params = {"source": str(source), "out": str(out), "recipe": ["text.minhash@1"], "key": "id"}
    try:
        rows, nbytes = write_source(source, SOURCE_NBYTES)
        done = subprocess.run(
            [sys.executable, "-P", "-c", FLOW, json.dumps(params)],
            env={**os.environ, "MUSTER_HOME": str(home), "PREFECT_HOME": str(home / "prefect")},
            capture_output=True,
            text=True,
            timeout=1100,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found = json.loads(done.stdout.splitlines()[-1])
        published = sum(pq.read_metadata(path).num_rows for path in out.glob("*.parquet"))
        assert nbytes >= SOURCE_NBYTES
        assert found["kept"] == published == rows
        assert found["rejected"] == 0
        assert found["chunks"] > 100
        assert found["rss"] < LIMIT_NBYTES
    finally:
        for folder in (source, out, home):
            shutil.rmtree(folder, ignore_errors=True)
