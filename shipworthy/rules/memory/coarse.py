"""Vectors at four bits a dimension, for partitions that are too large to have them whole in memory.

Each dimension is brought to its mean and spread among the first vectors, and cut into sixteen steps, as wide as errs
least for what is normally distributed (Max, "Quantizing for minimum distortion", IRE Trans. IT-6, 1960). A cosine that
is made of that is a few thousandths off: it says which vectors are worth being read, and those are measured exactly.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

STEP = 0.335
"""Of a dimension's spread; sixteen of them reach to two and a half spreads on each side."""
LEAST_SPREAD = 0.2
"""Of what the spread of a dimension is if all have the same: the first vectors may be alike and later ones not."""
AT_ONCE = 2048
"""Vectors that are measured at once, so that what is unpacked stays in the processor's cache."""

Codes = NDArray[np.uint8]
Vectors = NDArray[np.float32]


class Coarse:
    """How vectors like *first* are written in codes, two dimensions a byte."""

    def __init__(self, first: Vectors) -> None:
        self._mean = first.mean(axis=0, dtype=np.float64).astype(np.float32)
        spread = first.std(axis=0, dtype=np.float64)
        least = LEAST_SPREAD / np.sqrt(first.shape[1])
        self._step = (STEP * np.maximum(spread, least)).astype(np.float32)

    def codes(self, vectors: Vectors) -> Codes:
        """Rows of bytes."""
        levels = np.floor((vectors - self._mean) / self._step) + 8
        whole = np.zeros((len(vectors), width(vectors.shape[1]) * 2), np.uint8)
        whole[:, : vectors.shape[1]] = np.clip(levels, 0, 15)
        made: Codes = np.bitwise_or(whole[:, 0::2] << 4, whole[:, 1::2], dtype=np.uint8)
        return made

    def cosines(self, codes: Codes, vector: Vectors) -> NDArray[np.float32]:
        """About the cosine of each row with *vector*."""
        weights = np.zeros(2 * codes.shape[1], np.float32)
        weights[: len(vector)] = vector * self._step
        high, low = np.ascontiguousarray(weights[0::2]), np.ascontiguousarray(weights[1::2])
        found = np.empty(len(codes), np.float32)
        for at in range(0, len(codes), AT_ONCE):
            some = codes[at : at + AT_ONCE]
            found[at : at + AT_ONCE] = (some >> 4).astype(np.float32) @ high
            found[at : at + AT_ONCE] += (some & 15).astype(np.float32) @ low
        found += np.float32(self._mean @ vector - 7.5 * weights.sum())
        return found


def width(dimensions: int) -> int:
    """Bytes that a vector's code takes."""
    return (dimensions + 1) // 2


def with_beside(rows: Collection[int], among: NDArray[np.intp] | None, count: int, reach: int) -> list[int]:
    """*rows*, and those up to *reach* before and after each of them *among* some, or among all *count*."""
    found = np.array(sorted(rows), np.intp)
    places = found if among is None else np.searchsorted(among, found)
    beside = (places[:, None] + np.arange(-reach, reach + 1)).ravel()
    beside = beside[(beside >= 0) & (beside < (count if among is None else len(among)))]
    both: list[int] = np.union1d(found, beside if among is None else among[beside]).tolist()
    return both
