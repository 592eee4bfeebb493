"""What holds of runs that DBOS drives, seen from the agent's own surface."""

from __future__ import annotations

import asyncio
from typing import Any

from dbos import DBOS

from shipworthy import (
    Happened,
    TextDelta,
)
from shipworthy.domain.events import Event
from tests.dbos.world import ALICE, Till, agent, go, over, runtime_on


def test_a_run_is_one_workflow_and_the_same_call_again_is_the_same_run(place: Any) -> None:
    async def law() -> None:
        till = Till()
        async with runtime_on(place) as runtime:
            a = agent(runtime, till)
            first, second = await asyncio.gather(*[a.run("Go", run_id="r", **ALICE) for _ in range(2)])
            third = await a.run("Go", run_id="r", **ALICE)
            assert {first.output, second.output, third.output} == {"Charged."}
            assert till.taken == [5]
            assert await over(1) == ["SUCCESS"]
            (workflow,) = await asyncio.to_thread(DBOS.list_workflows)
            assert workflow.workflow_id.startswith("4:acme:1:r:")
            assert workflow.input == {"args": ("clerk", "acme", "r"), "kwargs": {}}

    go(law)


def test_a_run_that_is_parked_is_settled_and_resumed_in_a_workflow_of_its_own(place: Any) -> None:
    async def law() -> None:
        till = Till()
        till.fails = True
        async with runtime_on(place) as runtime:
            a = agent(runtime, till)
            parked = await a.run("Go", run_id="r", **ALICE)
            assert (parked.status, [c.tool for c in parked.pending]) == ("paused", ["charge"])
            assert await over(1) == ["SUCCESS"]  # DBOS notes it a little later
            settle = {parked.pending[0].call_id: Happened("charged")}
            resumed = await a.resume("r", tenant_id="acme", settle=settle)
            assert (resumed.output, till.taken) == ("Charged.", [5])
            assert await over(2) == ["SUCCESS", "SUCCESS"]

    go(law)


def test_a_stream_shows_each_event_once_and_deltas_between_them(place: Any) -> None:
    async def law() -> None:
        async with runtime_on(place) as runtime:
            async with agent(runtime, Till()).stream("Go", run_id="r", **ALICE) as stream:
                items = [item async for item in stream]
            seqs = [item.seq for item in items if isinstance(item, Event)]
            assert seqs == list(range(1, len(seqs) + 1))
            assert "".join([item.text for item in items if isinstance(item, TextDelta)]) == "Charged."
            assert stream.result.output == "Charged."

    go(law)


def test_runs_go_side_by_side(place: Any) -> None:
    async def law() -> None:
        till = Till()
        async with runtime_on(place) as runtime:
            a = agent(runtime, till)
            results = await asyncio.gather(*[a.run("Go", **ALICE) for _ in range(12)])
            assert {r.output for r in results} == {"Charged."}
            assert till.taken == [5] * 12

    go(law)
