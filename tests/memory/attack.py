"""A directed attack on one store: tenants, users and sessions whose names and ids are alike write, read, replace,
remove and erase in turn, and after each step every partition is exactly what its owner made of it.

It is what kills the mutants of every predicate and every part of a key, so it says nothing of how a store works.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from contextlib import suppress

from shipworthy.domain.memory import NOWHERE, Kind, Mark, Record
from shipworthy.domain.scope import Operator, Scope
from shipworthy.errors import MemoryConflict
from shipworthy.ports.memory import MemoryStore

OPERATOR = Operator("the attack")
LONG = "n" * 500
PATIENCE = 5.0
"""Seconds after which an erasure does not end, where no other time is given."""
TRIP, ALICE, ACME = Scope("acme", "alice", "trip"), Scope("acme", "alice"), Scope("acme")
NEAR = (
    *(Scope("aaa"), Scope("aaa", "alice"), Scope("aaa", "alice", "trip"), Scope("acm", "alice", "trip")),
    *(
        Scope("acme", "al"),
        Scope("acme", "alice", "talk"),
        ACME,
        TRIP,
        Scope("acme", "alice", "trip2"),
        ALICE,
    ),
    *(Scope("acme", "alice2", "trip"), Scope("acme", "bob"), Scope("acme", "bob", "trip"), Scope("acme0")),
    *(Scope("acme2", "alice"), Scope("globex"), Scope("globex", "alice"), Scope("globex", "alice", "trip")),
)
"""Made in this order: some before, some after those that are attacked from."""
ALIKE = (
    *(Scope("acme", ""), Scope("acme", "", ""), Scope("acme", "alice", ""), Scope("acme", "None"), Scope("")),
    *(
        Scope("acme/u:alice"),
        Scope("acme/ualice"),
        Scope("acme", "alice/s:trip"),
        Scope("acme", "alice/strip"),
    ),
    *(Scope("/"), Scope("~1"), Scope("~01"), Scope("%2F"), Scope("%252F"), Scope("\0"), Scope("%00")),
    *(Scope(LONG + "1"), Scope(LONG + "2"), Scope("~" + hashlib.sha256((LONG + "1").encode()).hexdigest())),
    *(Scope("acme", LONG + "1"), Scope("acme", LONG + "2"), Scope("acme#alice"), Scope("acme:alice")),
)
"""Names that are the same for who joins, cuts or does not escape them."""


class Books:
    """What every partition should have, as its owner knows it: by id `n` and text; and where it is."""

    def __init__(self, store: MemoryStore, patience: float) -> None:
        self.store, self._patience = store, patience
        self.records: dict[Scope, dict[str, tuple[int, bytes]]] = {}
        self.marks: dict[Scope, Mark] = {}

    async def put(self, scope: Scope, ids: Sequence[str], text: str, *, replace: bool = False) -> None:
        """Write what is new, or replace it, as who has read everything."""
        had, before = self.records.setdefault(scope, {}), self.marks.get(scope, NOWHERE)
        new = [id for id in ids if replace or id not in had]
        mark = await self.store.put(scope, [record_of(id, text) for id in ids], replace=replace, at=before)
        assert mark.n == before.n + len(new), f"{scope}: {before.n} and {len(new)} are {mark.n}"
        assert before == NOWHERE or mark.epoch == before.epoch, f"{scope} was emptied by somebody else"
        for nth, id in enumerate(new):
            had.pop(id, None)
            had[id] = before.n + nth + 1, _text(id, text)
        self.marks[scope] = mark

    async def remove(self, scope: Scope, ids: Sequence[str]) -> None:
        there = [id for id in ids if id in self.records[scope]]
        assert await self.store.remove(scope, ids) == len(there), f"{scope}: of {ids} there are {there}"
        for id in there:
            del self.records[scope][id]
        mark = await self.store.put(scope, [])
        if self.records[scope]:
            assert mark.epoch != self.marks[scope].epoch, (
                f"{scope} has the epoch that it had before {ids} went"
            )
            self.marks[scope] = mark
        else:
            assert mark == NOWHERE, f"{scope} is empty, and at {mark}"
            del self.marks[scope], self.records[scope]

    async def erase(self, scope: Scope) -> None:
        gone = [one for one in self.records if _is_within(one, scope)]
        report = await asyncio.wait_for(self.store.erase(scope), self._patience)
        assert report.records == sum(len(self.records[one]) for one in gone), f"{scope}: {report}"
        for one in gone:
            del self.records[one], self.marks[one]

    async def agree(self, *, whole: bool = False) -> None:
        """Every partition is what it should be: as an index reads it those that are near, and as a *whole* all."""
        await asyncio.gather(*[self._agrees(scope, whole) for scope in ((*NEAR, *ALIKE) if whole else NEAR)])

    async def _agrees(self, scope: Scope, whole: bool) -> None:
        known, mark = self.records.get(scope, {}), self.marks.get(scope, NOWHERE)
        rows = [(id, n, data) for id, (n, data) in known.items()]
        if whole:
            page = await self.store.page(scope, limit=100)
            assert [(one.id, one.n, one.data) for one in page] == rows, f"{scope} pages {page}"
        news = await self.store.changes(scope, NOWHERE, 100)
        assert [(one.id, one.n, one.terms) for one in news.entries] == rows, f"{scope} changed by {news}"
        assert news.mark == mark, f"{scope} is at {news.mark}, and was at {mark}"

    async def found(self) -> None:
        """What is within each scope, and everything, is what there is."""
        for scope in (*NEAR, *ALIKE[:6], Scope("nobody")):
            expected = {one for one in self.records if _is_within(one, scope)}
            seen = await self.store.within(scope)
            assert (set(seen), len(seen)) == (expected, len(expected)), f"within {scope} is {seen}"
        listed: list[Scope] = []
        place = ""
        while page := await self.store.everything(OPERATOR, place, 7):
            assert page[0][0] > place, f"after {place!r} comes {page[0][0]!r}"
            place = page[-1][0]
            listed += [scope for _, scope in page]
        assert (set(listed), len(listed)) == (set(self.records), len(self.records)), f"everything is {listed}"


async def attack(store: MemoryStore, patience: float = PATIENCE) -> None:
    """Raises AssertionError, or an error that it should not get, where anything of a partition is seen or changed
    through another. The store is empty at first, and in the end."""
    books = Books(store, patience)
    await asyncio.gather(*[_began(books, nth, scope) for nth, scope in enumerate((*NEAR, *ALIKE))])
    await books.agree(whole=True)
    for me in (TRIP, ALICE, ACME):
        await _attack_from(me, books)
    await books.agree(whole=True)
    await books.found()
    for scope in (TRIP, ALICE, ACME):
        await books.erase(scope)
        await books.agree()
    await books.found()
    for scope in (TRIP, ACME):
        await books.put(scope, ["a", "again"], "after the erasure")
    await books.agree()
    for scope in ALIKE:
        await books.erase(scope)
    for tenant in sorted({scope.tenant for scope in books.records}):
        await books.erase(Scope(tenant))
    await books.agree(whole=True)


async def _began(books: Books, nth: int, scope: Scope) -> None:
    more = [f"more {number}" for number in range(nth % 3)]
    await books.put(scope, ["a", "b", f"only {nth}", *more], repr(scope))


async def _attack_from(me: Scope, books: Books) -> None:
    store, others = books.store, [scope for scope in books.records if scope != me]
    theirs = [id for scope in others for id in books.records[scope] if id not in books.records[me]]
    got = await store.get(me, ["b", *theirs, "a"])
    assert [(one.id, one.data) for one in got] == [
        ("b", _text("b", repr(me))),
        ("a", _text("a", repr(me))),
    ], got
    for other in others[::5]:
        news = await store.changes(me, books.marks[other], 100)
        assert news.reset, f"{me} is where {other} was"
        assert [one.id for one in news.entries] == [*books.records[me]], f"{me}: {news}"
        with suppress(MemoryConflict):
            await store.put(me, [record_of("a", "forged")], replace=True, at=books.marks[other])
            raise AssertionError(f"{other}'s mark fits {me}")
    for kind in ("episode", "fact"):
        page = await store.page(me, books.marks[me].n - 1, 100, kind)  # type: ignore[arg-type]
        last = [
            id for id, (n, _) in books.records[me].items() if n >= books.marks[me].n and _kind(id) == kind
        ]
        assert [one.id for one in page] == last, f"{me} pages {page}"
    assert await store.remove(me, theirs) == 0, f"{me} has removed what is somebody else's"
    await books.put(me, ["a", "b", *theirs[:2], "new"], repr(me))
    await books.agree()
    await books.put(me, ["b", theirs[1], "newer"], f"{me} again", replace=True)
    await books.agree()
    await books.remove(me, ["a", "newer", *theirs[2:4]])
    await books.agree()
    await books.remove(me, [*books.records[me]])
    await books.agree()
    assert me not in await store.within(me), f"{me} is empty, and is there"
    await books.put(me, ["a", "b"], f"{me} at last")
    await books.agree()


def _is_within(one: Scope, scope: Scope) -> bool:
    return (
        one.tenant == scope.tenant and scope.user in (None, one.user) and scope.session in (None, one.session)
    )


def record_of(id: str, text: str) -> Record:
    data = _text(id, text)
    return Record(id=id, kind=_kind(id), data=data, at=1, terms=data)


def _text(id: str, text: str) -> bytes:
    return f"{id} of {text}".encode()


def _kind(id: str) -> Kind:
    return "fact" if id in ("b", "new") else "episode"
