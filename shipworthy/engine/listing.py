"""All runs of a listing, page by page."""

from __future__ import annotations

from collections.abc import AsyncIterator

from shipworthy.domain.events import RunStatus
from shipworthy.domain.journal import RunFilter, RunSummary
from shipworthy.domain.scope import Scope
from shipworthy.ports.store import Store

PAGE = 200


async def listed(
    store: Store, scope: Scope, status: RunStatus | None = None, *, nested: bool = False
) -> AsyncIterator[RunSummary]:
    """The runs of a tenant, or of its user, newest first, each once; with *nested*, those too. Raises StoreError.

    A page ends between two times of starting: what started in one millisecond with its last run comes with the next
    one, and where that brings nothing new, the page is too small for those that started at once.
    """
    seen: set[str] = set()
    before: int | None = None
    size = PAGE
    while True:
        page = await store.list(scope, RunFilter(status, size, before, nested))
        fresh = [run for run in page if run.run_id not in seen]
        for run in fresh:
            seen.add(run.run_id)
            yield run
        if len(page) < size:
            return
        size = size if fresh else size * 2
        before = page[-1].started_at + 1
