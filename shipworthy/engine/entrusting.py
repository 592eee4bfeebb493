"""Taking along what a store vouches for when its runs are brought to another one: the keys that it signed with, and
what people said yes to beyond one run.

Keys are copied, all of them, whichever tenant is asked for, since they are no tenant's: there they verify what was
signed here, and sign nothing. Whoever has one of them can sign for every tenant of both stores until it is dropped, in
either; so rotate where that is not meant, and a key that was dropped there stays dropped.

Grants are moved, like runs that go on, so that taking one back takes effect: they are written there, then revoked here.
What is revoked there meanwhile does not come back.
"""

from __future__ import annotations

from collections.abc import Sequence

from shipworthy.domain.grants import Grant
from shipworthy.domain.scope import Operator, Scope
from shipworthy.errors import StoreError
from shipworthy.ports.store import Store

_OPERATOR = Operator("shipworthy runs migrate")


class Entrusting:
    """From one store to another; of one *tenant*, or of all (None)."""

    def __init__(self, source: Store, destination: Store, *, tenant: str | None) -> None:
        self._source, self._destination, self._tenant = source, destination, tenant

    async def work(self) -> int:
        """Bring keys and grants over. Gives how many grants were moved; one that the destination cannot spell stays, as
        the runs of its user do. Raises StoreError."""
        await self._destination.adopt(_OPERATOR, await self._source.signing_keys())
        total, after = 0, 0
        while page := await self._source.everyones_grants(_OPERATOR, after):
            after = page[-1][0]
            asked_for = [grant for _, grant in page if self._tenant in (None, grant.tenant)]
            for grant in await self._there(asked_for):
                total += await self._source.revoke(Scope(grant.tenant), grant.id)
        return total

    async def _there(self, grants: Sequence[Grant]) -> Sequence[Grant]:
        """Those that the destination took."""
        if not grants:
            return ()
        try:
            await self._destination.adopt(_OPERATOR, (), grants)
        except StoreError as error:
            if type(error) is not StoreError:
                raise
            if len(grants) == 1:
                return ()
            return [kept for grant in grants for kept in await self._there([grant])]
        return grants
