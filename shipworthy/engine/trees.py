"""Which nested runs belong to each run of a store: they are brought to another one together."""

from __future__ import annotations

from collections.abc import AsyncIterator

from shipworthy.domain.journal import RunSummary
from shipworthy.domain.scope import Operator, Scope
from shipworthy.errors import RunNotFound
from shipworthy.ports.store import Store

_OPERATOR = Operator("shipworthy runs migrate")
Key = tuple[str, str]


async def everything(store: Store, tenant: str | None = None) -> AsyncIterator[RunSummary]:
    """Every run of the store, or of one tenant, in the order in which they were begun."""
    after = 0
    while page := await store.everything(_OPERATOR, after):
        after = page[-1][0]
        for _, run in page:
            if tenant in (None, run.scope.tenant):
                yield run


class Trees:
    """The nested runs of a store, or of one tenant of it."""

    def __init__(self, store: Store, tenant: str | None) -> None:
        self._store, self._tenant = store, tenant
        self._nested: dict[Key, list[str]] = {}
        self._events: dict[Key, int] = {}

    async def look(self) -> None:
        """Go through the store. Of a run that is driven meanwhile, nested runs may be missed: `of` looks again."""
        self._nested, self._events = {}, {}
        async for run in everything(self._store, self._tenant):
            if run.root is not None:
                self._nested.setdefault((run.scope.tenant, run.root), []).append(run.run_id)
            elif run.status in ("running", "paused"):
                self._events[key_of(run)] = run.events

    async def of(self, root: RunSummary) -> list[RunSummary]:
        """All runs that are nested in this one, however deep; none for a nested one. Nobody else drives it."""
        if root.root is not None:
            return []
        if root.status in ("running", "paused") and self._events.get(key_of(root)) != root.events:
            await self.look()
        scope = Scope(root.scope.tenant)
        return [await self._store.find(scope, each) for each in self._nested.get(key_of(root), ())]

    async def root_of(self, run: RunSummary) -> RunSummary | None:
        """The run that a nested one belongs to, as long as that may go on with it here."""
        if run.root is None:
            return None
        try:
            root = await self._store.find(Scope(run.scope.tenant), run.root)
        except RunNotFound:
            return None
        return root if root.status in ("running", "paused") else None


def key_of(run: RunSummary) -> Key:
    """What a run is known by in the whole store."""
    return run.scope.tenant, run.run_id
