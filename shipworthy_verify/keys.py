"""The keys that come from a secret: its root, its id, the key of each epoch, the signer."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable
from hashlib import sha256

from . import ed25519

Secrets = Iterable[str | bytes]
AHEAD = 2**20  # no key is derived further ahead than so many epochs: a line may claim any number
_KEPT = 64


def make(key: bytes, message: bytes) -> bytes:
    """HMAC-SHA256."""
    return hmac.digest(key, message, "sha256")


def roots(secrets: Secrets) -> dict[str, bytes]:
    """Give the root keys of the secrets, by the ids of their keys."""
    found = {}
    for secret in secrets:
        root = make(b"shipworthy audit root v1", secret.encode() if isinstance(secret, str) else secret)
        found[make(root, b"shipworthy audit id v1").hex()[:16]] = root
    return found


def macs(key: bytes) -> Callable[[bytes], str]:
    """Give the function that makes the macs of lines under a key: HMAC, its two pads hashed once."""
    inner = sha256(bytes(byte ^ 0x36 for byte in key.ljust(64, b"\0")))
    outer = sha256(bytes(byte ^ 0x5C for byte in key.ljust(64, b"\0")))

    def mac(line: bytes) -> str:
        first, second = inner.copy(), outer.copy()
        first.update(line[:-74] + b"}")
        second.update(first.digest())
        return second.hexdigest()

    return mac


class Chain:
    """The keys of a secret for a log. Every 64th is kept: older ones are made from those."""

    def __init__(self, root: bytes, log: str) -> None:
        self._root, self._log = root, bytes.fromhex(log)
        self._kept = [make(root, b"shipworthy audit epoch v1" + self._log)]
        self._last = (0, self._kept[0])

    def key(self, epoch: int) -> bytes:
        """Give the key of an epoch."""
        slot = min(epoch // _KEPT, len(self._kept) - 1)
        at, key = self._last
        if at > epoch or at < slot * _KEPT:
            at, key = slot * _KEPT, self._kept[slot]
        while at < epoch:
            at, key = at + 1, make(key, b"shipworthy audit next v1")
            if at == len(self._kept) * _KEPT:
                self._kept.append(key)
        self._last = (at, key)
        return key

    def made(self, line: bytes, epoch: int, mac: str) -> bool:
        """Whether a line's mac is right under the key of this epoch."""
        return make(self.key(epoch), line[:-74] + b"}").hex() == mac

    def signer(self) -> str:
        """Give the public key of this secret's checkpoints."""
        return ed25519.public_key(make(self._root, b"shipworthy audit signer v1" + self._log))
