"""A worker that learned the server's time over a slow connection says how far its clock may be ahead."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import psycopg
import pytest

from shipworthy.adapters.postgres import PostgresStore


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
