"""Forgetting what bodies of audit logs say, in the tables that keep them: page by page, so that a large log takes no
more memory than a small one, and without a key."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from typing import Any, Protocol

from shipworthy.domain.audit import Entry
from shipworthy.domain.scope import Scope
from shipworthy.rules.erasing import concerns

Do = Callable[[Callable[[Any], Any]], Awaitable[Any]]
"""Has work done with a cursor, or a session."""


class Forgettable(Protocol):
    """What there is of `Tables` to forget with."""

    def logs(self, on: Any, /) -> list[tuple[int, str]]: ...
    def matching(
        self, on: Any, /, key: int, start: int, match: Callable[[Entry], bool]
    ) -> tuple[list[int], int | None]: ...
    def erase(self, on: Any, /, key: int, numbers: Sequence[int]) -> None: ...


async def forgotten(
    tables: Forgettable, key: int, match: Callable[[Entry], bool], *, read: Do, write: Do
) -> int:
    """Forget bodies and salts of a log's entries that match. How many. Interrupted, it may be done again."""
    gone, at = 0, 0
    while True:
        numbers, after = await read(partial(tables.matching, key=key, start=at, match=match))
        if numbers:
            await write(partial(tables.erase, key=key, numbers=numbers))
            gone += len(numbers)
        if after is None:
            return gone
        at = after


async def forgotten_of(
    tables: Forgettable, scope: Scope, run_ids: Collection[str], *, read: Do, write: Do
) -> Sequence[str]:
    """Forget them of the scope's entries in every log that is kept there; what these logs are called."""
    match = partial(concerns, scope, frozenset(run_ids))
    logs = await read(tables.logs)
    for key, _ in logs:
        await forgotten(tables, key, match, read=read, write=write)
    return tuple([name for _, name in logs])
