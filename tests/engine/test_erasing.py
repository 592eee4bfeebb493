"""Erasing a user: nothing of them is found by any call, and on SQLite no byte in any file; others keep theirs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from msgspec.structs import replace

import shipworthy.adapters.sqlite.erasing as sqlite_erasing
import shipworthy.rules.erasing as rules
from shipworthy import (
    Agent,
    Approve,
    BudgetConfig,
    Inbox,
    InMemoryRuntime,
    PostgresRuntime,
    ScriptedModel,
    SqliteRuntime,
    StandardBudget,
    StandardPermissions,
    ToolCall,
    tool,
)
from shipworthy.app.commands.printing import Printer
from shipworthy.app.commands.runs import show
from shipworthy.app.commands.timeline import lines
from shipworthy.domain.journal import RunFilter
from shipworthy.domain.scope import ERASED_RUN, Operator, Scope
from shipworthy.engine.erasing import ERASED, JournalsErased, erase_journals
from shipworthy.engine.runtime import Runtime
from shipworthy.engine.sessions import Conversations
from shipworthy.errors import ErasureIncomplete, InputError, RequestRejected, RunNotFound
from shipworthy.rules.state import replay, status_of
from shipworthy.testing.faults import Point, Points
from tests.engine.world import go, valid
from tests.servers.postgres import Postgres

CANARY = "Zuzanna4711"
"""In all that is the user's: their id, words, arguments, results, the ids of their sessions and runs."""
LONG = f"{CANARY} " * 1000
ALICE = {"tenant_id": "acme", "user_id": f"u-{CANARY}"}
BOB = {"tenant_id": "acme", "user_id": "bob", "session_id": "bobs"}
USER = Scope("acme", f"u-{CANARY}")
OPERATOR = Operator("tests")
CAPS = StandardBudget(BudgetConfig(per_user_max_tokens=10**6, per_session_max_tokens=10**6, max_requests=100))
Make = Callable[[], Runtime]


@tool(effect="read")
async def look(what: str) -> str:
    """Look something up."""
    return f"found {what}: {LONG}"


@tool(effect="once")
async def pay(whom: str) -> str:
    """Pay somebody."""
    return f"paid {whom}"


def agent(runtime: Runtime, *turns: Any, **options: Any) -> Agent[Any, Any]:
    options = {"tools": [look, pay], "budget": CAPS, **options}
    return Agent("Be brief.", name="clerk", model=ScriptedModel(turns), runtime=runtime, **options)


async def live(runtime: Runtime) -> None:
    """What the user does: talk in a session, look things up, fail, wait for approvals, ask others; Bob talks too."""
    session = {**ALICE, "session_id": f"s-{CANARY}"}
    called = ToolCall("look", {"what": LONG})
    await agent(runtime, called, f"Here, {CANARY}.").run(f"I am {CANARY}.", **session, run_id=f"i-{CANARY}")
    await agent(runtime, "And again.").run(LONG, **session)
    await agent(runtime, ToolCall(f"tell_{CANARY}", {}), LONG).run(f"Tell {CANARY}.", **ALICE)
    await agent(runtime, RequestRejected(f"no {CANARY}")).run(f"Fail, {CANARY}.", **ALICE)
    asked = {
        "permissions": StandardPermissions(),
        "approval_handler": lambda r: Approve(by=CANARY, remember="user"),
    }
    await agent(runtime, ToolCall("pay", {"whom": CANARY}), "Paid.", **asked).run("Pay me.", **ALICE)
    held: dict[str, Any] = {"permissions": StandardPermissions(), "approval_handler": Inbox()}
    waits = agent(runtime, ToolCall("pay", {"whom": CANARY + "2"}), "Paid.", **held)
    assert (await waits.run(f"Pay {CANARY}.", **ALICE, run_id=f"w-{CANARY}")).status == "paused"
    paying = ScriptedModel([ToolCall("pay", {"whom": CANARY + "3"})])
    inner = Agent("Help.", name="helper", model=paying, tools=[pay], **held)
    outer = agent(runtime, ToolCall("helper", {"input": CANARY}), tools=[inner.as_tool()], **held)
    assert (await outer.run(f"Ask for {CANARY}.", **ALICE, run_id=f"n-{CANARY}")).status == "paused"
    await agent(runtime, "Dear Bob.").run("I am Bob.", **BOB, run_id="bobs-run")


@contextlib.asynccontextmanager
async def opened(make: Make) -> AsyncIterator[Runtime]:
    runtime = make()
    await runtime.acquire()
    try:
        yield runtime
    finally:
        await runtime.release()


async def said(runtime: Runtime) -> bytes:
    """All that the public calls of a store and a ledger give, of the tenant and of everybody."""
    store, found = runtime.store, []
    tenant = Scope("acme")
    for scope in (tenant, USER, Scope("acme", USER.user, f"s-{CANARY}")):
        runs = await store.list(scope, RunFilter(limit=500, nested=True))
        found += [runs, await store.grants(scope)]
        found.append(await store.session(Scope("acme", USER.user, f"s-{CANARY}")))
        for run in runs:
            events = await store.read(tenant, run.run_id)
            found += [events, replay(events).messages, [line.what for line in lines(events)]]
    found += [await store.everything(OPERATOR), await store.everyones_grants(OPERATOR)]
    found += [await store.ledger.show(OPERATOR, "acme", None), await store.ledger.changes(OPERATOR, 100)]
    found += [await store.ledger.paces(OPERATOR), await store.ledger.counters(OPERATOR, "", "")]
    return msgspec.json.encode(found)


def bytes_of(path: Path) -> bytes:
    """Every byte of the database's file, its WAL and its index."""
    return b"".join([each.read_bytes() for each in path.parent.rglob("*") if each.is_file()])


def rows_of(dsn: str) -> str:
    """Every row of every table, as text; of bytes, what they say."""
    with psycopg.connect(dsn) as connection:
        found = connection.execute("SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND "
                                   "relnamespace = 'shipworthy'::regnamespace").fetchall()  # fmt: skip
        told = [
            connection.execute(f"SELECT t::text FROM {table} AS t".encode()).fetchall() for (table,) in found
        ]
    text = "".join([row for rows in told for (row,) in rows])
    return text.replace(CANARY.encode().hex(), CANARY)


class Place:
    """A store, and how to look for the canary beneath it."""

    def __init__(self, make: Make, beneath: Callable[[], str | bytes]) -> None:
        self.make, self.beneath = make, beneath

    def has(self) -> bool:
        found = self.beneath()
        return (CANARY in found) if isinstance(found, str) else (CANARY.encode() in found)


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "memory":
        runtime = InMemoryRuntime()
        return Place(lambda: runtime, lambda: "")
    if request.param == "sqlite":
        return sqlite(tmp_path)
    server: Postgres = request.getfixturevalue("postgres")
    dsn = server.fresh_database()
    return Place(lambda: PostgresRuntime(dsn), lambda: rows_of(dsn))


def sqlite(tmp_path: Path) -> Place:
    path = tmp_path / "bot.db"
    return Place(lambda: SqliteRuntime(path, durability="process"), lambda: bytes_of(path))


async def erased_after_a_life(place: Place) -> JournalsErased:
    """Live and be erased, and look for what is left. Raises AssertionError where anything is."""
    async with opened(place.make) as runtime:
        await live(runtime)
        assert CANARY.encode() in await said(runtime)
        before = len(await runtime.store.list(USER, RunFilter(limit=500, nested=True)))
        told = await erase_journals(runtime, USER)
        assert told.runs == before == 8
        assert CANARY.encode() not in await said(runtime)
        assert not place.has()
        for run_id in told.run_ids:
            with pytest.raises(RunNotFound):
                await runtime.store.read(Scope("acme"), run_id)
        await is_sensible(runtime, before)
        again = await erase_journals(runtime, USER)
        assert again.runs == 0
    return told


async def is_sensible(runtime: Runtime, count: int) -> None:
    """Tombstones are runs that ended, each a valid conversation; Bob has what he had, and his session goes on."""
    store = runtime.store
    runs = await store.list(Scope("acme"), RunFilter(limit=500, nested=True))
    left = [run for run in runs if run.run_id.startswith(ERASED_RUN)]
    assert len(left) == count
    assert {run.scope for run in left} == {Scope("acme")}
    for run in left:
        state = replay(await store.read(Scope("acme"), run.run_id))
        assert status_of(state) == run.status in ("completed", "failed", "cancelled")
        assert valid(state.messages)
        assert (run.root in {each.run_id for each in left}) == (state.started.parent is not None)
    assert sorted([run.status for run in left]).count("cancelled") == 3
    assert sum([replay(await store.read(Scope("acme"), r.run_id)).turns for r in left]) == 10
    kept = await agent(runtime, "Bob.").run("Who am I?", **BOB)
    assert [m.text for m in kept.conversation] == ["I am Bob.", "Dear Bob.", "Who am I?", "Bob."]
    fresh = await agent(runtime, "Nobody.").run("Who am I?", **ALICE, session_id=f"s-{CANARY}", run_id="new")
    assert len(fresh.conversation) == 2
    await erase_journals(runtime, USER)


def test_nothing_of_an_erased_user_is_left(place: Place) -> None:
    told = go(erased_after_a_life(place))
    assert ERASED == "erased"
    for sentence in told.remains:
        assert CANARY not in sentence
        assert sentence.endswith(".")


def test_what_is_forgotten_survives_no_new_process(tmp_path: Path) -> None:
    place = sqlite(tmp_path)
    go(erased_after_a_life(place))

    async def later() -> bytes:
        async with opened(place.make) as runtime:
            return await said(runtime)

    assert CANARY.encode() not in go(later())
    assert not place.has()


def test_the_command_line_shows_that_a_run_was_erased(capsys: pytest.CaptureFixture[str]) -> None:
    async def run() -> None:
        async with opened(InMemoryRuntime) as runtime:
            await live(runtime)
            await erase_journals(runtime, USER)
            for left in await runtime.store.list(Scope("acme"), RunFilter(nested=True)):
                await show(Printer(as_json=False), runtime.store, Scope("acme"), left.run_id, full=True)

    go(run())
    shown = capsys.readouterr().out
    assert shown.count("This run was erased") == 8
    assert "Dear Bob" in shown
    assert CANARY not in shown


# --- broken variants


def keep_arguments(patch: pytest.MonkeyPatch) -> None:
    plain = rules._call
    patch.setattr(
        rules, "_call", lambda call, names: replace(plain(call, names), arguments=call.raw_arguments)
    )


def keep_bodies(patch: pytest.MonkeyPatch) -> None:
    def batches(cursor: Any, keys: Any) -> None:
        cursor.executemany("DELETE FROM journal WHERE run = ?", keys)

    patch.setattr(sqlite_erasing, "forget_journal", batches)


def keep_the_pages(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sqlite_erasing, "scrub", lambda connection: None)


def keep_the_wal(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sqlite_erasing, "scrub", lambda connection: connection.execute("VACUUM") and None)


def keep_the_free_pages(patch: pytest.MonkeyPatch) -> None:
    def cut(connection: Any) -> None:
        connection.wal_checkpoint("main", 3)

    patch.setattr(sqlite_erasing, "scrub", cut)


def keep_accounts(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sqlite_erasing, "accounts_of", lambda scope: ())


def keep_holds(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sqlite_erasing, "holds_of_run", lambda tenant, run_id: ())


def keep_run_ids(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rules.Names, "run", lambda self, run_id: run_id)


MUTANTS = [
    *(
        keep_arguments,
        keep_bodies,
        keep_the_pages,
        keep_the_wal,
        keep_the_free_pages,
        keep_accounts,
        keep_holds,
    ),
    keep_run_ids,
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.__name__)
def test_whatever_is_kept_is_found(mutant: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant(monkeypatch)
    with pytest.raises(AssertionError):
        go(erased_after_a_life(sqlite(tmp_path)))


# --- scopes


def test_one_session_is_erased_and_the_users_others_stay(place: Place) -> None:
    async def run() -> None:
        async with opened(place.make) as runtime:
            for session in ("one", "two"):
                await agent(runtime, f"Fine, {session}.").run(
                    f"Hello, {session}.", **ALICE, session_id=session
                )
            with pytest.raises(InputError):
                await erase_journals(runtime, Scope("acme", None, "one"))
            assert (await erase_journals(runtime, Scope("acme", USER.user, "one"))).runs == 1
            left = await runtime.store.list(USER, RunFilter())
            assert [run.scope.session for run in left] == ["two"]
            again = await agent(runtime, "Well.").run("How?", **ALICE, session_id="two")
            assert [m.text for m in again.conversation][:2] == ["Hello, two.", "Fine, two."]
            assert (await erase_journals(runtime, Scope("acme"))).runs == 2
            assert (await erase_journals(runtime, Scope("acme"))).runs == 0

    go(run())


def remembers_a_session(runtime: Runtime) -> bool:
    return CANARY in repr(runtime.conversations._kept)


async def session_in_memory(place: Place) -> None:
    async with opened(place.make) as runtime:
        for text in ("One", "Two"):
            await agent(runtime, CANARY).run(text, **ALICE, session_id="s")
        await agent(runtime, "Dear Bob.").run("I am Bob.", **BOB)
        await agent(runtime, "Dear Bob.").run("I am Bob.", **BOB)
        assert remembers_a_session(runtime)
        await erase_journals(runtime, USER)
        assert not remembers_a_session(runtime)
        assert "Dear Bob" in repr(runtime.conversations._kept)


def test_no_conversation_stays_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go(session_in_memory(sqlite(tmp_path)))
    (other := tmp_path / "other").mkdir()
    monkeypatch.setattr(Conversations, "forget", lambda self, scope: None)
    with pytest.raises(AssertionError):
        go(session_in_memory(sqlite(other)))


# --- who is at it meanwhile


def test_a_run_that_is_driven_is_named_and_the_others_are_erased(place: Place) -> None:
    async def run() -> None:
        started, goes_on = asyncio.Event(), asyncio.Event()

        @tool(effect="read")
        async def wait() -> str:
            """Wait."""
            started.set()
            await goes_on.wait()
            return CANARY

        async with opened(place.make) as runtime:
            await agent(runtime, CANARY).run("Done.", **ALICE)
            waiting = agent(runtime, ToolCall("wait", {}), "Fine.", tools=[wait])
            driven = asyncio.create_task(waiting.run(CANARY, **ALICE, run_id="driven"))
            await started.wait()
            with pytest.raises(ErasureIncomplete, match="'driven'"):
                await erase_journals(runtime, USER)
            assert [run.run_id for run in await runtime.store.list(USER, RunFilter())] == ["driven"]
            goes_on.set()
            assert (await driven).status == "completed"
            assert (await erase_journals(runtime, USER)).runs == 1
            assert CANARY.encode() not in await said(runtime)

    go(run())


def test_a_run_of_another_live_process_is_left_to_it(tmp_path: Path) -> None:
    place = sqlite(tmp_path)

    async def run() -> None:
        async with opened(place.make) as here, opened(place.make) as there:
            goes_on = asyncio.Event()

            @tool(effect="read")
            async def wait() -> str:
                """Wait."""
                await goes_on.wait()
                return "so long"

            waiting = agent(there, ToolCall("wait", {}), "Fine.", tools=[wait])
            driven = asyncio.create_task(waiting.run("Wait.", **ALICE, run_id="driven"))
            while not await here.store.list(USER, RunFilter()):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            with pytest.raises(ErasureIncomplete, match="'driven'"):
                await erase_journals(here, USER)
            goes_on.set()
            assert (await driven).status == "completed"
            await erase_journals(here, USER)
        assert not place.has()

    go(run())


async def read_after(stream: Any, erasure: Awaitable[Any]) -> None:
    async with stream:
        await erasure
        assert CANARY not in repr([event async for event in stream])


async def erased_under_a_reader(place: Place) -> None:
    async with opened(place.make) as runtime:
        await agent(runtime, CANARY).run("Done.", **ALICE, run_id="read")
        reader = agent(runtime)
        stream = reader.stream(run_id="read", tenant_id="acme")
        with pytest.raises(RunNotFound):
            await read_after(stream, erase_journals(runtime, USER))
        with pytest.raises(RunNotFound):
            await reader.resume("read", tenant_id="acme")


def test_whoever_reads_along_is_told_that_the_run_is_gone(place: Place) -> None:
    go(erased_under_a_reader(place))


# --- death


def die_everywhere(folder: Path) -> None:
    """In a process that has no threads: erase in children of it, one for each of some points, at which they die."""
    in_a_child(lambda: (folder / "points").write_bytes(msgspec.json.encode(points_of(folder))))
    reached = msgspec.json.decode((folder / "points").read_bytes(), type=list[Point])
    assert {point.kind for point in reached} >= {"commit", "bury", "disown", "scrub"}
    for number, point in enumerate([*reached[:: max(len(reached) // 5, 1)], reached[-1]]):
        ended = in_a_child(lambda: erase_until(Points(at=point), folder / str(number)))  # noqa: B023
        assert ended == -signal.SIGKILL, point


def points_of(folder: Path) -> list[Point]:
    points = Points()
    erase_until(points, folder / "whole")
    return points.reached


def erase_until(points: Points, folder: Path) -> None:
    async def run() -> None:
        async with opened(sqlite(folder).make) as runtime:
            await live(runtime)
            points.watch(runtime)
            await erase_journals(runtime, USER)

    folder.mkdir()
    asyncio.run(run())


def in_a_child(work: Callable[[], object]) -> int:
    """How a child ends that does *work*."""
    child = os.fork()
    if not child:
        try:
            work()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_an_erasure_that_dies_anywhere_is_completed_by_the_next(tmp_path: Path) -> None:
    code = f"from pathlib import Path; from {__name__} import die_everywhere; die_everywhere(Path({str(tmp_path)!r}))"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=True, timeout=120)
    died = [path for path in tmp_path.iterdir() if path.name.isdigit()]
    assert len(died) >= 6
    for folder in died:
        place = sqlite(folder)
        go(completed(place))
        assert not place.has(), folder


async def completed(place: Place) -> None:
    """Every run is as it was, or erased; and then all are."""
    async with opened(place.make) as runtime:
        for run in await runtime.store.list(Scope("acme"), RunFilter(limit=500, nested=True)):
            events = await runtime.store.read(Scope("acme"), run.run_id)
            is_hers = CANARY.encode() in msgspec.json.encode(events)
            assert is_hers == (run.scope.user == USER.user), "half erased"
        await erase_journals(runtime, USER)
        assert CANARY.encode() not in await said(runtime)
