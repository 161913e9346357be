"""The Merkle tree hash of RFC 6962 (section 2.1) over a stream of leaves.

What it does: SHA-256 with the RFC's prefixes (0x00 leaf, 0x01 node), fed leaf by leaf.
What it does not do: proofs (the ledger's mathematics are in ``trust``) or deciding what a leaf says.

Invariants: memory is one hash for each set bit of the number of leaves; the root of no leaves is SHA-256 of nothing.
"""

from __future__ import annotations

import hashlib


class MerkleHasher:
    """Root of the leaves appended so far."""

    def __init__(self) -> None:
        self.n_leaves = 0
        self._peaks: list[bytes] = []

    def append(self, leaf: bytes) -> None:
        """Append one leaf (its data, not its hash)."""
        node = hashlib.sha256(b"\x00" + leaf).digest()
        self.n_leaves += 1
        for _ in range((self.n_leaves & -self.n_leaves).bit_length() - 1):
            node = _join(self._peaks.pop(), node)
        self._peaks.append(node)

    def root(self) -> str:
        """Hex of the tree hash; appending may go on afterwards."""
        if not self._peaks:
            return hashlib.sha256(b"").hexdigest()
        node = self._peaks[-1]
        for peak in reversed(self._peaks[:-1]):
            node = _join(peak, node)
        return node.hex()


def _join(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()
