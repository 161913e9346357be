"""The nodes of the canonical digest: one class for each kind of Arrow array; ``digest`` states the form.

What it does: turns arrays into canonical byte streams, block by block, each hashed as it comes.
What it does not do: know about tables, schemas or versions (``digest`` does).

Invariants: a node's streams depend only on the values fed, never on how they were cut; every copy that is made is of
one block (``BLOCK_NBYTES``, small enough to stay in a core's cache between writing and hashing) or of the
``_DECODE_ROWS`` rows of an encoded array; buffers are read through NumPy views without copying.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt
from blake3 import blake3

from muster.datasets.digest_bits import BitStream, aligned_bits, buffer_u8, offsets_view, zero_nulls
from muster.datasets.digest_types import canonical_type, is_binary, is_list, is_string
from muster.errors import SourceError

BLOCK_NBYTES = 1 << 17
_DECODE_ROWS = 1 << 13
_MAX_LENGTH = (1 << 32) - 1
_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
_NAN_BITS = {2: 0x7E00, 4: 0x7FC00000, 8: 0x7FF8000000000000}


class Node(Protocol):
    """What a column contributes to the digest: feed arrays in row order, then collect the 32-byte stream hashes."""

    def update(self, array: pa.Array) -> None:
        """Append the slots of ``array``."""
        ...

    def streams(self) -> Iterator[bytes]:
        """Hashes of the streams so far, in canonical order."""
        ...


def node_for(kind: pa.DataType, name: str) -> Node:
    """A fresh node for one column (or child) of type ``kind``; SourceError if the type has no canonical form."""
    if pt.is_dictionary(kind) or pt.is_run_end_encoded(kind):
        return _Encoded(node_for(kind.value_type, name), _decoded)
    if pt.is_string_view(kind) or pt.is_binary_view(kind):
        return _Encoded(_Bytes(name), _unviewed)
    if is_string(kind) or is_binary(kind):
        return _Bytes(name)
    if pt.is_fixed_size_list(kind):
        return _FixedList(node_for(kind.value_type, name))
    if is_list(kind):
        return _List(node_for(kind.value_type, name), name)
    if pt.is_struct(kind):
        return _Struct([node_for(field.type, name) for field in kind])
    if pt.is_null(kind):
        return _Null()
    canonical_type(kind, name)
    return _Bools() if pt.is_boolean(kind) else _Fixed(kind)


class _Validity:
    """The validity stream; nothing is hashed before the first null, so that columns without nulls cost nothing."""

    def __init__(self) -> None:
        self._bits: BitStream | None = None
        self._n_valid = 0

    def add(self, array: pa.Array) -> npt.NDArray[np.uint8] | None:
        """Append; the packed validity of ``array`` aligned to bit 0, or None if it has no null."""
        if array.null_count == 0:
            if self._bits is None:
                self._n_valid += len(array)
            else:
                self._bits.add_ones(len(array))
            return None
        if self._bits is None:
            self._bits = BitStream()
            self._bits.add_ones(self._n_valid)
        packed = aligned_bits(buffer_u8(array.buffers()[0]), array.offset, len(array))
        self._bits.add(packed, len(array))
        return packed

    def digest(self) -> bytes:
        return bytes(blake3().digest()) if self._bits is None else self._bits.digest()


class _Null:
    def update(self, array: pa.Array) -> None:
        """Only the row count says anything about a column of nulls, and the table has it."""

    def streams(self) -> Iterator[bytes]:
        return iter(())


class _Bools:
    def __init__(self) -> None:
        self._validity, self._bits = _Validity(), BitStream()

    def update(self, array: pa.Array) -> None:
        valid = self._validity.add(array)
        if len(array) == 0:
            return
        bits = aligned_bits(buffer_u8(array.buffers()[1]), array.offset, len(array))
        self._bits.add(bits if valid is None else bits & valid, len(array))

    def streams(self) -> Iterator[bytes]:
        yield self._validity.digest()
        yield self._bits.digest()


class _Fixed:
    """Fixed-width values; a node for floats also folds every NaN into one."""

    def __init__(self, kind: pa.DataType) -> None:
        self._width: int = kind.bit_width // 8
        self._float = np.dtype(f"f{self._width}") if pt.is_floating(kind) else None
        self._validity, self._hash = _Validity(), blake3()

    def update(self, array: pa.Array) -> None:
        valid = self._validity.add(array)
        n, width = len(array), self._width
        if n == 0 or width == 0:
            return
        raw = buffer_u8(array.buffers()[1])[array.offset * width : (array.offset + n) * width]
        if valid is None and self._float is None:
            self._hash.update(raw.data)
            return
        step = max(8, BLOCK_NBYTES // width // 8 * 8)
        for start in range(0, n, step):
            self._block(raw[start * width : (start + step) * width], valid, start)

    def _block(self, raw: npt.NDArray[np.uint8], valid: npt.NDArray[np.uint8] | None, start: int) -> None:
        n = len(raw) // self._width
        if valid is not None:
            raw = zero_nulls(raw, valid[start // 8 : (start + n + 7) // 8], n, self._width)
        if self._float is not None:
            nan = np.isnan(raw.view(self._float))
            if nan.any():
                bits = raw.view(_UNSIGNED[self._width]).copy()
                bits[nan] = _NAN_BITS[self._width]
                raw = bits.view(np.uint8)
        self._hash.update(raw.data)

    def streams(self) -> Iterator[bytes]:
        yield self._validity.digest()
        yield bytes(self._hash.digest())


class _Bytes:
    """Strings and binaries with 32-bit or 64-bit offsets."""

    def __init__(self, name: str) -> None:
        self._validity, self._lengths, self._data = _Validity(), _Lengths(name), blake3()

    def update(self, array: pa.Array) -> None:
        valid = self._validity.add(array)
        if len(array) == 0:
            return
        offsets = offsets_view(array)
        if self._lengths.add(offsets, valid):
            array = array.drop_null()  # the slow way, only where bytes lie hidden under nulls
            if len(array) == 0:
                return
            offsets = offsets_view(array)
        first, last = int(offsets[0]), int(offsets[-1])
        if last > first:
            self._data.update(buffer_u8(array.buffers()[2])[first:last].data)

    def streams(self) -> Iterator[bytes]:
        yield self._validity.digest()
        yield self._lengths.digest()
        yield bytes(self._data.digest())


class _List:
    def __init__(self, child: Node, name: str) -> None:
        self._validity, self._lengths, self._child = _Validity(), _Lengths(name), child

    def update(self, array: pa.Array) -> None:
        valid = self._validity.add(array)
        if len(array) == 0:
            return
        if pt.is_list_view(array.type) or pt.is_large_list_view(array.type):
            lengths = np.concatenate(([0], np.cumsum(array.value_lengths().fill_null(0).to_numpy(), dtype=np.int64)))
            self._lengths.add(lengths, valid)
            self._child.update(array.flatten())
            return
        offsets = offsets_view(array)
        if self._lengths.add(offsets, valid):
            self._child.update(array.flatten())
        else:
            self._child.update(array.values.slice(int(offsets[0]), int(offsets[-1] - offsets[0])))

    def streams(self) -> Iterator[bytes]:
        yield self._validity.digest()
        yield self._lengths.digest()
        yield from self._child.streams()


class _FixedList:
    def __init__(self, child: Node) -> None:
        self._validity, self._child = _Validity(), child

    def update(self, array: pa.Array) -> None:
        self._validity.add(array)
        self._child.update(array.flatten())

    def streams(self) -> Iterator[bytes]:
        yield self._validity.digest()
        yield from self._child.streams()


class _Struct:
    def __init__(self, children: list[Node]) -> None:
        self._validity, self._children = _Validity(), children

    def update(self, array: pa.Array) -> None:
        self._validity.add(array)
        for child, values in zip(self._children, array.flatten(), strict=True):
            child.update(values)

    def streams(self) -> Iterator[bytes]:
        yield self._validity.digest()
        for child in self._children:
            yield from child.streams()


class _Encoded:
    """Dictionary, run-end and view arrays: decoded a few rows at a time, then hashed as what they stand for."""

    def __init__(self, inner: Node, decode: Callable[[pa.Array], pa.Array]) -> None:
        self._inner, self._decode = inner, decode

    def update(self, array: pa.Array) -> None:
        for start in range(0, len(array), _DECODE_ROWS):
            self._inner.update(self._decode(array.slice(start, _DECODE_ROWS)))

    def streams(self) -> Iterator[bytes]:
        return self._inner.streams()


class _Lengths:
    """The u32 stream of lengths, made from offsets block by block."""

    def __init__(self, name: str) -> None:
        self._hash, self._name = blake3(), name

    def add(self, offsets: npt.NDArray[Any], valid: npt.NDArray[np.uint8] | None) -> bool:
        """Append the lengths between ``offsets``; True if something lies hidden under nulls."""
        hidden = False
        step = BLOCK_NBYTES // 4
        for start in range(0, len(offsets) - 1, step):
            ends = offsets[start + 1 : start + step + 1]
            lengths = ends - offsets[start : start + len(ends)]
            if lengths.dtype.itemsize == 8:
                if int(lengths.max()) > _MAX_LENGTH:
                    raise SourceError(f"column {self._name!r}: a value of 4 GiB or more has no canonical digest")
                lengths = lengths.astype(np.uint32)
            if valid is not None:
                packed = valid[start // 8 : (start + len(ends) + 7) // 8]
                kept = lengths * np.unpackbits(packed, count=len(ends), bitorder="little")
                hidden = hidden or not np.array_equal(kept, lengths)
                lengths = kept.astype(np.uint32)
            self._hash.update(lengths.view(np.uint8).data)
        return hidden

    def digest(self) -> bytes:
        return bytes(self._hash.digest())


def _decoded(array: pa.Array) -> pa.Array:
    return array.dictionary_decode() if pt.is_dictionary(array.type) else pc.run_end_decode(array)


def _unviewed(array: pa.Array) -> pa.Array:
    return array.cast(pa.large_string() if pt.is_string_view(array.type) else pa.large_binary())
