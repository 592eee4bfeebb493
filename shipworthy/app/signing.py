"""Signing keys that a team sets, in place of those that a store makes by itself."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from shipworthy.domain.grants import SigningKey
from shipworthy.errors import ConfigurationError
from shipworthy.rules.text import clean

SHORTEST = 32
"""Bytes that a key has at least: those of SHA-256."""
SigningKeys = Sequence[str | bytes]
_FIX = (
    "Pass a list of secrets, newest first, each of at least 32 bytes: signing_keys=[os.environ[...]]. "
    'python -c "import secrets; print(secrets.token_urlsafe(32))" makes one.'
)


def keys_of(given: Any) -> tuple[SigningKey, ...]:
    """What `signing_keys=` says: the first one signs, all of them verify. A key's name is the first 12 hexadecimal
    digits of its SHA-256. Raises ConfigurationError, which quotes no secret."""
    if isinstance(given, (str, bytes)) or not isinstance(given, Sequence):
        raise ConfigurationError(f"signing_keys= is a {type(given).__name__}, not a list.", fix=_FIX)
    made: list[SigningKey] = []
    for number, each in enumerate(given, 1):
        secret = _secret(each)
        if secret is None or len(secret) < SHORTEST:
            what = f"a {type(each).__name__}" if secret is None else f"{len(secret)} bytes long"
            raise ConfigurationError(f"Key {number} of signing_keys= is {what}.", fix=_FIX)
        made.append(SigningKey(hashlib.sha256(secret).hexdigest()[:12], secret, 0))
    if len({key.id for key in made}) < len(made):
        raise ConfigurationError("signing_keys= has a key twice.", fix="Leave the second one out.")
    return tuple(made)


def _secret(given: Any) -> bytes | None:
    """The key's bytes; None for what is no text and no bytes."""
    if isinstance(given, str):
        return given.encode() if clean(given) == given else None
    return given if isinstance(given, bytes) else None
