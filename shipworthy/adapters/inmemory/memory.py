"""The memory store in memory: the same laws without durability, bounded, for one process."""

from __future__ import annotations

import secrets
import threading
import time
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import msgspec

from shipworthy.adapters.shared.entries import demand
from shipworthy.adapters.shared.limits import at_least_one, cut, refuse
from shipworthy.domain.memory import NOWHERE, Changes, Entry, Erased, Kind, Mark, Record, Stamp
from shipworthy.domain.scope import Operator, Scope
from shipworthy.errors import ConfigurationError, MemoryConflict, MemoryFull

AT_ONCE = 16
"""A full partition makes room for a part of its bound at once, this one, for its index is made again each time."""

T = TypeVar("T")
Owner = tuple[str, str | None]


class _Series(Generic[T]):
    """Values by numbers that only grow. Those after a number are found without looking at the ones before."""

    def __init__(self) -> None:
        self.last = 0
        self.held: dict[int, T] = {}
        self._numbers: list[int] = []

    def add(self, value: T) -> int:
        self.last += 1
        self.held[self.last] = value
        self._numbers.append(self.last)
        return self.last

    def drop(self, number: int) -> None:
        del self.held[number]
        if len(self._numbers) > 2 * len(self.held) + 16:
            self._numbers = list(self.held)

    def after(self, number: int, limit: int) -> list[tuple[int, T]]:
        found: list[tuple[int, T]] = []
        for index in range(bisect_right(self._numbers, number), len(self._numbers)):
            if len(found) >= limit:
                break
            if (at := self._numbers[index]) in self.held:
                found.append((at, self.held[at]))
        return found


class _Part:
    """A partition: its records by `n`, and the `n` of each id."""

    def __init__(self, scope: Scope, place: int) -> None:
        self.scope, self.place = scope, place
        self.used = 0.0
        self.epoch = _new_epoch()
        self.records: _Series[Record] = _Series()
        self.numbers: dict[str, int] = {}

    @property
    def mark(self) -> Mark:
        return Mark(self.epoch, self.records.last)

    def write(self, record: Record) -> None:
        self.drop(record.id)
        written = msgspec.structs.replace(record, n=self.records.last + 1)
        self.numbers[record.id] = self.records.add(written)

    def drop(self, id: str) -> bool:
        number = self.numbers.pop(id, None)
        if number is not None:
            self.records.drop(number)
        return number is not None


class _User:
    """The partitions of a tenant's user, or the tenant's own: their own, and those of their sessions, of which the one
    that was idle for longest is the first."""

    def __init__(self) -> None:
        self.own: _Part | None = None
        self.sessions: OrderedDict[str, _Part] = OrderedDict()

    @property
    def parts(self) -> list[_Part]:
        own = [] if self.own is None else [self.own]
        return [*own, *self.sessions.values()]


class InMemoryMemoryStore:
    """Records of at most *max_users* users (of a tenant each; what is the tenant's own counts as one), and of at most
    *max_sessions* sessions of each, for as long as the process lives. Safe for the event loops of several threads.

    The user who was idle for longest makes room for a new one and is forgotten whole; of a user's sessions, the one
    that was idle for longest makes room. A session that was idle for *idle_ttl* seconds is forgotten, and so is a user
    of whom nothing was used for so long. In a partition that has *max_records* records the oldest episodes make room
    for new ones; facts and blocks stay, and where only those are left, a new one is refused with MemoryFull. *clock*
    counts seconds.
    """

    def __init__(
        self,
        *,
        max_users: int = 100_000,
        max_sessions: int = 1_000,
        idle_ttl: float = 86_400.0,
        max_records: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        bounds = {
            "max_users": max_users,
            "max_sessions": max_sessions,
            "idle_ttl": idle_ttl,
            "max_records": max_records,
        }
        for bound, value in bounds.items():
            if not value > 0:
                raise ConfigurationError(f"{bound} is {value}.", fix=f"Give a {bound} above 0.")
        self._max_users, self._max_sessions = max_users, max_sessions
        self._idle_ttl, self._max_records = idle_ttl, max_records
        self._clock = clock
        self._idle: OrderedDict[int, _Part] = OrderedDict()  # by place, idle for longest first
        self._users: OrderedDict[Owner, _User] = OrderedDict()  # idle for longest first
        self._tenants: dict[str, dict[str | None, _User]] = {}
        self._places: _Series[_Part] = _Series()
        self._stamp: Stamp | None = None
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        return "memory"

    async def open(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing to close: what is in memory stays until the store is dropped."""

    async def stamp(self, wanted: Stamp, *, replace: bool = False) -> Stamp:
        with self._lock:
            if self._stamp is None or replace:
                self._stamp = wanted
            return self._stamp

    # a partition

    async def put(
        self, scope: Scope, records: Sequence[Record], *, replace: bool = False, at: Mark | None = None
    ) -> Mark:
        refuse(scope, records)
        with self._lock:
            part = self._find(scope)
            if at is not None and at != (NOWHERE if part is None else part.mark):
                raise MemoryConflict("Somebody else wrote to this partition meanwhile.")
            known = {} if part is None else part.numbers
            writing = _once(records, replace, known)
            added = sum(id not in known for id in writing)
            crowded = self._crowding(part, added, writing)
            if writing:
                part = part or self._make(scope)
                self._forget(part, crowded)
                for record in writing.values():
                    part.write(record)
            return NOWHERE if part is None else part.mark

    async def get(self, scope: Scope, ids: Sequence[str]) -> list[Record]:
        with self._lock:
            part = self._find(scope)
            if part is None:
                return []
            return [part.records.held[part.numbers[id]] for id in ids if id in part.numbers]

    async def changes(self, scope: Scope, since: Mark, limit: int = 1000) -> Changes:
        limit = at_least_one(limit)
        with self._lock:
            part = self._find(scope)
            if part is None:
                return Changes([], NOWHERE, reset=since != NOWHERE, more=False)
            reset = since.epoch != part.epoch or since.n > part.records.last
            found = part.records.after(0 if reset else since.n, limit + 1)
            entries, more = cut([_entry(record) for _, record in found], limit)
            mark = Mark(part.epoch, entries[-1].n) if more else part.mark
            return Changes(entries, mark, reset, more)

    async def page(
        self, scope: Scope, after: int = 0, limit: int = 200, kind: Kind | None = None
    ) -> list[Record]:
        with self._lock:
            part = self._find(scope)
            if part is None:
                return []
            every = part.records.after(after, limit if kind is None else len(part.numbers))
            return [record for _, record in every if kind in (None, record.kind)][:limit]

    async def remove(self, scope: Scope, ids: Sequence[str]) -> int:
        with self._lock:
            part = self._find(scope)
            removed = 0 if part is None else self._forget(part, ids)
            if part is not None and not part.numbers:
                self._drop(part)
            return removed

    # all of them

    async def within(self, scope: Scope) -> list[Scope]:
        with self._lock:
            return [part.scope for part in self._covered(scope)]

    async def erase(self, scope: Scope) -> Erased:
        with self._lock:
            covered = self._covered(scope)
            for part in covered:
                self._drop(part)
            return Erased(sum(len(part.numbers) for part in covered))

    async def everything(
        self, operator: Operator, after: str = "", limit: int = 500
    ) -> list[tuple[str, Scope]]:
        demand(operator)
        with self._lock:
            self._expire()
            found = self._places.after(int(after or 0), limit)
            return [(f"{place:020}", part.scope) for place, part in found]

    # whose it is: what follows is called under the lock, and the next two say where a scope's records are

    def _owner(self, scope: Scope) -> Owner:
        return scope.tenant, scope.user

    def _session(self, scope: Scope) -> str | None:
        return scope.session

    def _find(self, scope: Scope) -> _Part | None:
        """The scope's partition, if it has records. From now on it is not idle, nor is its user."""
        user = self._use(self._owner(scope))
        if user is None:
            return None
        session = self._session(scope)
        if session is None:
            return user.own
        part = user.sessions.get(session)
        if part is not None:
            user.sessions.move_to_end(session)
            self._touch(part)
        return part

    def _use(self, owner: Owner) -> _User | None:
        """The user, who is not idle from now on: what is their own stays as long as one of their sessions does."""
        self._expire()
        user = self._users.get(owner)
        if user is not None:
            self._users.move_to_end(owner)
            if user.own is not None:
                self._touch(user.own)
        return user

    def _touch(self, part: _Part) -> None:
        part.used = self._clock()
        self._idle[part.place] = part
        self._idle.move_to_end(part.place)

    def _covered(self, scope: Scope) -> list[_Part]:
        """The partitions within a scope, its own among them."""
        if scope.session is not None:
            part = self._find(scope)
            return [] if part is None else [part]
        if scope.user is not None:
            user = self._use(self._owner(scope))
            return [] if user is None else user.parts
        self._expire()
        users = self._tenants.get(self._owner(scope)[0], {})
        return [part for user in users.values() for part in user.parts]

    # room

    def _make(self, scope: Scope) -> _Part:
        """A partition for a scope that has none. Who was idle for longest makes room for a new user, and a session for
        a new one."""
        owner, session = self._owner(scope), self._session(scope)
        user = self._users.get(owner)
        if user is None:
            while len(self._users) >= self._max_users:
                self._drop_user(next(iter(self._users.values())))
            user = self._users[owner] = _User()
            self._tenants.setdefault(owner[0], {})[owner[1]] = user
        part = _Part(scope, self._places.last + 1)
        self._places.add(part)
        self._touch(part)
        if session is None:
            user.own = part
        else:
            user.sessions[session] = part
            while len(user.sessions) > self._max_sessions:
                self._drop(next(iter(user.sessions.values())))
        return part

    def _expire(self) -> None:
        """Forget what is idle for too long. Each partition costs one step, once."""
        oldest = self._clock() - self._idle_ttl
        while self._idle and (part := next(iter(self._idle.values()))).used < oldest:
            self._drop(part)

    def _drop_user(self, user: _User) -> None:
        for part in user.parts:
            self._drop(part)

    def _drop(self, part: _Part) -> None:
        """Forget a partition, and its user with the last one."""
        owner, session = self._owner(part.scope), self._session(part.scope)
        user = self._users[owner]
        self._places.drop(part.place)
        del self._idle[part.place]
        if session is None:
            user.own = None
        else:
            del user.sessions[session]
        if user.own is None and not user.sessions:
            del self._users[owner], self._tenants[owner[0]][owner[1]]
            if not self._tenants[owner[0]]:
                del self._tenants[owner[0]]

    def _forget(self, part: _Part, ids: Sequence[str]) -> int:
        """Forget records; how many there were."""
        forgotten = sum([part.drop(id) for id in ids])
        if forgotten:
            part.epoch = _new_epoch()
        return forgotten

    def _crowding(self, part: _Part | None, added: int, writing: dict[str, Record]) -> list[str]:
        """The ids of the oldest episodes, where so many new records need their room. Raises MemoryFull."""
        held = 0 if part is None else len(part.numbers)
        needed = held + added - self._max_records
        if needed <= 0:
            return []
        crowded: list[str] = []
        if part is not None:
            most = max(needed, self._max_records // AT_ONCE)
            for record in part.records.held.values():
                if len(crowded) >= most:
                    break
                if record.kind == "episode" and record.id not in writing:
                    crowded.append(record.id)
        if len(crowded) < needed:
            raise MemoryFull(
                f"A partition of the in-memory store has {self._max_records} records that do not make room.",
                fix="Raise InMemoryMemory(max_records=...), write less at once, or use SqliteMemory.",
            )
        return crowded


def _once(records: Sequence[Record], replace: bool, known: dict[str, int]) -> dict[str, Record]:
    """What is to be written, by id: of an id the first if it is not there, or with *replace* the last."""
    writing: dict[str, Record] = {}
    for record in records:
        if replace:
            writing.pop(record.id, None)
            writing[record.id] = record
        elif record.id not in known:
            writing.setdefault(record.id, record)
    return writing


def _entry(record: Record) -> Entry:
    return Entry(
        record.id,
        record.n,
        record.kind,
        record.at,
        record.weight,
        record.terms,
        record.vector,
        record.data,
    )


def _new_epoch() -> int:
    """Never 0, never one that was before."""
    return secrets.randbelow(2**63 - 1) + 1
