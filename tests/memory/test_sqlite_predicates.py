"""Each predicate and each part of a key, in each statement of the memory on SQLite, is taken away in turn: what one
partition sees and does is then another thing than in a store that has no statements at all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import shipworthy.adapters.sqlite.memory_erasing as erasing
import shipworthy.adapters.sqlite.memory_records as records
from shipworthy.adapters.inmemory.memory import InMemoryMemoryStore
from shipworthy.adapters.sqlite.memory import SqliteMemoryStore
from shipworthy.domain.memory import NOWHERE, Erased, Mark, Record
from shipworthy.domain.scope import Scope
from shipworthy.errors import ShipworthyError
from shipworthy.ports.memory import MemoryStore

SCOPES = [
    Scope("acme", "alice", "talk"),
    Scope("acme"),
    Scope("globex", "alice", "trip"),
    Scope("acme", "alice"),
    Scope("acme", None, "trip"),
    Scope("acme", "alice", "trip"),
    Scope("acme", ""),
    Scope("acme", "bob", "trip"),
    Scope("acme", "alice", ""),
    Scope("acm", "ealice", "trip"),
    Scope("globex"),
]


class Watcher:
    """What happens to every partition, whatever is done to one. Epochs are numbered as they are first seen."""

    def __init__(self, store: MemoryStore, expected: list[Any] | None) -> None:
        self._store, self._expected = store, expected
        self._epochs: dict[int, int] = {0: 0}
        self._marks = dict.fromkeys(SCOPES, NOWHERE)
        self.seen: list[Any] = []

    async def does(self, name: str, *arguments: Any, **how: Any) -> None:
        """Do something, and look at all partitions. Raises AssertionError at the first thing that is not expected."""
        try:
            given = await getattr(self._store, name)(*arguments, **how)
        except ShipworthyError as error:
            given = type(error).__name__
        if isinstance(given, Erased):
            given = given.records
        looks = await asyncio.gather(*map(self._look, SCOPES), return_exceptions=True)
        self.seen.append([self._plain(one) for one in (given, *looks)])
        if self._expected is not None:
            assert self.seen[-1] == self._expected[len(self.seen) - 1]

    async def _look(self, scope: Scope) -> tuple[Any, ...]:
        store, strange = self._store, Mark(self._marks[SCOPES[0]].epoch, 2)
        looks = await asyncio.gather(
            store.changes(scope, self._marks[scope], 2),
            store.changes(scope, strange),
            store.within(scope),
            store.page(scope),
            store.page(scope, 1, 1),
            store.get(scope, ["a", "b"]),
        )
        news, foreign, within, *rest = looks
        self._marks[scope] = news.mark
        return news.mark, news.entries, news.reset, news.more, foreign.entries, sorted(within, key=repr), rest

    def _plain(self, seen: Any) -> Any:
        if isinstance(seen, BaseException):
            return type(seen).__name__
        if isinstance(seen, Mark):
            return self._epochs.setdefault(seen.epoch, len(self._epochs)), seen.n
        return [self._plain(one) for one in seen] if isinstance(seen, tuple) else seen


def note(id: str, scope: Scope, more: str = "") -> Record:
    return Record(id=id, kind="episode", data=f"{scope}{more}".encode(), at=1)


async def watched(store: MemoryStore, expected: list[Any] | None = None) -> list[Any]:
    """All that can be done to a partition, done to some, among neighbours that differ in one part of their names."""
    await store.open()
    try:
        return await _watched(Watcher(store, expected))
    finally:
        await store.close()


async def _watched(watcher: Watcher) -> list[Any]:
    for scope in SCOPES:
        await watcher.does("put", scope, [note("a", scope), note("b", scope)])
    for scope in SCOPES[3:6]:
        await watcher.does("put", scope, [note("a", scope, "again"), note("d", scope)])
        await watcher.does("put", scope, [note("a", scope, "anew")], replace=True)
        await watcher.does("remove", scope, ["b", "x"])
        await watcher.does("remove", scope, ["a", "d"])
        await watcher.does("put", scope, [note("d", scope)], at=NOWHERE)
    for scope in (SCOPES[5], SCOPES[4], SCOPES[3], SCOPES[2], SCOPES[1]):
        await watcher.does("erase", scope)
    return watcher.seen


def rid(
    module: Any, name: str, predicate: str, instead: str = "true"
) -> Callable[[pytest.MonkeyPatch], None]:
    """The mutant of a statement that lost a predicate."""

    def breaks(patch: pytest.MonkeyPatch) -> None:
        statement = getattr(module, name)
        assert predicate in statement
        patch.setattr(module, name, statement.replace(predicate, instead))

    return breaks


def without(part: int) -> Callable[[pytest.MonkeyPatch], None]:
    """The mutant of a key that lost a part."""

    def breaks(patch: pytest.MonkeyPatch) -> None:
        sound = records.whose

        def whose(scope: Scope) -> Any:
            return tuple(b"=" if index == part else name for index, name in enumerate(sound(scope)))

        patch.setattr(records, "whose", whose)
        patch.setattr(erasing, "whose", whose)

    return breaks


def unnamed_is_empty(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(records, "_name", lambda name: b"=" + records.encoded(name or ""))


LOWER, UPPER = "r.place > (p.key << 32) + ", " AND r.place < (p.key + 1) << 32"
OWN, MINE = "r.partition = p.key", "key = (SELECT key FROM p)"
MUTANTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "mine: tenant": rid(records, "_MINE", "tenant = ?1"),
    "mine: user": rid(records, "_MINE", "user = ?2"),
    "mine: session": rid(records, "_MINE", "session = ?3"),
    "changes: from": rid(records, "_CHANGES", LOWER, "r.place > "),
    "changes: to": rid(records, "_CHANGES", UPPER, ""),
    "changes: epoch": rid(records, "_CHANGES", "p.epoch = ?4"),
    "page: from": rid(records, "_PAGE", LOWER, "r.place > "),
    "page: to": rid(records, "_PAGE", UPPER, ""),
    "get": rid(records, "_GET", OWN),
    "has": rid(records, "_HAS", OWN),
    "add": rid(records, "_ADD", "(p.key << 32)", "(1 << 32)"),
    "make: tenant": rid(records, "_MAKE", "?1", "x'61636d65'"),
    "make: user": rid(records, "_MAKE", "?2", "x''"),
    "make: session": rid(records, "_MAKE", "?3", "x''"),
    "advance": rid(records, "_ADVANCE", MINE),
    "renew": rid(records, "_RENEW", MINE),
    "remove": rid(records, "_REMOVE", "partition = (SELECT key FROM p)"),
    "remove: which": rid(records, "_REMOVE", "id = ?4"),
    "leave": rid(records, "_LEAVE", MINE),
    "leave: from": rid(records, "_LEAVE", LOWER, "r.place > "),
    "leave: to": rid(records, "_LEAVE", UPPER, ""),
    "within: tenant": rid(erasing, "_WITHIN", "tenant = ?1"),
    "within: user": rid(erasing, "_WITHIN", "(user = ?2 OR ?2 = X'' AND ?3 = X'')"),
    "within: no user": rid(erasing, "_WITHIN", " AND ?3 = X''", ""),
    "within: session": rid(erasing, "_WITHIN", "(session = ?3 OR ?3 = X'')"),
    "forget: from": rid(erasing, "_FORGET", "place > ?1 << 32"),
    "forget: to": rid(erasing, "_FORGET", "place < (?1 + 1) << 32"),
    "forget: which": rid(erasing, "_LEAVE", "key = ?", "key >= ?"),
    "key: tenant": without(0),
    "key: user": without(1),
    "key: session": without(2),
    "key: none and empty": unnamed_is_empty,
}


def compare(path: Path, expected: list[Any]) -> None:
    """Raises AssertionError if a new file shows anything else."""
    asyncio.run(watched(SqliteMemoryStore(path, durability="process"), expected))


@pytest.fixture(scope="module")
def expected() -> list[Any]:
    return asyncio.run(watched(InMemoryMemoryStore()))


@pytest.fixture(autouse=True)
def one_shelf(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All partitions in one table, where nothing but the predicates keeps them apart."""
    monkeypatch.setattr(records, "SHELVES", 1)
    monkeypatch.setattr(erasing, "SHELVES", 1)
    records._on_shelf.cache_clear()
    yield
    records._on_shelf.cache_clear()


def test_a_partition_among_others_is_as_in_a_store_without_statements(
    expected: list[Any], tmp_path: Path
) -> None:
    compare(tmp_path / "memory.db", expected)


@pytest.mark.parametrize("breaks", MUTANTS.values(), ids=MUTANTS.keys())
def test_no_predicate_and_no_part_of_a_key_is_missed(
    breaks: Callable[[pytest.MonkeyPatch], None],
    expected: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    breaks(monkeypatch)
    with pytest.raises(AssertionError):
        compare(tmp_path / "memory.db", expected)


def test_every_statement_of_a_partition_has_a_mutant() -> None:
    source = Path(__file__).read_text("utf-8")
    statements = {
        f'{label}, "{name}"'
        for label, module in (("records", records), ("erasing", erasing))
        for name, value in vars(module).items()
        if isinstance(value, str) and not name.startswith("__")
        if any(verb in value for verb in ("SELECT", "INSERT", "UPDATE", "DELETE"))
    }
    untried = {statement for statement in statements if f"rid({statement}," not in source}
    of_no_partition = {'records, "_COUNT"', 'records, "_UNCLEAN"', 'erasing, "_EVERYTHING"'}
    assert untried == {'records, "_MARK"', *of_no_partition}, "`_MARK` is what `p` is"
