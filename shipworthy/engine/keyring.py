"""The keys with which one store's approvals and checkpoints are signed: those that were given, or the store's own."""

from __future__ import annotations

from collections.abc import Sequence

from shipworthy.domain.grants import SigningKey
from shipworthy.ports.store import Store


class Keyring:
    """Signs with the first key, and verifies with all of them. *given* are in place of the store's own."""

    __slots__ = ("_given", "_known", "_store")

    def __init__(self, store: Store, given: Sequence[SigningKey] = ()) -> None:
        self._store, self._given = store, tuple(given)
        self._known: tuple[SigningKey, ...] = self._given

    @property
    def own(self) -> bool:
        """Whether nobody set keys, so that they lie in the store itself."""
        return not self._given

    async def newest(self) -> SigningKey:
        """The key to sign with; another process may have made a newer one. Raises StoreError."""
        if not self._given:
            self._known = tuple(await self._store.signing_keys())
        return self._known[0]

    async def all(self, name: str) -> Sequence[SigningKey]:
        """The keys to verify with, that of this *name* among them if there is one. Raises StoreError."""
        if not self._given and name not in [key.id for key in self._known]:
            self._known = tuple(await self._store.signing_keys())
        return self._known
