"""Compiling: the disk cache follows the build, and an installation that can't be written still works."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import muster.kernels.compiled as compiled
from muster.kernels import registry

RUN = (
    "import pyarrow as pa; from muster.kernels import registry; k = registry.get('bench.spin@1');"
    "print(k.run(pa.table({'text': ['abc']}), {'rounds': 2})['spin_state'].to_pylist(), k.build_digest)"
)


def python(*arguments, **environment):
    clean = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, *arguments], env={**clean, **environment}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_cache_lies_where_it_is_told(tmp_path):
    first = python("-c", RUN, NUMBA_CACHE_DIR=str(tmp_path))
    entries = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nbc")}
    assert entries
    assert python("-c", RUN, NUMBA_CACHE_DIR=str(tmp_path)) == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nbc")} == entries


def test_changed_helper_changes_the_build_and_is_not_served_from_the_cache(tmp_path):
    room = Path(compiled.__file__).parent.resolve()
    package = tmp_path / "muster"
    shutil.copytree(room, package / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(room.parent / "src" / "muster" / "errors.py", package / "errors.py")
    (package / "__init__.py").touch()
    cache = str(tmp_path / "cache")
    before = python("-c", RUN, PYTHONPATH=str(tmp_path), NUMBA_CACHE_DIR=cache)
    constants = package / "kernels" / "bench_spin" / "reference.py"
    constants.write_text(constants.read_text().replace("0x9E3779B97F4A7C15", "0x9E3779B97F4A7C17"))
    after = python("-c", RUN, PYTHONPATH=str(tmp_path), NUMBA_CACHE_DIR=cache)
    assert before.split() != after.split()
    assert before.split()[0] != after.split()[0]
    assert before.split()[1] != after.split()[1]


def test_without_a_place_for_the_cache_kernels_compile_in_memory(monkeypatch):
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setattr(compiled.os, "access", lambda *_: False)

    def plus_one(x: int) -> int:
        return x + 1

    made = compiled.entry(plus_one)
    assert made(1) == 2
    assert type(made._cache).__name__ == "NullCache"


def test_build_digest_ignores_line_ends(tmp_path, monkeypatch):
    spin = registry.get("bench.spin@1")
    read = Path.read_bytes
    before = spin.build_digest
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path).replace(b"\n", b"\r\n"))
    assert type(spin)().build_digest == before
