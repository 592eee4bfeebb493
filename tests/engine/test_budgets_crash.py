"""A process dies at every point of a run under a budget, and another goes on: what may have been sent is charged, and
once; nothing that nobody can settle any more is held for ever."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shipworthy import InMemoryRuntime, SqliteRuntime, tool
from shipworthy.domain.events import AnyEvent
from shipworthy.domain.scope import Operator
from shipworthy.engine.budgeting import BudgetMeter
from shipworthy.testing.faults import Point, Points
from tests.engine.nested_spending import Asking, journals
from tests.engine.spending import (
    Provider,
    balances,
    budget,
    charges,
    go_by,
    of_kind,
    requests_of,
    spender,
    summed,
)
from tests.engine.world import ALICE, go, journal

LIMITS = {
    "max_tokens": 6_000,
    "per_user_max_tokens": 50_000,
    "per_user_max_cost_usd": 10,
    "per_user_max_requests": 50,
    "per_user_max_tool_calls": 50,
    "max_output_tokens_per_call": 500,
    "ttl": 0.3,
}
AT_ONCE = 6
"""Deaths that are tried at once: who goes on mostly waits."""


@tool(effect="read")
async def look(input: str) -> str:
    """Look."""
    return "seen"


class Billing(Asking):
    """Notes outside the process what it bills, before it answers."""

    def __init__(self, folder: Path, points: Points, *script: str) -> None:
        super().__init__(*script)
        self.folder, self.points = folder, points

    async def stream(self, request: Any) -> Any:
        with self.points.around("call"):
            with (self.folder / "billed").open("a") as file:
                file.write("60\n")
            async for item in super().stream(request):
                yield item


class Watched:
    """A ledger whose reservations and settlements are points too."""

    def __init__(self, ledger: Any, points: Points) -> None:
        self._ledger, self._points = ledger, points

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    async def reserve(self, hold: Any) -> Any:
        with self._points.around("reserve"):
            return await self._ledger.reserve(hold)

    async def settle(self, settlement: Any) -> Any:
        with self._points.around("settle"):
            return await self._ledger.settle(settlement)


class Books(msgspec.Struct):
    """What is written where when all is over. `unrecorded`: the tokens of a hold that no journal knows of."""

    status: str
    requests: int
    attempts_charged: int
    crashed: int
    billed: int
    journal: dict[str, int]
    ledger: dict[str, int]
    held: int
    asked: int
    left: int


def world(folder: Path, where: str, shape: str, points: Points) -> tuple[Any, Any]:
    """The agent, and its ledger. "nested": it asks another one, which has a budget of its own."""
    runtime = SqliteRuntime(folder / "bot.db", durability="process")
    points.watch(runtime)
    ledger: Any = None
    if where == "apart":
        ledger = Watched(SqliteRuntime(folder / "spent.db", durability="process").store.ledger, points)
    model, limits = Billing(folder, points, "look", "look"), budget(ledger, **LIMITS)
    agent = spender(model, limits, tools=[look], runtime=runtime, name="a")
    if shape == "nested":
        model, limits = Billing(folder, points, "a"), budget(ledger, **LIMITS)
        agent = spender(model, limits, tools=[agent.as_tool()], runtime=runtime, name="around")
    return agent, ledger or runtime.store.ledger


async def first(folder: Path, where: str, shape: str, way: Any, at: Point | None) -> list[Point]:
    points = Points(at)
    agent, _ = world(folder, where, shape, points)
    await go_by(way, agent, run_id="r", **ALICE)
    await agent.close()
    return points.reached


async def second(folder: Path, where: str, shape: str) -> Books | None:
    """Go on, and look at the books; None if the run was not begun."""
    from shipworthy.errors import RunNotFound

    agent, ledger = world(folder, where, shape, Points())
    try:
        result = await agent.resume("r", tenant_id="acme")
    except RunNotFound:
        await agent.close()
        return None
    await ledger.open()
    if any([held for _, held in (await balances(ledger, "acme")).values()]):
        await asyncio.sleep(0.35)
        await ledger.sweep(Operator("what the dead process held"))
    events: list[AnyEvent] = [e for each in (await journals(agent.runtime)).values() for e in each]
    total = summed(charges(events))
    found = await balances(ledger, "acme", "alice")
    billed = folder / "billed"
    books = Books(
        status=result.status,
        requests=requests_of(events),
        attempts_charged=len(charges(events)),
        crashed=len([e for e in of_kind(events, "ModelAbandoned") if e.reason == "crashed"]),
        billed=sum(map(int, billed.read_text().split())) if billed.exists() else 0,
        journal={
            "tokens": total.input_tokens + total.output_tokens,
            "cost_usd": total.cost or 0,
            "requests": requests_of(events),
            "tool_calls": sum([len(e.calls) for e in of_kind(events, "ToolsJudged") if e.charged]),
        },
        ledger={unit: spent for (_, _, unit), (spent, _) in found.items()},
        held=sum([held for _, held in (await balances(ledger, "acme")).values()]),
        asked=max([e.reserved.input_tokens for e in of_kind(events, "ModelRequested")]) + 500,
        left=len([key for key in await balances(ledger, "acme") if key[0] == "run"]),
    )
    await agent.close()
    return books


def main(folder: Path, where: str, shape: str, way: str) -> None:
    """Tell of every point: which it was, and the books after a death there. Each death is a process of its own, and so
    is who goes on; some wait at once for what the dead ones held to expire."""
    (folder / "whole").mkdir()
    points = dict.fromkeys(go(first(folder / "whole", where, shape, way, None)))
    going, codes = set[int](), list[int]()
    for index, point in enumerate(points):
        if len(going) == AT_ONCE:
            codes.append(ended(going))
        if (child := os.fork()) == 0:
            die_and_go_on(folder / str(index), where, shape, way, point)
            os._exit(0)
        going.add(child)
    while going:
        codes.append(ended(going))
    assert not any(codes), codes


def ended(going: set[int]) -> int:
    """How one of them came to its end."""
    child, status = os.wait()
    going.remove(child)
    return status


def die_and_go_on(place: Path, where: str, shape: str, way: str, point: Point) -> None:
    place.mkdir()
    if (child := os.fork()) == 0:
        go(first(place, where, shape, way, point))
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -9
    books = go(second(place, where, shape))
    os.write(1, msgspec.json.encode([str(point), books]) + b"\n")  # at one go: others tell of theirs


def wrong(books: Books, where: str) -> str | None:
    """What is not as it should be."""
    extra = books.ledger.get("tokens", 0) - books.journal["tokens"]
    others = {u: books.ledger.get(u, 0) - books.journal[u] for u in ("tool_calls", "requests")}
    if books.status != "completed":
        return f"it is {books.status}"
    if books.held:
        return "something is held for ever"
    if books.requests != books.attempts_charged:
        return "an attempt was not charged, or twice"
    if books.journal["tokens"] < books.billed:
        return "less was charged than was billed"
    if where == "joined" and (extra or any(others.values())):
        return "ledger and journal differ"
    if where == "joined" and books.left:
        return "counters of runs that have ended are kept"
    if extra not in range(books.asked + 1) or any([more not in (0, 1) for more in others.values()]):
        return "the ledger has less than the journal, or more than what was reserved and never recorded"
    return None


@pytest.mark.parametrize("way", ["run", "stream"])
@pytest.mark.parametrize("where", ["joined", "apart"])
@pytest.mark.parametrize(("shape", "whole"), [("alone", 180), ("nested", 300)])
def test_a_death_at_any_point_charges_what_may_have_been_sent_once(
    shape: str, whole: int, where: str, way: str, tmp_path: Path
) -> None:
    """`whole`: the tokens that are billed where nobody dies."""
    command = [sys.executable, "-m", "tests.engine.test_budgets_crash", str(tmp_path), where, shape, way]
    told = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert told.returncode == 0, told.stderr
    lines = [json.loads(line) for line in told.stdout.splitlines()]
    after = {point: msgspec.convert(books, Books) for point, books in lines if books is not None}
    assert {point: problem for point, books in after.items() if (problem := wrong(books, where))} == {}
    assert len(after) >= 20
    assert {books.crashed for books in after.values()} == {0, 1}
    assert sum([books.billed > whole for books in after.values()]) >= 3


# in one process: what was in flight when its store was taken away


def abandoned_and_resumed() -> tuple[Any, Any, int]:
    """A run is left in a call by a process that does not come back; another one resumes it."""

    async def law() -> tuple[Any, Any, int]:
        runtime = InMemoryRuntime()
        model = Provider(gate=asyncio.Event())
        agent = spender(model, LIMITS, runtime=runtime, name="a")
        left = asyncio.create_task(agent.run("Hi", run_id="r", **ALICE))
        while not model.seen:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        run = runtime.active(left_scope(), "r")
        assert run is not None
        runtime.leave(run)
        await runtime.store.release(run.fence)
        again = spender(Provider(), LIMITS, runtime=runtime, name="a")
        result = await again.resume("r", tenant_id="acme")
        found = await balances(runtime.store.ledger, "acme", "alice")
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
        return result, await journal(again, "r"), found["user", '["alice"]', "tokens"][0]

    return go(law())


def left_scope() -> Any:
    from shipworthy import Scope

    return Scope("acme", "alice")


def test_what_a_dead_process_had_sent_is_charged_in_full_when_its_run_is_resumed() -> None:
    result, events, spent = abandoned_and_resumed()
    (crashed,) = of_kind(events, "ModelAbandoned")
    assert (crashed.reason, crashed.charged.output_tokens) == ("crashed", 500)
    total = summed(charges(events))
    assert result.charged == total
    assert spent == total.input_tokens + total.output_tokens


def test_a_hold_that_is_released_after_a_crash_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """To free what a dead process held, as if it had not been sent, is the mutant."""

    async def released(self: Any, run: Any) -> None:
        if (attempt := run.state.attempt) is not None:
            await self._bank.ledger.release(run.scope.tenant, attempt.reserved.id)

    monkeypatch.setattr(BudgetMeter, "recover", released)
    with pytest.raises((AssertionError, ValueError)):
        test_what_a_dead_process_had_sent_is_charged_in_full_when_its_run_is_resumed()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
