"""Reading, in the SQL that the databases have in common: whatever the store, a question is a statement and its values.

`ask` gives one statement's rows, of one snapshot; placeholders are question marks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, ClassVar, TypeVar

from shipworthy.adapters.shared.entries import PAGE, demand, no_such_run
from shipworthy.adapters.shared.grants import grant_of
from shipworthy.domain.events import AnyEvent
from shipworthy.domain.grants import Grant
from shipworthy.domain.journal import RunFilter, RunSummary
from shipworthy.domain.scope import Operator, Scope
from shipworthy.errors import JournalDamaged
from shipworthy.rules.codec import decode_events

T = TypeVar("T")
Ask = Callable[[str, Sequence[Any]], list[Any]]

SUMMARY = 'SELECT tenant, "user", session, run_id, status, started_at, updated_at, head, wake_at, root, key FROM runs'
_FIND = f"{SUMMARY} WHERE tenant = ? AND run_id = ?"
_EVERYTHING = f"{SUMMARY} WHERE key > ? ORDER BY key LIMIT ?"
_DUE = f"{SUMMARY} WHERE status = 'paused' AND wake_at <= ? AND root IS NULL ORDER BY wake_at, key LIMIT ? OFFSET ?"
_GRANTS = """SELECT data FROM grants
WHERE tenant = ? AND "user" = ? AND NOT revoked AND expires_at > {now} ORDER BY nth"""
_EVERYONES = (
    "SELECT nth, data FROM grants WHERE nth > ? AND NOT revoked AND expires_at > {now} ORDER BY nth LIMIT ?"
)
KEYS = "SELECT id, secret, made_at FROM signing_keys WHERE secret IS NOT NULL ORDER BY nth DESC"
"""The keys that are in use, newest first."""
UNNEEDED = """(root IS NULL OR NOT EXISTS (SELECT 1 FROM runs AS o
WHERE o.tenant = runs.tenant AND o.run_id = runs.root AND o.status IN ('running', 'paused')))"""
"""No run that has not ended goes on with what this one gave."""
_BODY = """SELECT b.data FROM runs AS r LEFT JOIN bodies AS b ON b.run = r.key AND b.digest = ?
WHERE r.tenant = ? AND r.run_id = ?"""
_SESSION = """SELECT run_id FROM runs WHERE tenant = ? AND "user" IS NOT DISTINCT FROM ? AND session = ?
AND position IS NOT NULL ORDER BY position LIMIT ?"""


class Reads:
    """The half of a store that only reads. `_history` asks for head, first and events of the batches that reach beyond
    an event (`after`, tenant, run id); of a run that is there it gives at least one row. `_now`: the time in
    milliseconds, in SQL."""

    _history: ClassVar[str]
    _now: ClassVar[str]

    def _asked(self, whose: Scope | Operator, work: Callable[[Ask], T]) -> Awaitable[T]:
        """Do *work* on a thread that may read what is the tenant's; of every tenant, for an operator."""
        raise NotImplementedError

    async def read(self, scope: Scope, run_id: str, after: int = 0) -> list[AnyEvent]:
        """The run's events above *after*, in order. Raises RunNotFound, UnknownEvent, JournalDamaged."""
        return await self._asked(scope, lambda ask: history(ask, self._history, scope, run_id, after))

    async def body(self, scope: Scope, run_id: str, digest: str) -> bytes:
        """A body of the run. Raises RunNotFound, JournalDamaged."""
        return await self._asked(scope, lambda ask: _body(ask, scope, run_id, digest))

    async def find(self, scope: Scope, run_id: str) -> RunSummary:
        """One run of the tenant. Raises RunNotFound."""
        return await self._asked(scope, lambda ask: _find(ask, scope, run_id))

    async def list(self, scope: Scope, which: RunFilter) -> Sequence[RunSummary]:
        """Runs of the scope, newest first."""
        return await self._asked(scope, lambda ask: _listing(ask, scope, which))

    async def session(self, scope: Scope, head: int | None = None) -> Sequence[str]:
        """A session's ended runs in the order of their ends, the first *head* of them (None: all)."""
        last = head if head is not None else 2**31 - 1
        values = (scope.tenant, scope.user, scope.session, last)
        return await self._asked(scope, lambda ask: [run_id for (run_id,) in ask(_SESSION, values)])

    async def everything(self, operator: Operator, after: int = 0) -> Sequence[tuple[int, RunSummary]]:
        """A page of the runs of every tenant, in the order in which they were begun, each with its place."""
        demand(operator)
        found = await self._asked(operator, lambda ask: ask(_EVERYTHING, (after, PAGE)))
        return [(row[-1], summary(row)) for row in found]

    async def due(self, operator: Operator, now: int, skip: int = 0) -> Sequence[RunSummary]:
        """Some of the paused runs of every tenant that are due, the longest due first."""
        demand(operator)
        return [summary(row) for row in await self._asked(operator, lambda ask: ask(_DUE, (now, PAGE, skip)))]

    async def grants(self, scope: Scope) -> Sequence[Grant]:
        """What is remembered for the scope's user."""
        if scope.user is None:
            return ()
        query, whose = _GRANTS.format(now=self._now), (scope.tenant, scope.user)
        return [grant_of(data) for (data,) in await self._asked(scope, lambda ask: ask(query, whose))]

    async def everyones_grants(self, operator: Operator, after: int = 0) -> Sequence[tuple[int, Grant]]:
        """A page of the grants in force of every tenant, each with its place."""
        demand(operator)
        query = _EVERYONES.format(now=self._now)
        found = await self._asked(operator, lambda ask: ask(query, (after, PAGE)))
        return [(nth, grant_of(data)) for nth, data in found]


def history(ask: Ask, query: str, scope: Scope, run_id: str, after: int) -> list[AnyEvent]:
    """The run's events above *after*, without a gap up to its head. Raises JournalDamaged, UnknownEvent."""
    found = ask(query, (after, scope.tenant, run_id))
    if not found:
        raise no_such_run(scope, run_id)
    head = found[0][0]
    batches = [data for _, first, data in found if first is not None]
    events = [event for data in batches for event in decode_events(data) if event.seq > after]
    if [event.seq for event in events] != list(range(max(after, 0) + 1, head + 1)):
        raise JournalDamaged(f"The journal of run {run_id!r} has a gap: its {head} events are not all there.")
    return events


def _body(ask: Ask, scope: Scope, run_id: str, digest: str) -> bytes:
    found = ask(_BODY, (digest, scope.tenant, run_id))
    if not found:
        raise no_such_run(scope, run_id)
    if found[0][0] is None:
        raise JournalDamaged(f"Run {run_id!r} refers to a body {digest[:12]} that is not stored.")
    return bytes(found[0][0])


def _find(ask: Ask, scope: Scope, run_id: str) -> RunSummary:
    found = ask(_FIND, (scope.tenant, run_id))
    if not found:
        raise no_such_run(scope, run_id)
    return summary(found[0])


def _listing(ask: Ask, scope: Scope, which: RunFilter) -> list[RunSummary]:
    wanted = {
        "tenant = ?": scope.tenant,
        '"user" = ?': scope.user,
        "session = ?": scope.session,
        "status = ?": which.status,
        "started_at < ?": which.before,
    }
    given = {condition: value for condition, value in wanted.items() if value is not None}
    outermost = "" if which.nested else " AND root IS NULL"
    query = f"{SUMMARY} WHERE {' AND '.join(given)}{outermost} ORDER BY started_at DESC, key DESC LIMIT ?"
    return [summary(row) for row in ask(query, (*given.values(), which.limit))]


def summary(row: Sequence[Any]) -> RunSummary:
    """A row of SUMMARY."""
    tenant, user, session, run_id, status, started_at, updated_at, head, wake_at, root, _ = row
    times = (started_at, updated_at)
    return RunSummary(Scope(tenant, user, session), run_id, status, *times, head, wake_at, root)
