"""Keeps what tests write out of the developer's home and state folder, and compiled kernels from one run to the next.

The variables are set before any test module is imported: numba, prefect and dask read theirs at import.
"""

import os
import shutil
import tempfile
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
_HOME = Path(tempfile.mkdtemp(prefix="muster-tests-"))

os.environ.update(
    MUSTER_HOME=str(_HOME),
    PREFECT_HOME=str(_HOME / "prefect"),
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    DO_NOT_TRACK="1",
    DASK_CONFIG=str(_HOME / "dask"),
)
os.environ.pop("PREFECT_API_URL", None)  # a test must never speak to the developer's own server
os.environ.setdefault("NUMBA_CACHE_DIR", str(REPO / ".muster" / "cache" / "numba"))


def pytest_unconfigure() -> None:
    """Remove the run's state folder."""
    shutil.rmtree(_HOME, ignore_errors=True)
