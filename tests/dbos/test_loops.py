"""One runtime, and event loops that come and go."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from dbos import DBOS

from shipworthy import DBOSRuntime
from tests.dbos.world import ALICE, Till, agent


@pytest.mark.parametrize("queue", [None, "desk"])
def test_a_runtime_goes_on_with_the_next_loop(tmp_path: Path, queue: str | None) -> None:
    runtime = DBOSRuntime(f"sqlite:{tmp_path / 'bot.db'}", queue=queue)
    till = Till()
    a = agent(runtime, till)

    async def run(run_id: str) -> object:
        async with asyncio.timeout(10):
            return (await a.run("Go", run_id=run_id, **ALICE)).output

    try:
        assert [asyncio.run(run("r")), asyncio.run(run("s"))] == ["Charged."] * 2
        assert till.taken == [5, 5]
    finally:
        asyncio.run(runtime.close())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("again", [False, True])
def test_a_loop_that_is_closed_under_a_run_prevents_neither_the_next_one_nor_the_close(
    tmp_path: Path, again: bool
) -> None:
    runtime = DBOSRuntime(f"sqlite:{tmp_path / 'bot.db'}")
    till = Till()
    till.go_on.clear()
    a = agent(runtime, till)
    loop, begun = asyncio.new_event_loop(), list[object]()

    async def begin() -> None:
        begun.append(loop.create_task(a.run("Go", run_id="r", **ALICE)))
        async with asyncio.timeout(10):
            await till.entered.wait()

    async def close() -> None:
        async with asyncio.timeout(10):
            await runtime.close()

    async def go_on() -> str:
        async with asyncio.timeout(10):
            return (await a.run("Go", run_id="r", **ALICE)).status

    loop.run_until_complete(begin())
    loop.close()
    try:
        if again:
            assert (asyncio.run(go_on()), till.taken) == ("paused", [])
    finally:
        asyncio.run(close())
    with pytest.raises(Exception, match="DBOS"):
        DBOS.list_workflows()  # it was destroyed
