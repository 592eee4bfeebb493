"""The keys with which one store's approvals and checkpoints are signed: those that were given, or the store's own."""

from __future__ import annotations

import time
from collections.abc import Sequence

from shipworthy.domain.grants import SigningKey
from shipworthy.ports.store import Store

FRESH = 60.0
"""Seconds for which the store's keys are not read again."""


class Keyring:
    """Signs with the first key, and verifies with all of them. *given* are in place of the store's own."""

    __slots__ = ("_given", "_known", "_read_at", "_store")

    def __init__(self, store: Store, given: Sequence[SigningKey] = ()) -> None:
        self._store, self._given = store, tuple(given)
        self._known: tuple[SigningKey, ...] = self._given
        self._read_at = 0.0

    @property
    def given(self) -> tuple[SigningKey, ...]:
        """The keys that were set, newest first; none where the store has its own."""
        return self._given

    @property
    def own(self) -> bool:
        """Whether nobody set keys, so that they lie in the store itself."""
        return not self._given

    async def newest(self) -> SigningKey:
        """The key to sign with; another process may have made a newer one. Raises StoreError."""
        if not self._given:
            await self._read()
        return self._known[0]

    async def all(self, name: str) -> Sequence[SigningKey]:
        """The keys to verify with, that of this *name* among them if there is one. One that was taken out of the store
        elsewhere is forgotten within FRESH seconds. Raises StoreError."""
        if not self._given and (name not in [key.id for key in self._known] or not self._is_fresh()):
            await self._read()
        return self._known

    async def _read(self) -> None:
        at = time.monotonic()
        self._known, self._read_at = tuple(await self._store.signing_keys()), at

    def _is_fresh(self) -> bool:
        return time.monotonic() - self._read_at < FRESH
