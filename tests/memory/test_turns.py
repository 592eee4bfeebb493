"""Whoever has much to do in a memory leaves room for others: turns, and a store in which tenants take them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Hashable

import pytest

from shipworthy.adapters.dynamodb.connection import THREADS
from shipworthy.adapters.dynamodb.memory import DynamoDBMemoryStore
from shipworthy.adapters.shared.turns import Turns
from shipworthy.domain.scope import Scope
from tests.servers.dynamodb import Table


async def turns_are_taken(turns: Turns) -> None:
    """At most two of a key at once, in order; who leaves the queue, or is cancelled at its turn, holds up nobody."""
    inside, came = 0, list[int]()
    going_on = asyncio.Event()

    async def takes(number: int, key: Hashable = "a") -> None:
        nonlocal inside
        async with turns.one(key):
            came.append(number)
            inside += 1
            assert inside <= 2
            await going_on.wait()
            inside -= 1

    taking = [asyncio.create_task(takes(number)) for number in range(8)]
    await asyncio.sleep(0.01)
    assert came == [0, 1]
    async with asyncio.timeout(1), turns.one("b"):
        taking[3].cancel()
        taking[1].cancel()
        await asyncio.sleep(0.01)
        inside -= 1
    going_on.set()
    async with asyncio.timeout(1):
        await asyncio.gather(*taking, return_exceptions=True)
    assert came == [0, 1, 2, 4, 5, 6, 7]
    assert not turns._inside
    assert not turns._waiting


class HoldsEverybodyUp(Turns):
    async def _enter(self, key: Hashable) -> None:
        await super()._enter("all")

    def _leave(self, key: Hashable) -> None:
        super()._leave("all")


def test_turns_are_taken() -> None:
    asyncio.run(turns_are_taken(Turns(2)))


@pytest.mark.parametrize("broken", [Turns(3), Turns(1), HoldsEverybodyUp(2)])
def test_turns_that_are_not_taken_are_caught(broken: Turns) -> None:
    with pytest.raises((AssertionError, TimeoutError)):
        asyncio.run(turns_are_taken(broken))


async def others_are_answered(table: Table, turns: Turns) -> None:
    """While one tenant has more to do than there are threads."""
    store = DynamoDBMemoryStore(table.name, client=table.client(), create=True)
    await store.open()
    store._tenants = turns
    over = threading.Event()
    busy = [
        asyncio.create_task(store._run(Scope("acme", f"{number}"), over.wait, 1.5))
        for number in range(3 * THREADS)
    ]
    try:
        await asyncio.sleep(0.05)
        async with asyncio.timeout(2):
            assert await store.page(Scope("globex")) == []
    finally:
        over.set()
        await asyncio.gather(*busy, return_exceptions=True)
        await store.close()


def test_one_tenant_does_not_have_all_threads(dynamodb_table: Table) -> None:
    asyncio.run(others_are_answered(dynamodb_table, Turns(THREADS // 2)))


def test_a_tenant_who_has_all_threads_is_caught(dynamodb_table: Table) -> None:
    with pytest.raises(TimeoutError):
        asyncio.run(others_are_answered(dynamodb_table, Turns(10**6)))
