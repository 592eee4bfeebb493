"""The tree over a log's entries: RFC 6962, section 2.1. What a writer keeps of it are the peaks, the roots of the full
subtrees that its size is made of; their number grows with the logarithm of the log."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256


def leaf(line: bytes) -> bytes:
    """The leaf of an entry's line."""
    return sha256(b"\0" + line).digest()


def node(left: bytes, right: bytes) -> bytes:
    """The node over two."""
    return sha256(b"\1" + left + right).digest()


class Tree:
    """A tree that only grows. `peaks`: the largest first."""

    __slots__ = ("peaks", "size")

    def __init__(self, size: int = 0, peaks: Iterable[bytes] = ()) -> None:
        self.size, self.peaks = size, list(peaks)
        if len(self.peaks) != size.bit_count():
            raise ValueError(f"A tree of {size} leaves has {size.bit_count()} peaks, not {len(self.peaks)}.")

    def add(self, line: bytes) -> None:
        """Add the entry of this line."""
        self.grow(sha256(b"\0" + line).digest())

    def grow(self, new: bytes) -> None:
        """Add a leaf."""
        size, peaks = self.size, self.peaks
        while size & 1:
            new = sha256(
                b"\1" + peaks.pop() + new
            ).digest()  # as in `node`: half of what a verifier does is here
            size >>= 1
        peaks.append(new)
        self.size += 1

    def root(self) -> bytes:
        """The root as it stands."""
        if not self.peaks:
            return sha256(b"").digest()
        root = self.peaks[-1]
        for peak in self.peaks[-2::-1]:
            root = node(peak, root)
        return root


def split(size: int) -> int:
    """The largest power of two below *size*."""
    return 1 << (size - 1).bit_length() - 1
