"""Moving house with runs that others belong to: whatever comes between, nothing that was done is done again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shipworthy import Agent, Approve, Inbox, ScriptedModel, SqliteRuntime, ToolCall, parallel, tool
from shipworthy.domain.journal import RunFilter, RunSummary
from shipworthy.domain.scope import Scope
from shipworthy.engine.migrate import Migration, Report
from shipworthy.engine.runtime import Runtime
from shipworthy.engine.trees import Trees
from shipworthy.ports.store import Store
from shipworthy.testing.contracts.store.workers import begun
from shipworthy.testing.faults import Point, PointedStore, Points

ACME: dict[str, Any] = {"tenant_id": "acme", "user_id": "alice"}


class Killed(BaseException):
    """The command died here."""


class World:
    """Two stores, a desk with two agents at work, and what was really paid."""

    def __init__(self, path: Path) -> None:
        self.old, self.new, self.paid = path / "old.db", path / "new.db", list[int]()

    def desk(self, runtime: Runtime) -> Agent[Any, Any]:
        @tool(effect="once")
        async def pay(amount: int) -> str:
            self.paid.append(amount)
            return "paid"

        @tool(effect="once", requires_approval=True)
        async def sign(x: int) -> str:
            return "signed"

        turns = [ToolCall("pay", {"amount": 5}), ToolCall("sign", {"x": 1}), "Paid."]
        bull = Agent(name="bull", model=ScriptedModel(turns), tools=[pay, sign])
        bear = Agent(
            name="bear", model=ScriptedModel([ToolCall("pay", {"amount": 7}), "Me too."]), tools=[pay]
        )
        asked = ScriptedModel([ToolCall("both", {"input": "Pay"}), "Done."])
        tools = [parallel(bull, bear, name="both")]
        return Agent(name="desk", model=asked, tools=tools, runtime=runtime, approval_handler=Inbox())

    async def begin(self) -> None:
        """bear has ended, bull waits, and so the desk does."""
        agent = self.desk(SqliteRuntime(self.old))
        assert (await agent.run("Go", run_id="r1", **ACME)).status == "paused"
        await agent.close()

    async def bring(self, points: Points | None = None, *, back: bool = False) -> Report:
        runtimes = [SqliteRuntime(self.old), SqliteRuntime(self.new)]
        names = [str(self.old), str(self.new)]
        stores: list[Store] = []
        for runtime in runtimes:
            await runtime.store.open()
            made = runtime.store
            stores.append(made if points is None else PointedStore(made, points, lambda *_: None))
        if back:
            stores.reverse()
            names.reverse()
        try:
            return await Migration(*stores, origin=names[0], to=names[1]).work()
        finally:
            for runtime in runtimes:
                await runtime.store.close()

    async def go_on(self, where: Path, **more: Any) -> Any:
        """Resume as a service on that store does; None if it has no such run."""
        agent = self.desk(SqliteRuntime(where))
        try:
            if await agent.recover() == [] and not await _there(agent.runtime.store):
                return None
            return await agent.resume("r1", tenant_id="acme", **more)
        finally:
            await agent.close()


async def _there(store: Store) -> list[RunSummary]:
    return list(await store.list(Scope("acme"), RunFilter()))


def _stopping(at: int) -> Points:
    """The command dies at its nth moment before or after a durable write."""

    class Nth(Points):
        def _reach(self, point: Point) -> None:
            super()._reach(point)
            if len(self.reached) == at:
                raise Killed

    return Nth()


async def interrupted(path: Path, at: int, *, between: bool = True) -> bool:
    """Moved with an interruption, both services at work after it, and moved again; whether there was one."""
    world, died = World(path), False
    await world.begin()
    try:
        await world.bring(_stopping(at))
    except Killed:
        died = True
    if between and died:
        for where in (world.old, world.new):
            await world.go_on(where)
    assert sorted(world.paid) == [5, 7]
    assert (await world.bring()).left == []
    result = await world.go_on(world.new, answer=Approve(by="maria"))
    assert (result.status, result.output) == ("completed", "Done.")
    assert sorted(world.paid) == [5, 7]
    return died


def test_wherever_it_is_interrupted_no_nested_run_is_begun_anew(tmp_path: Path) -> None:
    moments = 0
    while True:
        (path := tmp_path / str(moments)).mkdir()
        if not asyncio.run(interrupted(path, moments + 1)):
            break
        moments += 1
    assert moments > 10


def test_all_runs_of_a_tree_are_counted_once_and_come_back_again(tmp_path: Path) -> None:
    async def law() -> None:
        world = World(tmp_path)
        await world.begin()
        report = await world.bring()
        assert (report.copied, report.moved, report.there, report.left) == (1, 2, 0, [])
        report = await world.bring()
        assert (report.copied, report.moved, report.there, report.left) == (0, 0, 3, [])
        world.old = tmp_path / "third.db"
        report = await world.bring(back=True)  # there the nested ones were begun first
        assert (report.copied, report.moved, report.there, report.left) == (1, 2, 0, [])
        result = await world.go_on(world.old, answer=Approve(by="maria"))
        assert (result.status, sorted(world.paid)) == ("completed", [5, 7])

    asyncio.run(law())


def test_what_keeps_a_nested_run_keeps_the_run_it_belongs_to(tmp_path: Path) -> None:
    async def law() -> None:
        world = World(tmp_path)
        await world.begin()
        other = world.desk(SqliteRuntime(world.new))
        await other.runtime.store.open()
        where = SqliteRuntime(world.old)
        await where.store.open()
        runs = await where.store.list(Scope("acme"), RunFilter("paused", nested=True))
        [waits] = [run for run in runs if run.root is not None]
        await begun(other.runtime.store, Scope("acme"), waits.run_id)  # it has the id by chance
        await where.close()
        await other.close()
        report = await world.bring()
        assert {left.run.run_id for left in report.left} == {"r1", waits.run_id}
        result = await world.go_on(world.old, answer=Approve(by="maria"))
        assert (result.status, sorted(world.paid)) == ("completed", [5, 7])

    asyncio.run(law())


# --- broken variants --------------------------------------------------------------------------


def parents_first(patch: pytest.MonkeyPatch) -> None:
    """In the order in which they were begun."""

    async def none(self: Trees, root: RunSummary) -> list[RunSummary]:
        return []

    patch.setattr(Trees, "of", none)


def children_while_their_root_is_there(patch: pytest.MonkeyPatch) -> None:
    """Nested runs are given up before the run that goes on with them."""
    patch.setattr(Migration, "_movable", Migration._bring)


@pytest.mark.parametrize("plant", [parents_first, children_while_their_root_is_there])
def test_a_broken_variant_is_caught(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plant(monkeypatch)
    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever it breaks with, it breaks
        test_wherever_it_is_interrupted_no_nested_run_is_begun_anew(tmp_path)
