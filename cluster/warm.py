"""Imported by the fork server before it forks: pays the once-per-process costs of Numba and pyarrow a single time.

Does nothing else, and starts no thread (a forked thread would be lost with its locks held).
"""

from __future__ import annotations

import pyarrow.compute
import pyarrow.parquet  # noqa: F401

from muster.kernels import registry

for _kernel in registry.all_kernels():
    _kernel.warm()
