"""What it costs on SQLite to ask what is due, where many runs are parked."""

from __future__ import annotations

import asyncio
from pathlib import Path

import apsw

from shipworthy.adapters.shared import queries
from shipworthy.adapters.sqlite import SqliteStore
from shipworthy.adapters.sqlite.operations import _GO_ON
from shipworthy.testing.contracts.store.workers import OPERATOR

PARKED = """WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000)
INSERT INTO runs (tenant, run_id, status, fence, head, started_at, updated_at, tail, wake_at)
SELECT 't', CAST(i AS TEXT), 'paused', 1, 1, 0, 0, i, CASE WHEN i % 2 = 0 THEN 1000 + i END FROM n"""


def test_what_is_parked_costs_nothing_where_nothing_is_due(tmp_path: Path) -> None:
    """The rows of an index of the waiting that are due, in its order, and no others."""

    async def due(now: int) -> list[str]:
        store = SqliteStore(tmp_path / "runs.db")
        await store.open()
        found = [run.run_id for run in await store.due(OPERATOR, now)]
        await store.close()
        return found

    assert asyncio.run(due(1005)) == []
    connection = apsw.Connection(str(tmp_path / "runs.db"))
    connection.execute(PARKED)
    plan = connection.execute(f"EXPLAIN QUERY PLAN {queries._DUE}", (1005, 500, 0)).fetchall()
    assert [step[-1] for step in plan] == ["SEARCH runs USING INDEX runs_due (wake_at<?)"]
    connection.close()
    assert asyncio.run(due(1005)) == ["2", "4"]


def test_a_run_that_goes_on_does_not_touch_what_waits() -> None:
    """The statement of nearly every commit has no part in it."""
    assert "wake_at" not in _GO_ON
