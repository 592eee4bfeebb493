"""One text for one configuration: what a policy's version is made of."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec


def digest_of(value: Any) -> str:
    """Sixteen hexadecimal digits that are the same for the same data, whatever the order of its keys."""
    return hashlib.sha256(msgspec.json.encode(value, order="deterministic")).hexdigest()[:16]
