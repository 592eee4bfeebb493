"""What two tenants do to one store, and what the first of them sees: the same, whether the second is there or not.

A script is a list of numbers. Each says whose step it is, and everything of that step; what a tenant does depends on
its own numbers alone, and on what it has seen. So a script is played twice, once without the steps of the others.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from shipworthy.domain.memory import NOWHERE, Changes, Entry, Erased, Kind, Mark, Record
from shipworthy.domain.scope import Scope
from shipworthy.errors import ShipworthyError
from shipworthy.ports.memory import MemoryStore

IDS = "a", "b", "c", "d", "e", "A", "%", "a/b"
KINDS: tuple[Kind, ...] = "episode", "fact", "block"
LONG = "n" * 511


class World(NamedTuple):
    """A tenant, others whose names are near to its own, and names that users and sessions of all of them have."""

    tenant: str
    others: tuple[str, ...]
    users: tuple[str, str]
    sessions: tuple[str, str]

    def scopes(self, tenant: str) -> list[Scope]:
        users = [Scope(tenant, user) for user in self.users]
        sessions = [Scope(tenant, user, session) for user in self.users for session in self.sessions]
        return [Scope(tenant), *users, *sessions]


WORLDS = (
    World("acme", ("globex", "acme2", "acm"), ("alice", "bob"), ("trip", "talk")),
    World("a", ("a/u:b", "a:b", "a/", "a%", "a#b", "a|b"), ("b", "u:b"), ("c", "b/s:c")),
    World("", ("None", "0", "null", " "), ("", "None"), ("", "None")),
    World("\u00e9", ("e\u0301", "e", "\u00c9", "%C3%A9"), ("\u00e9", "e\u0301"), ("\u00c5", "\u212b")),
    World("A", ("a", "\uff21", "A ", " A"), ("i", "\u0130"), ("SS", "ß")),
    World("%", ("%25", "_", "*", "a%", "[%]", "\\%"), ("%", "_"), ("?", "*")),
    World(LONG + "1", (LONG + "2", LONG, "n" * 250), (LONG + "1", LONG + "2"), ("s", LONG + "1")),
    World("a\nb", ("a", "a\r\nb", "a\n", "b"), ("u\n", "u"), ("\t", "")),
    World("acme'--", ("acme", "acme'", "') OR 1=1 --", '"acme"'), ("alice'--", "alice"), ("$1", "%s")),
    World("a\0", ("a", "a%00", "a\\0", "a\0\0"), ("u\0", "u"), ("\0", "")),
    World("\ud800", ("?", "\ufffd", "\udfff", "\udc80"), ("\udc00", "?"), ("\ufffd", "\ud801")),
    World("1:a", ("1", "1:a:1", "11", "a"), ("1:a", "1"), ("a", "1:a")),
)


class Party:
    """A tenant, or several: what they do, and what they see. `told`: the marks that they know, of others too."""

    def __init__(self, store: MemoryStore, scopes: Sequence[Scope], told: list[Mark]) -> None:
        self._store, self._scopes, self._told = store, scopes, told
        self._epochs: dict[int, str] = {0: "0"}
        self._written = 0

    async def act(self, number: int) -> bytes:
        """One step, and what came of it: the result or the error, with epochs renamed as they appear."""
        chance = random.Random(number)
        scope = chance.choice(self._scopes)
        try:
            asked, seen = await self._asked(chance, scope)
        except ShipworthyError as error:
            return self._written_down(f"{scope} {type(error).__name__}: {error}")
        return self._written_down(f"{scope} {asked}: {self._said(seen)}")

    def _written_down(self, what: str) -> bytes:
        """What came of a step, wherever the store is."""
        where = self._store.name.partition(":")[2] or self._store.name
        return what.replace(where, "the store").encode(errors="surrogatepass")

    async def _asked(self, chance: random.Random, scope: Scope) -> tuple[str, Any]:
        store, some = self._store, chance.sample(IDS, chance.randint(1, 4))
        limit, kind = chance.choice([1, 2, 3, 1000]), chance.choice([None, None, *KINDS])
        match chance.randrange(32):
            case 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7:
                at, replace = self._mark(chance) if chance.random() < 0.3 else None, chance.random() < 0.5
                return "put", await store.put(scope, self._records(some, chance), replace=replace, at=at)
            case 8 | 9 | 10 | 11:
                return "get", await store.get(scope, some)
            case 12 | 13 | 14 | 15 | 16 | 17:
                return "changes", await store.changes(scope, self._mark(chance), limit)
            case 18 | 19 | 20 | 21:
                return "page", await store.page(scope, self._mark(chance).n // 2, limit, kind)
            case 22 | 23 | 24:
                return "remove", await store.remove(scope, some[:2])
            case 25 | 26 | 27:
                return "within", await store.within(scope)
            case 28 | 29:
                mark = await store.put(scope, [], at=None)
                return "rewrite", await store.put(scope, self._records(some, chance), replace=True, at=mark)
            case _:
                return "erase", await store.erase(scope if chance.random() < 0.9 else self._scopes[0])

    def _mark(self, chance: random.Random) -> Mark:
        """One that was seen before, of whichever partition it was."""
        known = [NOWHERE, *self._told[-12:]]
        return known[chance.randrange(1000) % len(known)]

    def _records(self, ids: Sequence[str], chance: random.Random) -> list[Record]:
        self._written += 1
        said = f"{self._scopes[0].tenant[:20]!r} said {self._written}".encode()
        kind, at = chance.choice(KINDS), chance.randrange(10**6)
        return [
            Record(id=id, kind=kind, data=said, at=at, weight=0.5, terms=said[:9], vector=said) for id in ids
        ]

    def _said(self, seen: Any) -> str:
        match seen:
            case Mark():
                self._told.append(seen)
                return f"{self._epochs.setdefault(seen.epoch, f'E{len(self._epochs)}')}:{seen.n}"
            case Changes():
                entries = [self._said(entry) for entry in seen.entries]
                return f"{entries} {self._said(seen.mark)} reset={seen.reset} more={seen.more}"
            case list():
                return f"{[self._said(one) for one in seen]}"
            case Entry() | Record() | Erased():
                return f"{msgspec.structs.asdict(seen)}"
            case _:
                return repr(seen)


async def played(world: World, script: Sequence[int], store: MemoryStore, *, alone: bool) -> list[bytes]:
    """What the world's tenant sees of its own steps: of even numbers. The others' steps are those of odd ones; what
    comes after an even number that 4 divides comes at once with it. The store is as before in the end."""
    told: list[Mark] = []
    first = Party(store, world.scopes(world.tenant), told)
    heard = told if alone else _Overheard(told)
    others = Party(store, [one for other in world.others for one in world.scopes(other)], heard)
    seen: list[bytes] = []
    try:
        for own, theirs in _turns(_mixed(world, script)):
            if alone:
                theirs = []
            if own is None:
                await _all(others, theirs)
            elif own % 4:
                seen.append(await first.act(own))
                await _all(others, theirs)
            else:
                observed, _ = await asyncio.gather(first.act(own), _all(others, theirs))
                seen.append(observed)
    finally:
        for tenant in (world.tenant, *world.others):
            await store.erase(Scope(tenant))
    return seen


class _Overheard(list[Mark]):
    """Marks that the first tenant has seen, and those that the others see: they may use both."""

    def __init__(self, first: list[Mark]) -> None:
        super().__init__()
        self._first = first

    def __getitem__(self, which: Any) -> Any:
        return [*self._first[-6:], *list.__getitem__(self, slice(-6, None))][which]


async def _all(party: Party, numbers: Sequence[int]) -> None:
    for number in numbers:
        await party.act(number)


def _mixed(world: World, script: Sequence[int]) -> list[int]:
    """The script's numbers, so that equal ones mean different steps: the simplest script is as good as any."""
    return [random.Random(f"{world} {place} {number}").getrandbits(32) for place, number in enumerate(script)]


def _turns(script: Sequence[int]) -> list[tuple[int | None, list[int]]]:
    """Each of the first tenant's steps with those of others that follow it."""
    turns: list[tuple[int | None, list[int]]] = [(None, [])]
    for number in script:
        if number % 2:
            turns[-1][1].append(number)
        else:
            turns.append((number, []))
    return turns


def difference(world: World, alone: Sequence[bytes], among: Sequence[bytes]) -> str:
    """Where two observations part, in words; empty: nowhere."""
    for step, (one, other) in enumerate(zip(alone, among, strict=True)):
        if one != other:
            return f"{world.tenant!r} among {world.others}, step {step}:\n alone {one!r}\n among {other!r}"
    return ""
