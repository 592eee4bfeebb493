"""Journal and DBOS on one PostgreSQL server, which dies and comes back."""

from __future__ import annotations

import asyncio

from shipworthy import DBOSRuntime
from tests.dbos.world import ALICE, Till, agent, go, over
from tests.servers.postgres import OwnPostgres


def test_a_run_outlives_the_death_of_the_server() -> None:
    async def law() -> None:
        till = Till()
        till.go_on.clear()
        with OwnPostgres() as server:
            runtime = DBOSRuntime(server.dsn)
            a = agent(runtime, till)
            try:
                task = asyncio.create_task(a.run("Go", run_id="r", **ALICE))
                await till.entered.wait()
                await asyncio.to_thread(server.kill)
                till.go_on.set()
                await asyncio.sleep(0.2)
                await asyncio.to_thread(server.start)
                result = await task
                assert (result.output, till.taken) == ("Charged.", [5])
                assert await over(1) == ["SUCCESS"]
            finally:
                await runtime.close()

    go(law)
