"""Laws of reading: an index that is fed by `changes` is at all times what paging through the partition gives."""

from __future__ import annotations

import asyncio
import random
from typing import get_args

from shipworthy.domain.memory import NOWHERE, Changes, Kind, Mark, Record
from shipworthy.ports.memory import MemoryStore
from shipworthy.testing.contracts.memory.stores import (
    ALICE,
    BOB,
    MANY,
    STRANGER,
    Law,
    MemoryStores,
    Reader,
    mark_of,
    numbered,
    paged,
    record,
    records,
)

STEPS = 60
WRITING = 7
IDS = "abcdefgh"
HEAVY = 90_000
"""Bytes by which a record is found that is not light."""


async def nothing_is_nowhere(stores: MemoryStores) -> None:
    """A reader who comes from elsewhere has to forget what it read."""
    store = await stores.new()
    for since, reset in ((NOWHERE, False), (Mark(5, 1), True), (Mark(5, 0), True)):
        assert await store.changes(ALICE, since) == Changes([], NOWHERE, reset, more=False)
    assert await store.page(ALICE) == await store.get(ALICE, ["a"]) == []
    assert await store.remove(ALICE, ["a"]) == 0


async def a_reader_is_told_what_is_new(stores: MemoryStores) -> None:
    """Once, and what was replaced again; nothing where nothing is."""
    store, reader = await stores.new(), Reader(ALICE)
    steps = [("abc", "first", ["a", "b", "c"]), ("cd", "first", ["c", "d"]), ("a", "second", ["a"])]
    for ids, text, came in steps:
        await store.put(ALICE, records(*ids, text=text), replace=True)
        assert await reader.follow(store) == came
        assert await reader.follow(store) == []
        await reader.agrees(store)
    news = await store.changes(ALICE, reader.mark)
    assert (news.entries, news.mark, news.reset, news.more) == ([], reader.mark, False, False)


async def a_reader_of_another_epoch_begins_anew(stores: MemoryStores) -> None:
    """From NOWHERE too, and whatever number its mark has."""
    store = await stores.new()
    mark = await store.put(ALICE, records(*"abc"))
    for since in (NOWHERE, Mark(mark.epoch % 2**62 + 1, mark.n), Mark(mark.epoch % 2**62 + 1, 10**9)):
        news = await store.changes(ALICE, since)
        assert ([entry.id for entry in news.entries], news.mark) == (["a", "b", "c"], mark)
        assert news.reset


async def a_reader_who_is_ahead_begins_anew(stores: MemoryStores) -> None:
    """As after a server forgot what it had told: what is written from then on is not missed."""
    store = await stores.new()
    mark = await store.put(ALICE, records(*"abc"))
    for ahead in (1, 1000):
        news = await store.changes(ALICE, Mark(mark.epoch, mark.n + ahead))
        assert ([entry.id for entry in news.entries], news.mark) == (["a", "b", "c"], mark)
        assert news.reset
        assert not news.more


async def removing_makes_readers_begin_anew(stores: MemoryStores) -> None:
    """What was there is counted, once; removing what is not there changes nothing."""
    store, reader = await stores.new(), Reader(ALICE)
    mark = await store.put(ALICE, records(*"abcd"))
    await reader.follow(store)
    for nothing in ([], ["x"], ["x", "y", "x"]):
        assert await store.remove(ALICE, nothing) == 0
    assert await mark_of(store, ALICE) == mark
    assert await store.remove(ALICE, ["a", "x", "c", "a"]) == 2
    assert await store.remove(ALICE, ["a", "c"]) == 0
    assert await reader.follow(store) == ["b", "d"]
    assert reader.mark.epoch not in (mark.epoch, 0)
    await reader.agrees(store)
    assert [found.id for found in await store.get(ALICE, list("abcd"))] == ["b", "d"]


async def numbers_grow_after_a_removal(stores: MemoryStores) -> None:
    """Who pages on by numbers misses nothing that was written later: also where the last one was removed."""
    store = await stores.new()
    mark = await store.put(ALICE, records(*"abc"))
    await store.remove(ALICE, ["c"])
    await store.put(ALICE, records("c", "d", text="later"))
    assert [(found.id, found.data) for found in await store.page(ALICE, mark.n)] == [
        ("c", b"later"),
        ("d", b"later"),
    ]


async def no_mark_fits_what_was_made_again(stores: MemoryStores) -> None:
    """A partition that was emptied or erased has an epoch that never was, so that old marks neither write nor read."""
    store, reader, epochs = await stores.new(), Reader(ALICE), []
    for turn in range(6):
        mark = await store.put(ALICE, records(*"abc", text=f"turn {turn}"))
        assert await reader.follow(store) == ["a", "b", "c"]
        await reader.agrees(store)
        epochs.append(mark.epoch)
        if turn % 2:
            await store.erase(ALICE)
        else:
            assert await store.remove(ALICE, list("abc")) == 3
    assert await reader.follow(store) == []
    assert reader.mark == NOWHERE
    assert len(set(epochs)) == 6, epochs
    assert all(0 < epoch < 2**63 for epoch in epochs), epochs
    assert max(epochs) - min(epochs) > 1000, f"epochs are counted, and may come again: {epochs}"


async def changes_come_in_pages(stores: MemoryStores) -> None:
    """Of any size; `more` says whether there are others, also where the last page is full."""
    store = await stores.new()
    await store.put(ALICE, numbered(7))
    await store.put(ALICE, records("r00002", text="new"), replace=True)
    for limit in (1, 2, 6, 7, 8):
        reader = Reader(ALICE)
        came = await reader.follow(store, limit)
        assert came == [found.id for found in await paged(store, ALICE)]
        await reader.agrees(store)
    whole = await store.changes(ALICE, NOWHERE, 7)
    assert (len(whole.entries), whole.more) == (7, False)


async def an_answer_is_bounded(stores: MemoryStores) -> None:
    """By what it weighs, however many entries were asked for; no limit is so small that a reader does not get on."""
    store, reader = await stores.new(), Reader(ALICE)
    for half in "ab":
        await store.put(ALICE, [_heavy(f"{half}{number}") for number in range(9)])
    news = await store.changes(ALICE, NOWHERE)
    assert sum(len(entry.terms) + len(entry.vector) for entry in news.entries) < 2**20 + HEAVY
    assert news.more
    assert len(await reader.follow(store)) == 18
    await reader.agrees(store)
    await store.erase(ALICE)
    await store.put(ALICE, records("a", "b"))
    for limit in (0, -1):
        news = await store.changes(ALICE, NOWHERE, limit)
        assert ([entry.id for entry in news.entries], news.more) == (["a"], True)
        assert await store.page(ALICE, limit=limit) == []


async def a_reader_in_the_middle_begins_anew_too(stores: MemoryStores) -> None:
    """Where something was removed, replaced or erased between two pages."""
    store = await stores.new()
    for change in ("remove", "replace", "erase"):
        await store.put(ALICE, numbered(6, change))
        news = await store.changes(ALICE, NOWHERE, 3)
        reader = Reader(ALICE)
        reader.mark, reader.known = news.mark, {entry.id: entry for entry in news.entries}
        if change == "remove":
            await store.remove(ALICE, ["r00001"])
        elif change == "replace":
            await store.put(ALICE, records("r00000", text="new"), replace=True)
        else:
            await store.erase(ALICE)
            await store.put(ALICE, numbered(2, "again"))
        await reader.follow(store, 3)
        await reader.agrees(store)
        await store.erase(ALICE)


async def pages_are_full_and_in_order(stores: MemoryStores) -> None:
    """Of any size, also of one kind only."""
    store = await stores.new()
    blocks = records("block 1", "block 2", kind="block")
    await store.put(
        ALICE, [*numbered(5), blocks[0], *records("fact", kind="fact"), blocks[1], record("last")]
    )
    order = ["r00000", "r00001", "r00002", "r00003", "r00004", "block 1", "fact", "block 2", "last"]
    for limit in (1, 2, 3, 8, 9, 10):
        assert [found.id for found in await paged(store, ALICE, limit)] == order
    assert [found.id for found in await store.page(ALICE, kind="block")] == ["block 1", "block 2"]
    assert [found.id for found in await store.page(ALICE, kind="fact")] == ["fact"]
    first = await store.page(ALICE, limit=2, kind="episode")
    later = await store.page(ALICE, after=first[-1].n, limit=4, kind="episode")
    assert [found.id for found in (*first, *later)] == [*order[:5], "last"]
    assert await store.page(ALICE, after=later[-1].n) == []
    every = [record(kind, kind=kind) for kind in get_args(Kind)]
    await store.put(BOB, every)
    for one in every:
        assert [found.id for found in await store.page(BOB, kind=one.kind)] == [one.id]
    await store.put(BOB, [record(one.id, kind="block") for one in every], replace=True)
    for one in every:
        found = [other.id for other in await store.page(BOB, kind=one.kind)]
        assert found == ([other.id for other in every] if one.kind == "block" else []), one.kind


async def what_is_asked_for_comes_in_that_order(stores: MemoryStores) -> None:
    """However much that is; what is not there is left out."""
    store = await stores.new()
    await store.put(ALICE, numbered(130))
    ids = [f"r{number:05}" for number in range(999, -1, -1)]
    found = await store.get(ALICE, ids)
    assert [one.id for one in found] == ids[-130:]
    assert await store.get(ALICE, []) == []


async def a_large_partition_is_read_whole(stores: MemoryStores) -> None:
    """More than one answer of a server may have: by changes, by pages and by ids; and removed."""
    store, reader = await stores.new(), Reader(ALICE)
    for start in range(0, 300, 60):
        await store.put(ALICE, [record(f"{start + number}", "x" * 2000) for number in range(60)])
    assert len(await reader.follow(store)) == 300
    await reader.agrees(store)
    ids = [found.id for found in await paged(store, ALICE, 200)]
    assert ids == [f"{number}" for number in range(300)]
    assert len(await store.get(ALICE, ids)) == 300
    assert await store.remove(ALICE, ids[:250]) == 250
    assert [found.id for found in await paged(store, ALICE, MANY)] == ids[250:]
    assert (await store.erase(ALICE)).records == 50


async def an_index_is_what_paging_gives(stores: MemoryStores) -> None:
    """After every step of a long life, for readers who follow at once and for one who seldom does."""
    store, other, chance = await stores.new(), await stores.new(), random.Random(6)
    often, seldom = Reader(ALICE), Reader(ALICE)
    for step in range(STEPS):
        await _something(store, chance, step)
        await often.follow(other, chance.choice([1, 3, 1000]))
        await often.agrees(store)
        if chance.random() < 0.1:
            await seldom.follow(store, 2)
            await seldom.agrees(other)


async def an_index_is_right_whatever_came_at_once(stores: MemoryStores) -> None:
    """Readers who follow while others write, replace, remove and erase know, in the end, what is there."""
    both, chance = [await stores.new(), await stores.new()], random.Random(7)
    readers = [Reader(ALICE), Reader(ALICE)]

    async def follows(number: int, over: asyncio.Event) -> None:
        while not over.is_set():
            await readers[number].follow(both[number], 3)
            await asyncio.sleep(0)

    for turn in range(8):
        over = asyncio.Event()
        following = [asyncio.create_task(follows(number, over)) for number in (0, 1)]
        most = 10 if turn % 2 else WRITING
        for step in range(2):
            doing = [_something(both[n % 2], chance, 10 * step + n, most) for n in range(5)]
            await asyncio.gather(asyncio.sleep(0), *doing)
        over.set()
        await asyncio.gather(*following)
        for reader, store in zip(readers, both, strict=True):
            await reader.follow(store)
            await reader.agrees(both[0])
            await reader.agrees(both[1])


async def numbers_say_nothing_of_others(stores: MemoryStores) -> None:
    """A partition's numbers are the same whether others write or not."""
    store = await stores.new()
    for turn in ([ALICE], [BOB, ALICE, STRANGER]):
        for step in "abc":
            for scope in turn:
                await store.put(scope, records("same", step, text=step), replace=True)
                await store.put(scope, records("same", f"{step} too"))
    alone, among, later = [[found.n for found in await paged(store, of)] for of in (STRANGER, BOB, ALICE)]
    assert alone == among
    await store.erase(ALICE)
    for step in "abc":
        await store.put(ALICE, records("same", step, text=step), replace=True)
        await store.put(ALICE, records("same", f"{step} too"))
    assert [found.n for found in await paged(store, ALICE)] == among
    assert len(later) == len(among)


def _heavy(id: str) -> Record:
    return Record(
        id=id, kind="episode", data=b"heavy", at=1, terms=bytes(HEAVY // 2), vector=bytes(HEAVY // 2)
    )


async def _something(store: MemoryStore, chance: random.Random, step: int, most: int = 10) -> None:
    """One random change of ALICE's partition; with WRITING nothing is taken from it."""
    some = chance.sample(IDS, chance.randint(1, 4))
    match chance.randrange(most):
        case 0 | 1 | 2:
            await store.put(ALICE, records(*some, text=f"step {step}"))
        case 3 | 4 | 5 | 6:
            await store.put(ALICE, records(*some, text=f"step {step}"), replace=True)
        case 7 | 8:
            await store.remove(ALICE, some[:2])
        case _:
            await store.erase(ALICE)


READING: tuple[Law, ...] = (
    nothing_is_nowhere,
    a_reader_is_told_what_is_new,
    a_reader_of_another_epoch_begins_anew,
    a_reader_who_is_ahead_begins_anew,
    removing_makes_readers_begin_anew,
    numbers_grow_after_a_removal,
    no_mark_fits_what_was_made_again,
    changes_come_in_pages,
    an_answer_is_bounded,
    a_reader_in_the_middle_begins_anew_too,
    pages_are_full_and_in_order,
    what_is_asked_for_comes_in_that_order,
    a_large_partition_is_read_whole,
    numbers_say_nothing_of_others,
)
SHARED_READING: tuple[Law, ...] = (
    an_index_is_what_paging_gives,
    an_index_is_right_whatever_came_at_once,
)
