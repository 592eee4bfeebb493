"""Laws of stores as such: their stamp, opening and closing, and what several of them see of each other."""

from __future__ import annotations

import asyncio

from shipworthy.domain.memory import Stamp
from shipworthy.errors import MemoryClosed, MemoryConflict
from shipworthy.testing.contracts.memory.stores import (
    ALICE,
    BOB,
    OPERATOR,
    Law,
    MemoryStores,
    Reader,
    mark_of,
    paged,
    record,
    records,
    refused,
    texts,
)

ONE, OTHER = Stamp("words 1", "openai:small", 1536), Stamp("words 2")


async def the_first_stamp_stays(stores: MemoryStores) -> None:
    """Until it is replaced; it is of the store, and not of what is in it."""
    store = await stores.new()
    for wanted in (ONE, OTHER):
        assert await store.stamp(wanted) == ONE
    await store.put(ALICE, records("a"))
    await store.erase(ALICE)
    assert await store.stamp(OTHER) == ONE
    assert await store.stamp(OTHER, replace=True) == OTHER
    assert await store.stamp(ONE) == OTHER


async def a_store_says_where_it_is(stores: MemoryStores) -> None:
    """In words, before it is open too; opening it again does nothing."""
    store = stores.made()
    name = store.name
    assert isinstance(name, str)
    assert name
    for _ in range(2):
        await store.open()
        await store.put(ALICE, records("a"))
    assert store.name == name
    assert await texts(store, ALICE) == {"a": "text of a"}


async def of_many_stamps_at_once_one_is_first(stores: MemoryStores) -> None:
    """All are told the same, whichever store they ask."""
    both = [await stores.new(), await stores.new()]
    wanted = [Stamp("words", f"embedder {number}", number) for number in range(20)]
    told = await asyncio.gather(*[both[one.dimensions % 2].stamp(one) for one in wanted])
    assert len(set(told)) == 1, told
    assert told[0] in wanted
    assert await both[0].stamp(ONE) == await both[1].stamp(OTHER) == told[0]


async def several_are_opened_at_once(stores: MemoryStores) -> None:
    """Where there is nothing yet, and all of them work."""
    made = [stores.made() for _ in range(4)]
    await asyncio.gather(*[store.open() for store in made])
    await asyncio.gather(*[store.put(ALICE, records(f"{number}")) for number, store in enumerate(made)])
    for store in made:
        assert set(await texts(store, ALICE)) == {"0", "1", "2", "3"}


async def one_store_sees_what_another_does(stores: MemoryStores) -> None:
    """At once: written, replaced, removed, erased; and the marks of one are those of the other."""
    one, other = await stores.new(), await stores.new()
    reader = Reader(ALICE)
    mark = await one.put(ALICE, records("a", "b"))
    assert await reader.follow(other) == ["a", "b"]
    assert reader.mark == mark
    mark = await other.put(ALICE, [record("a", "new"), record("c")], replace=True, at=mark)
    assert await texts(one, ALICE) == {"b": "text of b", "a": "new", "c": "text of c"}
    with refused(MemoryConflict):
        await one.put(ALICE, records("d"), at=reader.mark)
    assert await one.remove(ALICE, ["b"]) == 1
    assert await other.get(ALICE, ["b"]) == []
    with refused(MemoryConflict):
        await other.put(ALICE, records("d"), at=mark)
    assert (await other.erase(ALICE)).records == 2
    assert not await one.within(ALICE)
    assert not await one.everything(OPERATOR)
    assert not await paged(one, ALICE)
    await one.put(ALICE, records("e"))
    assert await reader.follow(other) == ["e"]
    await reader.agrees(one)


async def what_was_put_is_there_when_it_is_opened_again(stores: MemoryStores) -> None:
    """Records, marks, and the stamp."""
    store, reader = await stores.new(), Reader(ALICE)
    await store.stamp(ONE)
    await store.put(ALICE, records("a", "b"))
    await store.put(BOB, records("a"))
    await store.remove(ALICE, ["a"])
    mark = await store.put(ALICE, records("c"))
    await reader.follow(store)
    await store.close()
    again = await stores.new()
    assert await again.stamp(OTHER) == ONE
    await reader.agrees(again)
    assert await reader.follow(again) == []
    assert await mark_of(again, ALICE) == mark
    await again.put(ALICE, records("d"), at=mark)
    assert await reader.follow(again) == ["d"]
    assert len(await again.everything(OPERATOR)) == 2


async def a_store_that_is_closed_says_so(stores: MemoryStores) -> None:
    """Whatever it is asked; closing it again does nothing."""
    store = await stores.new()
    mark = await store.put(ALICE, records("a"))
    for _ in range(2):
        await store.close()
    asked = (
        *(lambda: store.put(ALICE, records("b")), lambda: store.get(ALICE, ["a"])),
        *(lambda: store.changes(ALICE, mark), lambda: store.page(ALICE), lambda: store.remove(ALICE, ["a"])),
        *(lambda: store.within(ALICE), lambda: store.erase(ALICE), lambda: store.everything(OPERATOR)),
        lambda: store.stamp(ONE),
    )
    for asks in asked:
        with refused(MemoryClosed):
            await asks()
    assert await texts(await stores.new(), ALICE) == {"a": "text of a"}


LASTING: tuple[Law, ...] = (the_first_stamp_stays, a_store_says_where_it_is)
SHARED_LASTING: tuple[Law, ...] = (
    of_many_stamps_at_once_one_is_first,
    several_are_opened_at_once,
    one_store_sees_what_another_does,
)
DURABLE: tuple[Law, ...] = (
    what_was_put_is_there_when_it_is_opened_again,
    a_store_that_is_closed_says_so,
)
