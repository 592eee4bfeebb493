"""Laws of writing: once, whole or not at all, and never over what the writer has not read."""

from __future__ import annotations

import asyncio

import msgspec

from shipworthy.domain.memory import NOWHERE, Mark, Record
from shipworthy.domain.scope import LONGEST_ID, Scope
from shipworthy.errors import MemoryConflict, RecordTooLarge
from shipworthy.ports.memory import MemoryStore
from shipworthy.testing.contracts.memory.stores import (
    ACME,
    ALICE,
    BOB,
    OPERATOR,
    Law,
    MemoryStores,
    Reader,
    added,
    mark_of,
    numbered,
    paged,
    record,
    records,
    refused,
    texts,
)

AT_ONCE = 50
TOO_LARGE = 16 * 2**20 + 1


async def what_was_put_is_read_as_it_was(stores: MemoryStores) -> None:
    """Every field, whatever bytes there are in it."""
    store, every = await stores.new(), bytes(range(256))
    odd = Record(id="odd", kind="fact", data=every, at=0, weight=0.1 + 0.2, terms=b"\0", vector=every * 8)
    bare = Record(id="bare", kind="block", data=b"{}", at=2**48)
    large = Record(id="large", kind="episode", data=every * 1200, at=1, weight=1.0)
    await store.put(ALICE, [odd, bare, large])
    found = await paged(store, ALICE)
    assert [one.n for one in found] == sorted({one.n for one in found})
    for put, got in zip((odd, bare, large), found, strict=True):
        assert got == msgspec.structs.replace(put, n=got.n), put.id
    assert await store.get(ALICE, ["odd", "bare", "large"]) == found


async def putting_again_changes_nothing(stores: MemoryStores) -> None:
    """What is there stays, its number too; what is new among it is written."""
    store = await stores.new()
    first = await store.put(ALICE, records("a", "b", text="first"))
    before = await paged(store, ALICE)
    assert await store.put(ALICE, records("a", "b", text="second")) == first
    assert await paged(store, ALICE) == before
    await store.put(ALICE, records("b", "c", "a", text="third"))
    assert (await paged(store, ALICE))[:2] == before
    assert await texts(store, ALICE) == {"a": "first", "b": "first", "c": "third"}


async def what_replaces_gets_a_new_number(stores: MemoryStores) -> None:
    """It is read last, and once; what is new among it is written."""
    store = await stores.new()
    first = await store.put(ALICE, records("a", "b", "c", text="first"))
    last = await store.put(ALICE, records("a", "new", text="second"), replace=True)
    assert last.epoch == first.epoch
    assert last.n > first.n
    found = await paged(store, ALICE)
    assert [one.id for one in found] == ["b", "c", "a", "new"]
    assert [one.data for one in found] == [b"first", b"first", b"second", b"second"]
    assert found[2].n > first.n


async def of_an_id_twice_in_one_put_one_is_kept(stores: MemoryStores) -> None:
    """The first, as if they had come one after the other; the last, where it replaces."""
    store = await stores.new()
    twice = [record("a", "one"), record("b", "one"), record("a", "two")]
    await store.put(ALICE, twice)
    await store.put(BOB, twice, replace=True)
    assert await texts(store, ALICE) == {"a": "one", "b": "one"}
    assert await texts(store, BOB) == {"a": "two", "b": "one"}


async def putting_nothing_gives_the_mark(stores: MemoryStores) -> None:
    """That of a reader who has read all."""
    store = await stores.new()
    assert await store.put(ALICE, []) == NOWHERE
    for ids in (("a", "b"), ("b", "c")):
        mark = await store.put(ALICE, records(*ids), replace=True)
        assert await store.put(ALICE, []) == mark == await mark_of(store, ALICE)
    await store.remove(ALICE, ["c"])
    assert await store.put(ALICE, []) == await mark_of(store, ALICE)
    await store.erase(ALICE)
    assert await store.put(ALICE, []) == NOWHERE
    assert await store.within(ALICE) == []


async def who_has_read_all_may_write(stores: MemoryStores) -> None:
    """Nothing, a first record, one after the other, and after a removal."""
    store = await stores.new()
    mark = await store.put(ALICE, [], at=NOWHERE)
    for id in "abc":
        mark = await store.put(ALICE, records(id), at=mark)
    await store.remove(ALICE, ["c"])
    mark = await store.put(ALICE, records("a", text="new"), replace=True, at=await mark_of(store, ALICE))
    assert mark == await mark_of(store, ALICE)
    assert await texts(store, ALICE) == {"a": "new", "b": "text of b"}


async def who_has_not_read_all_may_not(stores: MemoryStores) -> None:
    """After somebody wrote, replaced or removed, and with marks that never were: nothing is written."""
    store = await stores.new()
    first = await store.put(ALICE, records("a"))
    second = await store.put(ALICE, records("b"))
    third = await store.put(ALICE, records("b", text="new"), replace=True)
    stale = [NOWHERE, first, second, Mark(third.epoch, third.n + 1), Mark(third.epoch % 2**62 + 1, third.n)]
    await _all_conflict(store, stale, third)
    await store.remove(ALICE, ["a"])
    await _all_conflict(store, [*stale, third], await mark_of(store, ALICE))
    await store.erase(ALICE)
    await _all_conflict(store, [third], NOWHERE)
    assert await store.within(ACME) == []


async def who_writes_of_nothing_new_must_have_read_it_too(stores: MemoryStores) -> None:
    """Also nothing at all: the answer says whether the partition is where the writer thinks."""
    store = await stores.new()
    stale = await store.put(ALICE, records("a"))
    mark = await store.put(ALICE, records("b"))
    for nothing in ([], records("a")):
        with refused(MemoryConflict):
            await store.put(ALICE, nothing, at=stale)
        assert await store.put(ALICE, nothing, at=mark) == mark


async def of_many_who_read_the_same_one_writes(stores: MemoryStores) -> None:
    """At once, from two stores: the first record of a partition, and a later one."""
    both = [await stores.new(), await stores.new()]
    for before in (0, 1):
        at = await both[0].put(ALICE, numbered(before))

        async def writes(number: int, at: Mark = at) -> Mark | None:
            try:
                return await both[number % 2].put(ALICE, records(f"by {number}"), at=at)
            except MemoryConflict:
                return None

        marks = await asyncio.gather(*[writes(number) for number in range(AT_ONCE)])
        won = [number for number, mark in enumerate(marks) if mark is not None]
        assert len(won) == 1, f"{len(won)} of {AT_ONCE} have written"
        assert marks[won[0]] == await mark_of(both[0], ALICE) == await mark_of(both[1], ALICE)
        assert [one.id for one in await paged(both[1], ALICE)][before:] == [f"by {won[0]}"]
        await both[0].erase(ALICE)


async def no_change_is_lost_among_many(stores: MemoryStores) -> None:
    """Who reads, changes and writes, again after a conflict, at once from two stores."""
    both = [await stores.new(), await stores.new()]
    await asyncio.gather(*[added(both[number % 2], ALICE, "count") for number in range(8)])
    assert await texts(both[0], ALICE) == {"count": "8"}


async def many_who_write_at_once_lose_nothing(stores: MemoryStores) -> None:
    """Each record has a number of its own, whoever made the partition, and who follows meanwhile misses none."""
    both = [await stores.new(), await stores.new()]
    reader, over = Reader(ALICE), asyncio.Event()

    async def follows() -> None:
        while not over.is_set():
            await reader.follow(both[0])
            await asyncio.sleep(0)

    following = asyncio.create_task(follows())
    writing = [both[n % 2].put(ALICE, records(f"{n}", f"{n} more")) for n in range(AT_ONCE)]
    marks = await asyncio.gather(*writing)
    over.set()
    await following
    await reader.follow(both[1])
    await reader.agrees(both[0])
    assert len(reader.known) == 2 * AT_ONCE
    assert len({mark.epoch for mark in marks}) == 1


async def a_put_is_whole_or_not_at_all(stores: MemoryStores) -> None:
    """Who reads meanwhile sees nothing of it, or all: also of a first one, and of one that replaces."""
    store, other = await stores.new(), await stores.new()
    seen: list[list[bytes]] = []
    for text in ("first", "second"):
        writing = asyncio.create_task(store.put(ALICE, numbered(120, text), replace=True))
        while not writing.done():
            seen.append([found.data for found in await paged(other, ALICE)])
            await asyncio.sleep(0)
        await writing
    for texts_ in seen:
        assert len(texts_) in (0, 120), f"{len(texts_)} of 120 records were seen"
        assert len(set(texts_)) <= 1, f"{texts_.count(b'second')} of 120 were replaced"


async def a_put_that_fails_has_written_nothing(stores: MemoryStores) -> None:
    """No record, no number, no partition."""
    store = await stores.new()
    with refused(RecordTooLarge):
        await store.put(BOB, [record("a"), _large(), record("b")])
    assert await store.within(ACME) == []
    assert await mark_of(store, BOB) == NOWHERE
    mark = await store.put(ALICE, records("a"))
    with refused(RecordTooLarge):
        await store.put(ALICE, [record("a", "new"), record("b"), _large()], replace=True)
    with refused(MemoryConflict):
        await store.put(ALICE, [record("a", "new"), record("b")], replace=True, at=NOWHERE)
    assert await mark_of(store, ALICE) == mark
    assert await texts(store, ALICE) == {"a": "text of a"}


async def what_is_too_long_is_refused(stores: MemoryStores) -> None:
    """The same everywhere: record ids of more than 200 bytes, names of more than 512."""
    store = await stores.new()
    names = ["n" * LONGEST_ID, "\u00e9" * (LONGEST_ID // 2)]
    longest = [
        scope for name in names for scope in (Scope(name), Scope("acme", name), Scope("acme", "al", name))
    ]
    for scope in longest:
        await store.put(scope, records("i" * 200, "\u00e9" * 100))
        assert [one.id for one in await paged(store, scope)] == ["i" * 200, "\u00e9" * 100]
        await store.erase(scope)
    for name in (names[0] + "n", "n" + names[1]):
        for scope in (Scope(name), Scope("acme", name), Scope("acme", "al", name)):
            with refused(RecordTooLarge):
                await store.put(scope, records("a"))
    for id in ("i" * 201, "\u00e9" * 101):
        with refused(RecordTooLarge):
            await store.put(ALICE, records("a", id))
    assert await store.everything(OPERATOR) == []


async def a_put_that_is_cancelled_is_whole_or_nothing(stores: MemoryStores) -> None:
    """Whenever that comes, and the store goes on."""
    store, other = await stores.new(), await stores.new()
    for moment in range(16):
        scope, text = ALICE, f"cancelled at {moment}"
        before = await paged(other, scope)
        writing = asyncio.create_task(store.put(scope, numbered(40, text), replace=True))
        await _wait_until(moment)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        await store.put(BOB, records(f"after {moment}"))
        found = await paged(other, scope)
        written = {one.data for one in found}
        assert found == before or (len(found), written) == (40, {text.encode()}), moment
    assert len(await paged(other, BOB)) == 16


async def _wait_until(moment: int) -> None:
    """Some passes of the event loop, or some milliseconds."""
    for _ in range(moment % 8):
        await asyncio.sleep(0)
    if moment >= 8:
        await asyncio.sleep(0.0005 * (moment - 7))


async def _all_conflict(store: MemoryStore, stale: list[Mark], present: Mark) -> None:
    before = await paged(store, ALICE)
    for at in stale:
        with refused(MemoryConflict):
            await store.put(ALICE, [record("b", "stale"), record("c")], replace=True, at=at)
    assert await mark_of(store, ALICE) == present
    assert await paged(store, ALICE) == before


def _large() -> Record:
    return Record(id="large", kind="episode", data=bytes(TOO_LARGE), at=1)


WRITING: tuple[Law, ...] = (
    what_was_put_is_read_as_it_was,
    putting_again_changes_nothing,
    what_replaces_gets_a_new_number,
    of_an_id_twice_in_one_put_one_is_kept,
    putting_nothing_gives_the_mark,
    who_has_read_all_may_write,
    who_has_not_read_all_may_not,
    who_writes_of_nothing_new_must_have_read_it_too,
    a_put_that_fails_has_written_nothing,
    what_is_too_long_is_refused,
)
SHARED_WRITING: tuple[Law, ...] = (
    of_many_who_read_the_same_one_writes,
    no_change_is_lost_among_many,
    many_who_write_at_once_lose_nothing,
    a_put_is_whole_or_not_at_all,
    a_put_that_is_cancelled_is_whole_or_nothing,
)
