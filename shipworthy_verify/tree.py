"""The tree of RFC 6962: its root as it grows, and the paths of its proofs."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

_LEAF, _NODE = sha256(b"\0"), sha256(b"\1")  # copies of these are cheaper than new ones


def leaf(line: bytes) -> bytes:
    """Give the hash of an entry's line."""
    state = _LEAF.copy()
    state.update(line)
    return state.digest()


def node(left: bytes, right: bytes) -> bytes:
    """Give the hash of a pair of nodes."""
    state = _NODE.copy()
    state.update(left + right)
    return state.digest()


def fold(peaks: Sequence[bytes]) -> bytes:
    """Give the root of the full subtrees, the largest first."""
    root = peaks[-1]
    for peak in reversed(peaks[:-1]):
        root = node(peak, root)
    return root


def included(line: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """Give the root to which an audit path leads (RFC 9162, 2.1.3.2), or None where it does not fit."""
    place, last, found = index, size - 1, leaf(line)
    for other in path:
        if last == 0:
            return None
        if place & 1 or place == last:
            found = node(other, found)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            found = node(found, other)
        place, last = place >> 1, last >> 1
    return found if last == 0 else None


def extends(old: bytes, old_size: int, new: bytes, new_size: int, path: Sequence[bytes]) -> bool:
    """Check the path of a consistency proof (RFC 9162, 2.1.4.2; the proof is that of RFC 6962)."""
    if old_size == new_size:
        return not path and old == new
    nodes = [old, *path] if old_size & (old_size - 1) == 0 else list(path)
    if not nodes:
        return False
    place, last = old_size - 1, new_size - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    first = second = nodes[0]
    for other in nodes[1:]:
        if last == 0:
            return False
        if place & 1 or place == last:
            first, second = node(other, first), node(other, second)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            second = node(second, other)
        place, last = place >> 1, last >> 1
    return last == 0 and first == old and second == new
