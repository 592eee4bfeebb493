"""Keys that a store makes by itself."""

from __future__ import annotations

import os
import time

from shipworthy.domain.grants import SigningKey

_SIZE = 32


def new_key() -> SigningKey:
    """A key that nobody else has."""
    return SigningKey(os.urandom(6).hex(), os.urandom(_SIZE), time.time_ns() // 1_000_000)
