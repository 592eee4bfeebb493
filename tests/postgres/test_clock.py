"""A worker that learned the server's time over a slow connection says how far its clock may be ahead."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import psycopg
import pytest

from shipworthy import Agent, PostgresRuntime, ScriptedModel, ToolCall, tool
from shipworthy.adapters.postgres import PostgresStore
from shipworthy.adapters.postgres.writer import Lease


def test_what_a_slow_first_reading_costs_is_in_the_skew(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever takes over waits for that much longer before it believes that an effect did not happen."""
    execute = psycopg.Connection.execute
    slow = 1

    def execute_late(self: Any, query: Any, *args: Any, **options: Any) -> Any:
        nonlocal slow
        if slow and isinstance(query, str) and "beat(" in query:
            slow = 0
            time.sleep(0.3)
        return execute(self, query, *args, **options)

    async def law() -> None:
        store = PostgresStore(database, clock_skew=0.05)
        assert store.skew == 50
        await store.open()
        ahead = store.clock() - time.time_ns() // 1_000_000
        assert 200 < ahead <= store.skew
        await store.close()

    monkeypatch.setattr(psycopg.Connection, "execute", execute_late)
    asyncio.run(law())


NOW = "CREATE OR REPLACE FUNCTION shipworthy.now_ms() RETURNS bigint LANGUAGE sql VOLATILE AS $$ {} $$"
REAL = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint"
AN_HOUR = 3_600_000


async def set_back(database: str) -> tuple[int, int, int, list[str]]:
    """By how much a worker's clock goes back with the server's, what is left of its lease then; and how many events a
    run of one `once` call has, and what it did."""
    done: list[str] = []

    @tool(effect="once", timeout=1.0)
    async def pay() -> str:
        done.append("paid")
        return "paid"

    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as server:
        runtime = PostgresRuntime(database, lease_ttl=0.6)
        agent = Agent(
            model=ScriptedModel([ToolCall("pay"), "Paid."]), tools=[pay], runtime=runtime, tenant_id="t"
        )
        await runtime.open()
        await server.execute(NOW.format(f"{REAL} + {AN_HOUR}"))
        await asyncio.sleep(0.5)  # a renewal, and so a reading
        before = runtime.store.clock()
        await server.execute(NOW.format(REAL))
        await asyncio.sleep(0.5)
        back, left = before - runtime.store.clock(), runtime.store.start_by() - runtime.store.clock()
        async with asyncio.timeout(2):
            result = await agent.run("Pay.")
        await agent.close()
    return back, left, result.seq, done


def test_a_clock_that_is_set_back_is_followed(database: str) -> None:
    """Otherwise no intent would be younger than its start-by, and it would be recorded again for ever."""
    back, left, events, done = asyncio.run(set_back(database))
    assert back > AN_HOUR - 5_000
    assert left > 0
    assert (events, done) == (9, ["paid"])


def test_one_that_is_not_followed_is_noticed(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def beat(self: Lease, connection: Any, *, fresh: bool) -> bool:
        last = self._last
        locked = followed(self, connection, fresh=fresh)
        self._last = max(self._last, last)
        return locked

    followed = Lease.beat
    monkeypatch.setattr(Lease, "beat", beat)
    with pytest.raises(TimeoutError):
        asyncio.run(set_back(database))
