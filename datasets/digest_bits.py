"""Raw material of the canonical digest: NumPy views of Arrow buffers, and bit streams that don't see byte borders.

What it does: reads buffers without copying, aligns and concatenates packed bits, zeroes what lies under nulls.
What it does not do: decide what is hashed (``digest_nodes`` does) or check buffers (validated by the caller).

Invariants: packed bits are least significant bit first with zero padding, as Arrow packs them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.types as pt
from blake3 import blake3

_ONES = b"\xff" * (1 << 14)
_UNSIGNED: dict[int, pa.DataType] = {1: pa.uint8(), 2: pa.uint16(), 4: pa.uint32(), 8: pa.uint64()}
U8 = npt.NDArray[np.uint8]


def buffer_u8(buffer: pa.Buffer | None) -> U8:
    """The bytes of an Arrow buffer as a uint8 view; empty for an absent buffer."""
    return np.empty(0, np.uint8) if buffer is None else np.frombuffer(buffer, np.uint8)


def offsets_view(array: pa.Array) -> npt.NDArray[Any]:
    """The len(array) + 1 offsets of a non-empty string, binary or list array as an int32 or int64 view."""
    kind = array.type
    wide = pt.is_large_string(kind) or pt.is_large_binary(kind) or pt.is_large_list(kind)
    dtype = np.dtype(np.int64 if wide else np.int32)
    return np.frombuffer(array.buffers()[1], dtype, len(array) + 1, array.offset * dtype.itemsize)


def aligned_bits(bits: U8, start: int, n: int) -> U8:
    """Bits [start, start + n) of a packed buffer, moved to bit 0; the padding of the last byte is zero."""
    n_bytes, shift = (n + 7) // 8, start % 8
    window = bits[start // 8 : (start + n + 7) // 8]
    out: U8 = window[:n_bytes] >> np.uint8(shift)
    if shift:
        high = window[1 : n_bytes + 1]
        out[: len(high)] |= high << np.uint8(8 - shift)
    if n % 8:
        out[-1] &= (1 << n % 8) - 1
    return out


def zero_nulls(raw: U8, valid: U8, n: int, width: int) -> U8:
    """Copy of ``n`` values of ``width`` bytes with zeros where the packed ``valid`` has a 0.

    Arrow's ``fill_null`` is faster here than NumPy or a Numba loop, so values of machine widths go through it as
    unsigned integers; the others (decimals, fixed-size binary) are zeroed as rows of bytes.
    """
    kind = _UNSIGNED.get(width)
    if kind is not None:
        array = pa.Array.from_buffers(kind, n, [pa.py_buffer(valid), pa.py_buffer(raw)])
        return buffer_u8(array.fill_null(0).buffers()[1])[: n * width]
    rows = raw.reshape(n, width).copy()
    rows[np.unpackbits(valid, count=n, bitorder="little") == 0] = 0
    return rows.reshape(-1)


class BitStream:
    """Blake3 over a sequence of bits that arrives in pieces of any length."""

    def __init__(self) -> None:
        self._hash = blake3()
        self._carry = 0
        self._n_carry = 0

    def add(self, packed: U8, n: int) -> None:
        """Append the first ``n`` bits of ``packed`` (padding zero)."""
        if n == 0:
            return
        total = self._n_carry + n
        if self._n_carry:
            shifted = np.zeros((total + 7) // 8, np.uint8)
            shifted[: len(packed)] = packed << self._n_carry
            spill = packed[: len(shifted) - 1] >> (8 - self._n_carry)
            shifted[1 : len(spill) + 1] |= spill
            shifted[0] |= self._carry
            packed = shifted
        whole = total // 8
        self._hash.update(np.ascontiguousarray(packed[:whole]).data)
        self._n_carry = total % 8
        self._carry = int(packed[whole]) if self._n_carry else 0

    def add_ones(self, n: int) -> None:
        """Append ``n`` one bits without holding them."""
        head = min(n, -self._n_carry % 8)
        if head:
            self.add(np.array([(1 << head) - 1], np.uint8), head)
        n_bytes, tail = divmod(n - head, 8)
        for start in range(0, n_bytes, len(_ONES)):
            self._hash.update(_ONES[: n_bytes - start])
        if tail:
            self.add(np.array([(1 << tail) - 1], np.uint8), tail)

    def digest(self) -> bytes:
        """32-byte hash of the bits so far, the last byte padded with zeros."""
        final = self._hash.copy()
        if self._n_carry:
            final.update(bytes([self._carry]))
        return bytes(final.digest())
