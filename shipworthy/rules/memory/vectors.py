"""Vectors as bytes: four that say whose they are, then unit length in float32, little-endian."""

from __future__ import annotations

from collections.abc import Sequence
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from shipworthy.errors import EmbedderError

TAG = 4
"""Bytes that the tag takes."""

_NOT_A_VECTOR = (
    "Give each text a list of finite numbers that are not all zero; look at what the embedder returned."
)


def tag_of(name: str) -> bytes:
    """What the vectors of the embedder of that name begin with."""
    return crc32(name.encode("utf-8", "surrogatepass")).to_bytes(TAG, "little")


def unit(vector: Sequence[float] | NDArray[np.float32]) -> NDArray[np.float32]:
    """*vector* at length 1. Raises EmbedderError if it is empty, zero, or not of finite numbers."""
    try:
        given = np.asarray(vector, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise EmbedderError(f"An embedder gave no vector: {error}.", fix=_NOT_A_VECTOR) from error
    if given.ndim != 1 or not given.size:
        raise EmbedderError(f"An embedder gave a vector of the shape {given.shape}.", fix=_NOT_A_VECTOR)
    largest = float(np.abs(given).max())
    if not 0 < largest < np.inf:  # false for NaN too
        raise EmbedderError("An embedder gave a vector that is zero or not finite.", fix=_NOT_A_VECTOR)
    scaled = given / largest  # so that no square is beyond what a float can be
    return (scaled / np.sqrt(scaled @ scaled)).astype(np.float32)


def packed(vector: Sequence[float] | NDArray[np.float32], name: str) -> bytes:
    """*vector* as a record keeps it, of the embedder of that name. Raises EmbedderError as `unit` does."""
    return tag_of(name) + unit(vector).astype("<f4").tobytes()
