"""The memory store in memory is bounded, and several event loops may share it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar

import pytest

from shipworthy.adapters.inmemory.memory import InMemoryMemoryStore
from shipworthy.domain.memory import NOWHERE, Kind
from shipworthy.domain.scope import Operator, Scope
from shipworthy.errors import ConfigurationError, MemoryFull
from shipworthy.testing.contracts.memory.stores import numbered, paged, record, records, refused, texts

Make = Callable[..., InMemoryMemoryStore]
Bound = Callable[[Make], Coroutine[Any, Any, None]]
OPERATOR = Operator("the bounds' tests")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def who_was_idle_for_longest_makes_room(make: Make) -> None:
    """With all that is theirs; a tenant's own counts as a user, and reading is use."""
    store = make(max_users=3)
    alice, bob, acme, globex = (
        Scope("acme", "alice"),
        Scope("acme", "bob"),
        Scope("acme"),
        Scope("globex", "alice"),
    )
    for scope in (alice, Scope("acme", "alice", "trip"), bob, acme):
        await store.put(scope, [*records("a"), *records("f", kind="fact"), *records("b", kind="block")])
    await store.changes(alice, NOWHERE)
    await store.put(globex, records("a"))
    assert set(await store.within(acme)) == {alice, Scope("acme", "alice", "trip"), acme}
    assert await texts(store, bob) == {}
    await store.put(Scope("globex", "bob"), records("a"))
    assert set(await store.within(acme)) == {alice, Scope("acme", "alice", "trip")}
    for number in range(20):
        await store.put(Scope("globex", f"{number}", "s"), records("a"))
    assert len(await store.everything(OPERATOR)) == 3
    assert await store.within(acme) == []
    assert len(store._users) == len(store._places.held) == 3
    assert list(store._tenants) == ["globex"]


async def who_is_idle_for_too_long_is_forgotten(make: Make) -> None:
    """Each after their own last use."""
    clock = Clock()
    store = make(idle_ttl=60.0, clock=clock)
    alice, bob = Scope("acme", "alice"), Scope("acme", "bob", "trip")
    await store.put(alice, records("a"))
    await store.put(bob, records("a"))
    for _ in range(3):
        clock.now += 40
        assert await texts(store, alice) == {"a": "text of a"}
    assert await store.within(Scope("acme")) == [alice]
    assert await store.put(bob, []) == NOWHERE
    clock.now += 61
    assert await store.everything(OPERATOR) == []
    assert not store._users
    assert not store._tenants
    assert not store._places.held


async def sessions_that_are_idle_make_room(make: Make) -> None:
    """Of one user, for another session of theirs, and after their time; what is the user's own stays."""
    clock = Clock()
    store, alice, bob = (
        make(max_sessions=3, idle_ttl=60.0, clock=clock),
        Scope("acme", "alice"),
        Scope("acme", "bob"),
    )
    sessions = [Scope("acme", "alice", f"{number}") for number in range(50)]
    for scope in (alice, Scope("acme", "bob", "trip"), bob, sessions[0]):
        await store.put(scope, records("a"))
    for scope in sessions[1:]:
        await store.put(scope, records("a"))
        assert await texts(store, sessions[0])
    assert set(await store.within(alice)) == {alice, sessions[0], *sessions[-2:]}
    assert len(await store.within(bob)) == 2
    assert len(store._idle) == len(store._places.held) == 6
    for _ in range(2):
        clock.now += 40
        assert await texts(store, sessions[-1])
    assert await store.within(Scope("acme")) == [alice, sessions[-1]]


async def the_oldest_episodes_make_room(make: Make) -> None:
    """In their own partition; facts and blocks stay, and who follows is told."""
    store = make(max_records=20)
    kinds: list[tuple[str, Kind]] = [("f", "fact"), ("b", "block")]
    await store.put(Scope("acme", "bob"), numbered(20))
    alice = Scope("acme", "alice")
    await store.put(alice, [record(id, kind=kind) for id, kind in kinds])
    await store.put(alice, numbered(18))
    before = await store.put(alice, [])
    await store.put(alice, records("new 1", "new 2"))
    after = await store.put(alice, [])
    assert before.epoch != after.epoch
    assert [one.id for one in await paged(store, alice)] == [
        *("f", "b", *(f"r{number:05}" for number in range(2, 18)), "new 1", "new 2")
    ]
    await store.put(alice, [record("new 1", "again")], replace=True)
    assert (await store.put(alice, [])).epoch == after.epoch
    assert len(await paged(store, Scope("acme", "bob"))) == 20


async def what_does_not_make_room_is_kept(make: Make) -> None:
    """A partition of facts and blocks is full, and a put that is larger than a partition is none."""
    store, alice = make(max_records=5), Scope("acme", "alice")
    await store.put(alice, records("f1", "f2", "f3", kind="fact"))
    await store.put(alice, [*records("b", kind="block"), *records("e")])
    before = await store.put(alice, [])
    for crowd in (numbered(2), records("f4", "f5", kind="fact"), numbered(6)):
        with refused(MemoryFull):
            await store.put(alice, crowd)
    with refused(MemoryFull):
        await store.put(Scope("acme", "bob"), numbered(6))
    assert await store.put(alice, []) == before
    assert await store.within(Scope("acme", "bob")) == []
    await store.put(alice, records("f4", kind="fact"))
    assert set(await texts(store, alice)) == {"f1", "f2", "f3", "f4", "b"}


async def a_full_partition_makes_room_in_few_steps(make: Make) -> None:
    """So that its index is not made again at every write."""
    store, alice = make(max_records=160), Scope("acme", "alice")
    await store.put(alice, numbered(160))
    epochs = {(await store.put(alice, records(f"{number}"))).epoch for number in range(100)}
    assert len(epochs) <= 10
    assert len(await paged(store, alice)) >= 150


async def several_event_loops_may_share_it(make: Make) -> None:
    """Nothing that a thread wrote is lost, and each put is whole."""
    store, failed = make(max_users=50), list[BaseException]()

    async def writes(number: int) -> None:
        for turn in range(150):
            await store.put(Scope("acme", "all"), records(f"{number} {turn} a", f"{number} {turn} b"))
            await store.put(Scope("acme", f"{number} {turn}"), records("a"))
            for scope in await store.within(Scope("acme")):
                await store.changes(scope, NOWHERE, 3)
            await store.erase(Scope("acme", f"{number} {turn - 1}"))

    def runs(number: int) -> None:
        try:
            asyncio.run(writes(number))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=runs, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed
    found = await paged(store, Scope("acme", "all"))
    assert len({one.n for one in found}) == len(found) == 4 * 150 * 2


BOUNDS = {
    law.__name__: law
    for law in (
        who_was_idle_for_longest_makes_room,
        who_is_idle_for_too_long_is_forgotten,
        sessions_that_are_idle_make_room,
        the_oldest_episodes_make_room,
        what_does_not_make_room_is_kept,
        a_full_partition_makes_room_in_few_steps,
        several_event_loops_may_share_it,
    )
}


@pytest.mark.parametrize("bound", BOUNDS.values(), ids=BOUNDS.keys())
def test_the_memory_in_memory_is_bounded(bound: Bound) -> None:
    asyncio.run(bound(InMemoryMemoryStore))


def test_forgetting_who_is_idle_costs_one_step_each() -> None:
    """Amortised: ten times the users take about ten times as long, and not a hundred times."""

    async def lived(users: int) -> float:
        clock = Clock()
        store, started = (
            InMemoryMemoryStore(max_users=users // 2, idle_ttl=1e6, clock=clock),
            time.process_time(),
        )
        for number in range(users):
            clock.now += 1
            await store.put(Scope("acme", f"{number}"), records("a"))
        clock.now += 2e6
        assert await store.everything(OPERATOR) == []
        return time.process_time() - started

    few, many = asyncio.run(lived(500)), asyncio.run(lived(5_000))
    assert many < 40 * few


@pytest.mark.parametrize("bound", ["max_users", "max_sessions", "idle_ttl", "max_records"])
def test_a_bound_that_is_none_is_refused(bound: str) -> None:
    with pytest.raises(ConfigurationError, match=bound):
        InMemoryMemoryStore(**{bound: 0})  # type: ignore[arg-type]


# mutants


class Mutant(InMemoryMemoryStore):
    caught: ClassVar[str]


class NeverMakesRoom(Mutant):
    caught = "who_was_idle_for_longest_makes_room"

    def __init__(self, **bounds: Any) -> None:
        super().__init__(**{**bounds, "max_users": 10**6})


class ForgetsWhoCameFirst(Mutant):
    caught = "who_was_idle_for_longest_makes_room"

    def _use(self, owner: Any) -> Any:
        return self._users.get(owner)


class LeavesTenantsBehind(Mutant):
    caught = "who_was_idle_for_longest_makes_room"

    def _drop(self, part: Any) -> None:
        users = self._tenants[part.scope.tenant]
        super()._drop(part)
        self._tenants.setdefault(part.scope.tenant, users)


class RemembersForever(Mutant):
    caught = "who_is_idle_for_too_long_is_forgotten"

    def _expire(self) -> None:
        pass


class ForgetsFromTheFirstUseOn(Mutant):
    caught = "who_is_idle_for_too_long_is_forgotten"

    def _use(self, owner: Any) -> Any:
        self._expire()
        return self._users.get(owner)


class HasAsManySessionsAsItMay(Mutant):
    caught = "sessions_that_are_idle_make_room"

    def __init__(self, **bounds: Any) -> None:
        super().__init__(**{**bounds, "max_sessions": 10**6})


class KeepsSessionsAsLongAsTheirUser(Mutant):
    caught = "sessions_that_are_idle_make_room"

    def _use(self, owner: Any) -> Any:
        user = super()._use(owner)
        for part in user.parts if user else ():
            self._touch(part)
        return user


class MakesRoomWithFacts(Mutant):
    caught = "the_oldest_episodes_make_room"

    def _crowding(self, part: Any, added: int, writing: Any) -> list[str]:
        excess = (len(part.numbers) if part else 0) + added - self._max_records
        return [one.id for one in part.records.held.values()][: max(0, excess)] if part else []


class MakesRoomInSilence(Mutant):
    caught = "the_oldest_episodes_make_room"

    def _forget(self, part: Any, ids: Any) -> int:
        epoch = part.epoch
        forgotten = super()._forget(part, ids)
        part.epoch = epoch
        return forgotten


class TakesMoreThanItHolds(Mutant):
    caught = "what_does_not_make_room_is_kept"

    def _crowding(self, part: Any, added: int, writing: Any) -> list[str]:
        return [] if added > self._max_records else super()._crowding(part, added, writing)


class MakesRoomForOne(Mutant):
    caught = "a_full_partition_makes_room_in_few_steps"

    def _crowding(self, part: Any, added: int, writing: Any) -> list[str]:
        return super()._crowding(part, added, writing)[:added]


class NoLock:
    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


class LetsEverybodyIn(Mutant):
    """Each line of its `put` lets another thread run."""

    caught = "several_event_loops_may_share_it"

    def __init__(self, **bounds: Any) -> None:
        super().__init__(**bounds)
        self._lock = NoLock()  # type: ignore[assignment]

    def _crowding(self, part: Any, added: int, writing: Any) -> list[str]:
        time.sleep(1e-5)
        return super()._crowding(part, added, writing)


@pytest.mark.parametrize("mutant", Mutant.__subclasses__(), ids=lambda mutant: mutant.__name__)
def test_a_bound_catches_the_broken_memory(mutant: type[Mutant]) -> None:
    with pytest.raises((AssertionError, KeyError)):
        asyncio.run(BOUNDS[mutant.caught](mutant))
