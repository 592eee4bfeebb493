"""What an agent's runs leave in its audit log: everything that is in the journal, before it takes effect."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from pathlib import Path
from typing import Any

import apsw
import pytest

from shipworthy import (
    Approve,
    Happened,
    Inbox,
    InMemoryRuntime,
    Scope,
    ScriptedModel,
    StandardPermissions,
    ToolCall,
    tool,
)
from shipworthy.errors import AuditError
from tests.audit.evidence import ALICE, KINDS, LASTING, Kind, Place, agrees, differences, finish, journal_of
from tests.audit.lives import LIVES, PAY, Life, World

go = asyncio.run


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A log of each kind, and a journal."""
    kind: Kind = request.param
    return Place(kind, tmp_path, request.getfixturevalue("database") if kind == "postgres" else "")


def unsaid(life: Life, place: Place) -> str:
    """What the log does not say of a life; "" if it says all."""
    entries = place.of(life.run_id)
    if [entries[0].action, entries[-1].action] != ["run.started", "run.ended"]:
        return "its start, or its end"
    if entries[-1].facts["status"] != life.status:
        return f"that it is {life.status}"
    said = iter([(entry.action, entry.actor) for entry in entries])
    for each in life.said:
        if each not in said:
            return str(each)
    for action, name, value in life.facts:
        if value not in [entry.facts[name] for entry in entries if entry.action == action]:
            return f"of {action} the {name}"
    return ""


def test_every_run_is_in_the_log_from_its_start_to_its_end(place: Place) -> None:
    async def law() -> None:
        runtime = place.runtime()
        await runtime.open()
        world = World(place, runtime)
        try:
            lives = {name: await live(world) for name, live in LIVES.items()}
            found = {name: said for name, life in lives.items() if (said := unsaid(life, place))}
            assert found == {}
            await agrees(place, runtime.store)
            for each in place.holding():
                if each.entry.n:
                    assert each.entry.tenant == "acme"
                    assert each.entry.user in ("alice", "bob")
            [first] = [entry for entry in place.of("completed") if entry.action == "run.started"]
            assert first.session == "s"
            assert first.facts["configuration"]["tools"]
        finally:
            await runtime.close()

    go(law())


# --- before the effect ------------------------------------------------------------------------


async def seen_by_its_body(place: Place, stream: bool = False) -> list[str]:
    """What the log said of a run when the body of its call began."""
    seen: list[str] = []

    @tool(effect="once")
    async def pay(amount: int) -> str:
        seen.extend(place.actions("r"))
        return "paid"

    runtime = place.runtime()
    async with place.agent(PAY, "Done.", tools=[pay], runtime=runtime) as agent:
        await finish(agent, stream, run_id="r")
        await agrees(place, runtime.store)
    return seen


@pytest.mark.parametrize("stream", [False, True])
def test_the_body_of_a_call_finds_its_attempt_in_the_log(place: Place, stream: bool) -> None:
    assert go(seen_by_its_body(place, stream))[-2:] == ["tools.allowed", "tool.attempted"]


# --- what cannot be entered does not happen ---------------------------------------------------


class Trouble:
    """Something that happens to a log while a call's body runs, and how it is put right."""

    def __init__(self, place: Place, log: Any) -> None:
        self.place, self.log = place, log

    async def close(self) -> None:
        await self.log.close()

    async def open(self) -> None:
        await self.log.open()


async def troubled(place: Place, begin: Any = Trouble.close, end: Any = Trouble.open) -> None:
    """A run goes on until its log cannot be written, does nothing then, and goes on when it can."""
    happened: list[int] = []
    log, runtime = place.log(), place.runtime()
    trouble = Trouble(place, log)

    @tool(effect="once")
    async def pay(amount: int) -> str:
        happened.append(amount)
        if happened == [1]:
            await begin(trouble)
        return "paid"

    turns = [ToolCall("pay", {"amount": 1})], [ToolCall("pay", {"amount": 2})], "Done."
    agent = place.agent(*turns, tools=[pay], runtime=runtime, audit_log=log)
    await runtime.open()
    try:
        with pytest.raises(AuditError) as refused:
            await agent.run("Go", run_id="r", **ALICE)
        assert refused.value.fix
        assert happened == [1]
        stopped = await runtime.store.read(Scope("acme"), "r")
        assert [type(event).__name__ for event in stopped][-1] == "ToolAttempted"
        with pytest.raises(AuditError):
            await agent.run("Go", run_id="another", **ALICE)
        with pytest.raises(AuditError):
            await agent.resume("r", tenant_id="acme")
        await end(trouble)
        if place.kind != "memory":
            assert list(differences(place.holding(), {("acme", "r"): stopped})) == []
        parked = await agent.resume("r", tenant_id="acme")  # its first call is in doubt
        result = await agent.resume(parked, settle={parked.pending[0].call_id: Happened("paid")})
        assert (result.status, happened) == ("completed", [1, 2])
        await agent.run("Go", run_id="another", **ALICE)
        await agrees(place, runtime.store)
    finally:
        await runtime.close()


def test_a_log_that_is_closed_stops_a_run_until_it_is_open(place: Place) -> None:
    go(troubled(place))


async def fill(trouble: Trouble) -> None:
    """No file may grow any more: the journal is in memory here."""
    most = len(trouble.place.path.read_bytes()) + 100
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))


async def make_room(trouble: Trouble) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def test_a_full_disk_stops_a_run_until_there_is_room(tmp_path: Path) -> None:
    place = Place("file", tmp_path)
    place.runtime = InMemoryRuntime  # type: ignore[assignment, method-assign]
    try:
        go(troubled(place, fill, make_room))
    finally:
        go(make_room(Trouble(place, None)))


@pytest.mark.parametrize("kind", ["file", "apart", "joined"])
def test_a_log_that_was_changed_begins_no_run(kind: Kind, tmp_path: Path) -> None:
    place = Place(kind, tmp_path)

    async def live(run_id: str) -> list[str]:
        runtime = place.runtime()
        async with place.agent("Hi.", runtime=runtime) as agent:
            with contextlib.suppress(AuditError):
                await agent.run("Go", run_id=run_id, **ALICE)
            return [run for _, run in await journal_of(runtime.store)]

    assert go(live("first")) == ["first"]
    if kind == "file":
        text = place.path.read_bytes()
        place.path.write_bytes(text.replace(b'"run.ended"', b'"run.endet"'))
    else:
        with contextlib.closing(apsw.Connection(str(place.path))) as connection:
            connection.execute("DELETE FROM audit_entries WHERE id = (SELECT max(id) FROM audit_entries)")
    assert go(live("second")) == ["first"]


@pytest.mark.parametrize("kind", ["file", "apart"])
def test_a_log_without_a_folder_begins_no_run(kind: Kind, tmp_path: Path) -> None:
    async def law() -> None:
        place = Place(kind, tmp_path)
        place.path = tmp_path / "missing" / "log"
        runtime = place.runtime()
        async with place.agent("Hi.", runtime=runtime) as agent:
            with pytest.raises(AuditError) as refused:
                await agent.run("Go", run_id="r", **ALICE)
            assert refused.value.fix
            assert await journal_of(runtime.store) == {}
            place.path.parent.mkdir()
            assert (await agent.run("Go", run_id="r", **ALICE)).output == "Hi."
            await agrees(place, runtime.store)

    go(law())


# --- many at once, again, and elsewhere -------------------------------------------------------


def test_two_hundred_runs_at_once_of_twenty_tenants_are_in_one_chain(place: Place) -> None:
    async def law() -> None:
        @tool(effect="read")
        async def look() -> str:
            return "seen"

        runtime = place.runtime()
        model = ScriptedModel([ToolCall("look"), "Done."])
        async with place.agent(model=model, tools=[look], runtime=runtime) as agent:
            who = [
                {"tenant_id": f"t{n % 20}", "user_id": f"u{n % 7}", "run_id": f"r{n // 20}"}
                for n in range(200)
            ]
            await asyncio.gather(*[finish(agent, n % 2 == 1, **each) for n, each in enumerate(who)])
            await agrees(place, runtime.store)
            journal = await journal_of(runtime.store)
        ended = [e.entry for e in place.holding() if e.entry.action == "run.ended"]
        assert len(journal) == len(ended) == 200
        assert {(e.tenant, e.user, e.run) for e in ended} == {tuple(each.values()) for each in who}

    go(law())


def test_the_same_call_made_again_or_at_once_enters_nothing_again(place: Place) -> None:
    async def law() -> None:
        runtime = place.runtime()
        async with place.agent(PAY, "Done.", tools=[World(place, runtime).pay()], runtime=runtime) as agent:
            await asyncio.gather(*[agent.run("Go", run_id="r", **ALICE) for _ in range(3)])
            before = len(place.told())
            await agent.run("Go", run_id="r", **ALICE)
            await agent.resume("r", tenant_id="acme")
            assert len(place.told()) == before
            assert len(place.actions("r")) == before - 1
            await agrees(place, runtime.store)

    go(law())


@pytest.mark.parametrize("kind", LASTING)
@pytest.mark.parametrize("by", ["agent", "checkpoint", "inbox", "stranger", "cancelled"])
def test_what_is_answered_in_another_process_is_in_the_log(kind: Kind, by: str, tmp_path: Path) -> None:
    """The "stranger" answers without an agent, and so without a log: whoever goes on enters it."""
    place = Place(kind, tmp_path)

    def asking(runtime: Any) -> Any:
        options = {"permissions": StandardPermissions(), "approval_handler": Inbox()}
        return place.agent(PAY, "Done.", tools=[World(place, runtime).pay()], runtime=runtime, **options)

    async def ask() -> Any:
        async with asking(place.runtime()) as agent:
            paused = await agent.run("Go", run_id="r", **ALICE)
            return paused.checkpoint

    async def answer(checkpoint: Any) -> None:
        runtime = place.runtime()
        if by == "stranger":
            await put(Inbox(runtime=runtime))
            return await runtime.close()
        async with asking(runtime) as agent:
            if by == "inbox":
                await agent.resume("r", tenant_id="acme")  # nobody has answered yet
                inbox = agent._control.inbox
                await put(inbox)
            elif by == "cancelled":
                await agent.cancel("r", tenant_id="acme")
            else:
                run, tenant = ("r", "acme") if by == "agent" else (checkpoint, None)
                await agent.resume(run, tenant_id=tenant, answer=Approve(by="carol"))

    async def put(inbox: Inbox) -> None:
        [request] = await inbox.requests("acme", run_id="r")
        await inbox.approve(request, Approve(by="carol"))

    async def end() -> None:
        runtime = place.runtime()
        async with asking(runtime) as agent:
            await agent.resume("r", tenant_id="acme")
            await agrees(place, runtime.store)

    checkpoint = go(ask())
    go(answer(checkpoint))
    go(end())
    said = [(entry.action, entry.actor) for entry in place.of("r")]
    assert ("approval.granted", "approver:carol") in said or by == "cancelled"
    assert [each[0] for each in said].count("approval.granted") == (by != "cancelled")
    assert said[-1] == ("run.ended", "runtime")
