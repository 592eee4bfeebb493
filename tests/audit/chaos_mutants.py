"""Deliberately broken ways of entering what runs do."""

from __future__ import annotations

from typing import Any

from shipworthy.domain.events import ToolAttempted
from shipworthy.engine.auditing import Witness


async def _after_the_commit(self: Any, fence: Any, batch: Any) -> Any:
    outcomes = await self._store.commit(fence, batch)
    drafts, self._late = self._drafts(batch.events, fence.token), ()
    await self.log.append(drafts)
    return outcomes


async def _after_the_effect(self: Any, fence: Any, batch: Any) -> Any:
    drafts, self._late = self._drafts(batch.events, fence.token), ()
    if type(batch.events[-1]) is ToolAttempted:
        self._late = tuple(batch.events)
    else:
        await self.log.append(drafts)
    return await self._store.commit(fence, batch)


def install(name: str) -> None:
    """Break this process, and those that are forked of it. "unlinked": of a log in the journal's own file."""
    if name in ("after_the_commit", "unlinked"):
        Witness.commit = _after_the_commit  # type: ignore[method-assign]
    elif name == "after_the_effect":
        Witness.commit = _after_the_effect  # type: ignore[method-assign]
    elif name == "without_the_first":
        Witness.of_first = lambda self, event, token: None  # type: ignore[method-assign]
        Witness.resumed = lambda self, state, appended: self  # type: ignore[method-assign]
    elif name:
        raise ValueError(name)
