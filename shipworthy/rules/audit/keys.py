"""The keys of an audit log, as docs/reference/audit-format.md derives them."""

from __future__ import annotations

import hmac

from shipworthy.errors import ConfigurationError

SHORTEST = 16
"""Characters that a secret has at least."""
_AT_HAND = 1024
"""Epochs whose keys a secret keeps at hand."""
_RANDOM_ENOUGH = 6


def mac(key: bytes, *parts: bytes) -> bytes:
    """HMAC-SHA256 of the parts, one after the other."""
    return hmac.digest(key, b"".join(parts), "sha256")


def following(key: bytes) -> bytes:
    """The key of the next epoch; there is no way back."""
    return mac(key, b"shipworthy audit next v1")


class Secret:
    """The keys of a secret, those of every epoch."""

    sealed = False
    log = None

    def __init__(self, text: str) -> None:
        if not isinstance(text, str) or len(text) < SHORTEST or len(set(text)) < _RANDOM_ENOUGH:
            raise ConfigurationError(
                f"An audit log's secret is a text of at least {SHORTEST} characters, and not of a few that repeat.",
                fix="Make one with `shipworthy audit keys new`, and keep it where only writers and verifiers read it.",
            )
        try:
            self._root = mac(b"shipworthy audit root v1", text.encode())
        except UnicodeEncodeError:
            raise ConfigurationError(
                "An audit log's secret is not valid Unicode.",
                fix="Make one with `shipworthy audit keys new`.",
            ) from None
        self.id = mac(self._root, b"shipworthy audit id v1").hex()[:16]
        self._keys: dict[tuple[str, int], bytes] = {}

    def __repr__(self) -> str:
        return f"<Secret {self.id}>"

    def epoch(self, log: str, number: int) -> bytes:
        """The key of an epoch: from the nearest one before it that is at hand."""
        key = self._keys.get((log, number))
        if key is not None:
            return key
        earlier = [at for of, at in self._keys if of == log and at < number]
        at = max(earlier, default=-1)
        if at < 0:
            at, key = 0, mac(self._root, b"shipworthy audit epoch v1", bytes.fromhex(log))
        else:
            key = self._keys[log, at]
        for _ in range(number - at):
            key = following(key)
        if len(self._keys) >= _AT_HAND:
            self._keys = {}  # from this one on, the way to later ones is as short as before
        self._keys[log, number] = key
        return key

    def seed(self, log: str) -> bytes:
        """The seed of the key that signs this log's checkpoints."""
        return mac(self._root, b"shipworthy audit signer v1", bytes.fromhex(log))

    def over(self, log: str, number: int) -> None:
        """A secret has the keys of every epoch."""
