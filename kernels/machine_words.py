"""Eight text bytes at a time: unaligned 64-bit loads and stores, bit counting and mixing, for compiled kernels.

It does NOT check bounds: a caller reads only from scratch that it padded with at least eight bytes. Little-endian
machines only; :class:`muster.kernels.text_kernel.TextKernel` refuses others.

The mixer is the finaliser of splitmix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
"""

# Numba and llvmlite hand these functions compiler objects that have no public types.
from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from muster.kernels.compiled import inlined

U64 = np.uint64
I64: Any = np.int64  # typed as Any: to Numba a conversion, to the type checker an int
LOW_BITS = np.uint64(0x0101010101010101)
HIGH_BITS = np.uint64(0x8080808080808080)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def _byte_pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), ir.IntType(64).as_pointer())


def _load64(_context: Any, array: Any, index: Any) -> Any:
    """``load64(bytes, i)``: the little-endian uint64 at byte ``i`` of a uint8 array; not bounds-checked."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        load = builder.load(_byte_pointer(context, builder, signature.args[0], args[0], args[1]))
        load.align = 1
        return load

    del index
    return types.uint64(array, types.int64), codegen


def _store64(_context: Any, array: Any, index: Any, value: Any) -> Any:
    """``store64(bytes, i, v)``: write a uint64 at byte ``i`` of a uint8 array; not bounds-checked."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        store = builder.store(args[2], _byte_pointer(context, builder, signature.args[0], args[0], args[1]))
        store.align = 1
        return context.get_dummy_value()

    del index, value
    return types.void(array, types.int64, types.uint64), codegen


def _trailing_zeros(_context: Any, value: Any) -> Any:
    """``trailing_zeros(v)``: number of zero bits below the lowest set bit of a uint64 that is not zero."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    del value
    return types.int64(types.uint64), codegen


def _count_ones(_context: Any, value: Any) -> Any:
    """``count_ones(v)``: number of set bits of a uint64."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    del value
    return types.int64(types.uint64), codegen


load64: Any = intrinsic(_load64)
store64: Any = intrinsic(_store64)
trailing_zeros: Any = intrinsic(_trailing_zeros)
count_ones: Any = intrinsic(_count_ones)


@inlined
def mix64(x: np.uint64) -> np.uint64:
    """Scramble 64 bits, one to one."""
    x ^= x >> U64(30)
    x *= _MIX_1
    x ^= x >> U64(27)
    x *= _MIX_2
    return x ^ (x >> U64(31))
