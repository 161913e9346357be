"""Compiles kernel functions with Numba: without the GIL, without fastmath, cached on disk where that is allowed.

``helper`` compiles a function that other compiled functions call; ``entry`` compiles what Python calls. Only entries
are cached: Numba's cache looks at the entry's own file alone, so a cached caller would not notice a changed helper.
For the same reason each entry holds its kernel's build digest in a closure variable, which is part of the cache key.

The cache lies where ``NUMBA_CACHE_DIR`` says, else beside the sources; if neither can be written, the kernel still
works and is compiled anew in each process. Nothing is ever put into the user's home.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar, cast

from numba import njit

P = ParamSpec("P")
R = TypeVar("R")


def helper(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function that only compiled functions call: without the wrappers that Python would need.

    Dividing by zero gives what NumPy gives instead of raising; no kernel does it.
    """
    return cast(
        "Callable[P, R]",
        njit(nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)(function),
    )


def inlined(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a small function and inline it into its callers before types are inferred."""
    return cast("Callable[P, R]", njit(nogil=True, error_model="numpy", inline="always")(function))


def entry(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function that Python calls, cached on disk if there is a place for it."""
    if _may_cache(Path(function.__code__.co_filename).parent):
        try:
            return cast("Callable[P, R]", njit(nogil=True, error_model="numpy", cache=True)(function))
        except RuntimeError:  # Numba found no directory after all
            pass
    return cast("Callable[P, R]", njit(nogil=True, error_model="numpy")(function))


def build_stamp(build_digest: str) -> int:
    """Return 56 bits of a build digest, the number that an entry holds so that its cache entry names its build."""
    return int(build_digest[:14], 16)


def _may_cache(folder: Path) -> bool:
    return bool(os.environ.get("NUMBA_CACHE_DIR")) or os.access(folder, os.W_OK)
