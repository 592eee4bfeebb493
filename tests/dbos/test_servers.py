"""Journal and DBOS on one PostgreSQL server, which dies and comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from shipworthy import DBOSRuntime
from tests.crash import proof
from tests.dbos.child import SAME_EXECUTOR
from tests.dbos.world import ALICE, Till, agent, go, over
from tests.dbos.worlds import PLAN, points, processes, worlds
from tests.servers.postgres import OwnPostgres

ON_POSTGRES = proof.with_setting(PLAN, store="postgres", ttl=0.6, skew=0.1, tool_timeout=0.4)


@pytest.fixture(scope="module", autouse=True)
def zygote() -> Iterator[None]:
    with processes():
        yield


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


def test_a_kill_harms_nothing_where_journal_and_dbos_share_a_database() -> None:
    """A lost session is no proof of death, so what is said not to have happened is believed a little later."""
    expected, _ = proof.uncrashed(PLAN)
    with worlds(SAME_EXECUTOR, "postgres") as fresh:
        assert proof.crash_and_judge(next(fresh), ON_POSTGRES, expected, points()["after the effect"]) == []
