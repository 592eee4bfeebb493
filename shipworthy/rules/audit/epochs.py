"""The key of an epoch, ready to make macs with; and what a verifier makes of a secret: for one log the keys of all."""

from __future__ import annotations

import hashlib

from shipworthy.domain.audit import EpochKeys
from shipworthy.rules.audit.keys import following
from shipworthy.rules.audit.signatures import public_of

_BLOCK, _SIZE = 64, 32
_INNER, _OUTER = bytes([n ^ 0x36 for n in range(256)]), bytes([n ^ 0x5C for n in range(256)])
MAC = b',"mac":"'
TAIL = 74
"""Bytes of a line from MAC on."""


class Stamp:
    """One key, ready: the two halves of HMAC are begun once (RFC 2104, section 4)."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes) -> None:
        padded = key.ljust(_BLOCK, b"\0")
        self._inner = hashlib.sha256(padded.translate(_INNER))
        self._outer = hashlib.sha256(padded.translate(_OUTER))

    def of(self, plain: bytes) -> str:
        """The mac of this."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(plain)
        outer.update(inner.digest())
        return outer.hexdigest()

    def is_right(self, line: bytes) -> bool:
        """Whether the line's mac is right under this key."""
        if line[-TAIL:-66] != MAC or line[-2:] != b'"}':
            return False
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(line[:-TAIL] + b"}")
        outer.update(inner.digest())
        return line[-66:-2] == outer.hexdigest().encode()


class Epochs:
    """A secret's keys for one log. Each is made once, and takes 32 bytes."""

    def __init__(self, secret: EpochKeys, log: str) -> None:
        self.id = secret.id
        self.signer = public_of(secret.seed(log)).hex()
        self._keys = bytearray(secret.epoch(log, 0))
        self._stamps: dict[int, Stamp] = {}

    def key(self, number: int) -> bytes:
        """The key of an epoch."""
        keys, end = self._keys, (number + 1) * _SIZE
        while len(keys) < end:
            keys += following(bytes(keys[-_SIZE:]))
        return bytes(keys[end - _SIZE : end])

    def made_to(self, number: int) -> int:
        """How many keys are to be made before there is that of this epoch."""
        return number + 1 - len(self._keys) // _SIZE

    def stamp(self, number: int) -> Stamp:
        """The same, ready."""
        found = self._stamps.get(number)
        if found is None:
            if len(self._stamps) >= 4:
                self._stamps.clear()
            found = self._stamps[number] = Stamp(self.key(number))
        return found
