"""The first commit of a run, and who may take a run that nobody drives."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from shipworthy import SqliteRuntime, ToolCall, Tuning
from shipworthy.errors import ConfigurationError, InvalidOption
from tests.engine.world import ALICE, Sink, agent, go, kinds


def test_a_run_that_is_cancelled_while_it_is_begun_is_not_carried_out_later(tmp_path: Path) -> None:
    async def law() -> None:
        sink = Sink()
        a = agent(
            ToolCall("charge", {"amount": 1}),
            "Done.",
            tools=[sink.charge()],
            runtime=SqliteRuntime(tmp_path / "r.db"),
        )
        await a.runtime.open()
        task = asyncio.create_task(a.run("Charge", run_id="r", **ALICE))
        for _ in range(20):  # until its commit is queued
            await asyncio.sleep(0)
            if a.runtime.store._writer._waiting:
                break
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await a.resume("r", tenant_id="acme")).status == "cancelled"
        assert await a.recover() == []
        assert sink.effects == []
        await a.close()

    go(law())


def test_agents_without_a_name_leave_each_others_orphans_alone(tmp_path: Path) -> None:
    async def law() -> None:
        runtime = SqliteRuntime(tmp_path / "r.db")
        sink = Sink()
        one = agent(ToolCall("charge", {"amount": 1}), "Done.", tools=[sink.charge()], runtime=runtime)
        await runtime.open()
        started = await one._in_use().begin(
            await one._in_use().asked(
                one._scope("acme", "alice", None),
                "Charge",
                run_id="r",
                deps=None,
                message_history=None,
                settings=None,
                timeout=None,
            )
        )
        assert started is not None
        runtime.leave(started)  # its driver is gone
        other = agent("Not mine.", runtime=runtime)
        assert await other.recover() == []
        assert [r.output for r in await one.recover()] == ["Done."]
        assert sink.effects == [1]
        await runtime.close()

    go(law())


@pytest.mark.parametrize(
    "bad",
    [
        {"name": ""},
        {"deps": 3},
        {"settings": {"temperature": 1}},
        {"timeout": float("inf")},
        {"tuning": Tuning(recover_every=0)},
        {"tuning": Tuning(tool_timeout=float("inf"))},
    ],
    ids=str,
)
def test_what_could_not_work_later_is_refused_when_the_agent_is_built(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        agent("Hi", **bad)


@pytest.mark.parametrize("bad", [{"timeout": -1}, {"settings": {"temperature": 1}}], ids=str)
def test_what_could_not_work_is_refused_before_a_run_begins(bad: dict[str, Any]) -> None:
    async def law() -> None:
        a = agent("Hi")
        with pytest.raises(InvalidOption):
            await a.run("Hi", run_id="r", **bad, **ALICE)
        assert kinds((await a.run("Hi", run_id="r", **ALICE)).messages) != []

    go(law())
