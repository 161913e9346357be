"""Finds kernels by id: the built-in ones from a lazy table, others through the entry-point group ``muster.kernels``.

It does NOT import a kernel before somebody asks for it, and never imports Numba or ``pyarrow.compute`` by itself: the
command line imports this module. An entry point is named by a kernel's id (``acme.clean@1``) and points to a subclass
of :class:`muster.kernels.kernel.Kernel` (or an instance of one).

Invariants: one id names one kernel; a built-in id can't be taken over by an entry point; an object whose own id is not
the id it is registered under is refused.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from muster.errors import KernelError

if TYPE_CHECKING:
    from muster.kernels.kernel import Kernel

ENTRY_POINT_GROUP = "muster.kernels"

_BUILT_IN = {
    "bench.spin@1": "muster.kernels.bench_spin.spin:BenchSpin",
    "text.minhash@1": "muster.kernels.text_minhash.minhash:TextMinhash",
    "text.quality@1": "muster.kernels.text_quality.quality:TextQuality",
}


@cache
def _third_party() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP) if point.name not in _BUILT_IN}


def known_ids() -> list[str]:
    """Return the ids of all kernels that :func:`get` finds, sorted, without importing any of them."""
    return sorted({*_BUILT_IN, *_third_party()})


@cache
def get(kernel_id: str) -> Kernel:
    """Return the kernel named ``kernel_id``, such as ``text.minhash@1``.

    Raises ``KernelError`` if there is none (naming the known ones) or if an entry point is broken.
    """
    if kernel_id in _BUILT_IN:
        module, _, attribute = _BUILT_IN[kernel_id].partition(":")
        found: object = getattr(import_module(module), attribute)
    elif kernel_id in _third_party():
        found = _load(_third_party()[kernel_id])
    else:
        raise KernelError(
            f"unknown kernel {kernel_id[:100]!r}; known kernels: {', '.join(known_ids())}",
            hint="a kernel is named name@version; `muster kernels` lists them with their parameters",
        )
    return _instance(kernel_id, found)


def _load(point: EntryPoint) -> object:
    try:
        return point.load()
    except Exception as error:
        raise KernelError(f"kernel {point.name}: its entry point {point.value!r} can't be imported: {error}") from error


def _instance(kernel_id: str, found: object) -> Kernel:
    from muster.kernels.kernel import Kernel

    kernel = found() if isinstance(found, type) else found
    if not isinstance(kernel, Kernel):
        raise KernelError(f"kernel {kernel_id}: expected a muster.kernels.kernel.Kernel, found {type(kernel).__name__}")
    if kernel.id != kernel_id:
        raise KernelError(f"kernel {kernel_id}: the registered object calls itself {kernel.id}")
    return kernel


def all_kernels() -> list[Kernel]:
    """Return every known kernel, sorted by id. Imports them all (but compiles nothing)."""
    return [get(kernel_id) for kernel_id in known_ids()]
