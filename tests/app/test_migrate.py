"""Moving a live service from SQLite to Postgres, through the command: what comes out, whatever comes between."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import pytest

from shipworthy import InMemoryStore
from shipworthy.app import cli
from shipworthy.app.runtimes import runtime_for
from shipworthy.domain.events import (
    AnyEvent,
    ModelAnswered,
    RunEnded,
    RunParked,
    RunResumed,
    RunStarted,
    ToolAttempted,
    ToolsJudged,
)
from shipworthy.domain.events import Judged as JudgedCall
from shipworthy.domain.journal import Batch, Claim, Fence, RunFilter
from shipworthy.domain.messages import Stored, Text, ToolCall
from shipworthy.domain.scope import Scope
from shipworthy.engine import migrate
from shipworthy.engine.bodies import digests_of
from shipworthy.engine.migrate import Migration, everything
from shipworthy.errors import RunConflict
from shipworthy.ports.store import Store
from shipworthy.rules.codec import encode_event
from shipworthy.testing.contracts.store.workers import (
    ALICE,
    BOB,
    STRANGER,
    begun,
    digest_of,
    ended,
    ending,
    opening,
    parking,
)
from shipworthy.testing.faults import Point, PointedStore, Points

ROOT = Path(__file__).parents[2]
T = TypeVar("T")

BOT = """
    import os, signal, time
    from shipworthy import Agent, EchoModel, ScriptedModel, ToolCall, tool

    @tool(effect="once")
    def charge(amount: int) -> str:
        "Charge."
        if os.environ.get("HANG"):
            open("hanging", "w").close()
            time.sleep(600)
        if amount > 100 and not os.environ.get("MENDED"):
            raise RuntimeError("the line went dead")
        with open("effects", "a") as file:
            file.write("charged\\n")
        if os.environ.get("DIE"):
            os.kill(os.getpid(), signal.SIGKILL)
        return "charged"

    def paying(amount, name):
        script = [["Let me see. ", ToolCall("charge", {"amount": amount})], "It is paid."]
        return Agent("Pay.", model=ScriptedModel(script), tools=[charge], runtime=os.environ["STORE"], name=name)

    agent = paying(50, "bot")
    doubtful = paying(500, "doubtful")
    echo = Agent("x" * 5000, model=EchoModel(), runtime=os.environ["STORE"], name="echo")
    failing = Agent(model=ScriptedModel([ValueError("no model today")]), runtime=os.environ["STORE"])
"""

DYING = """
    # The command, in a process that dies at its nth moment before or after a durable write.
    import sys
    from shipworthy.app import cli
    from shipworthy.engine.migrate import Migration
    from shipworthy.testing.faults import PointedStore, Points, kill

    class Nth(Points):
        def _reach(self, point):
            super()._reach(point)
            if len(self.reached) == int(sys.argv[1]):
                kill(point)

    points, build = Nth(), Migration.__init__

    def watched(self, source, destination, **more):
        quiet = lambda scope, run_id, events: None
        build(self, PointedStore(source, points, quiet), PointedStore(destination, points, quiet), **more)

    Migration.__init__ = watched
    sys.exit(cli.invoke(sys.argv[2:]))
"""

FROM = "sqlite:bot.db"
GLOBEX = Scope("globex", "bob", "order")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "bot.py").write_text(textwrap.dedent(BOT))
    (tmp_path / "dying.py").write_text(textwrap.dedent(DYING))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("bot", None)


def process(store: str, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, with its agents on *store*."""
    command = [sys.executable, "-m", "shipworthy.app.cli", *arguments]
    return subprocess.run(
        command, env=_environment(store, more), capture_output=True, text=True, timeout=60, check=False
    )


def _environment(store: str, more: dict[str, str]) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "STORE": store, **more}


def moved(to: str, *more: str, expected: int = 0) -> dict[str, Any]:
    """What the command reports."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = cli.invoke(["runs", "migrate", "--from", FROM, "--to", to, "--json", *more])
    assert code == expected, out.getvalue()
    report: dict[str, Any] = json.loads(out.getvalue())
    return report


def effects() -> int:
    file = Path("effects")
    return len(file.read_text().splitlines()) if file.exists() else 0


def on(address: str, work: Callable[[Store], Coroutine[Any, Any, T]]) -> T:
    """Do something with a store."""

    async def go() -> T:
        runtime = runtime_for(address)
        await runtime.open()
        try:
            return await work(runtime.store)
        finally:
            await runtime.close()

    return asyncio.run(go())


async def holdings(store: Store) -> dict[str, Any]:
    """All that a store holds, as it can be had: runs, events, bodies, sessions, and each tenant's listing."""
    found: dict[str, Any] = {}
    scopes = set()
    async for run in everything(store):
        events = await store.read(run.scope, run.run_id)
        bodies = [digest_of(await store.body(run.scope, run.run_id, digest)) for digest in digests_of(events)]
        assert bodies == digests_of(events)
        found[f"{run.scope.tenant}/{run.run_id}"] = (run, [encode_event(event) for event in events], bodies)
        scopes.add(run.scope)
    for scope in scopes:
        if scope.session is not None:
            found[f"session {scope}"] = await store.session(scope)
        listed = await store.list(Scope(scope.tenant), RunFilter(limit=1000))
        found[f"tenant {scope.tenant}"] = [run.run_id for run in listed]
    return found


BODY = b'{"part":"text","text":"' + b"y" * 200_000 + b'"}'
LARGE = Stored(digest=digest_of(BODY), size=len(BODY))


async def fill(store: Store) -> None:
    """Runs of every kind and of three tenants, in two sessions; none of them is driven afterwards."""
    fences = {
        run_id: await begun(store, GLOBEX, run_id, at=1000 + i)
        for i, run_id in enumerate(("a", "b", "c", "d"))
    }
    for i, run_id in enumerate(("c", "a", "d")):  # they end in another order than they began
        events: list[AnyEvent] = [ModelAnswered(seq=3, at=2000 + i, ordinal=1, parts=(LARGE,))]
        await store.commit(fences[run_id], Batch(events, {LARGE.digest: BODY}))
        await store.commit(fences[run_id], ending(4, at=3000 + i))
    failed: list[AnyEvent] = [RunEnded(seq=3, at=3100, status="failed", error="no model")]
    await store.commit(fences["b"], Batch(failed, {}, status="failed"))
    started: list[AnyEvent] = [
        RunStarted(
            seq=1,
            at=4000,
            run_id="p",
            tenant="globex",
            user="bob",
            session="order",
            session_head=2,
            prompt=(Text("Go."),),
        ),
        RunParked(seq=2, at=4001, reason="error", detail="a hook raised"),
    ]
    await store.begin(GLOBEX, "p", Batch(started, {}, status="paused"))
    for scope, at in ((ALICE, 5000), (STRANGER, 5001), (Scope("initech"), 5002)):
        await ended(store, scope, "same", at=at)
        await store.commit(await begun(store, scope, "parked", at=at + 10), parking(3, at=at + 10))
        await store.release(await begun(store, scope, "orphan", at=at + 20))
    stopped: list[AnyEvent] = [RunEnded(seq=3, at=6000, status="cancelled", stop_reason="cancelled")]
    await store.commit(await begun(store, BOB, "cancelled", at=6000), Batch(stopped, {}, status="cancelled"))


@pytest.fixture
def filled(folder: Path) -> dict[str, Any]:
    on(FROM, fill)
    return on(FROM, holdings)


# --- what comes out ---------------------------------------------------------------------------


def test_everything_comes_out_as_it_was(filled: dict[str, Any], database: str) -> None:
    report = moved(database)

    assert on(database, holdings) == filled
    assert (report["runs"], report["copied"], report["moved"], report["left"]) == (15, 8, 7, [])


def test_moving_again_changes_nothing(filled: dict[str, Any], database: str) -> None:
    moved(database)
    source = on(FROM, holdings)
    again = moved(database)

    assert (again["copied"], again["moved"], again["there"], again["left"]) == (0, 0, 15, [])
    assert on(database, holdings) == filled
    assert on(FROM, holdings) == source


def test_one_tenant_alone(filled: dict[str, Any], database: str) -> None:
    assert moved(database, "--tenant", "initech")["runs"] == 3
    assert {key for key in on(database, holdings) if "/" in key} == {
        "initech/same",
        "initech/parked",
        "initech/orphan",
    }
    assert moved(database)["there"] == 3
    assert {k: v for k, v in on(database, holdings).items() if not k.startswith("tenant")} == {
        k: v for k, v in filled.items() if not k.startswith("tenant")
    }


def test_it_goes_from_any_kind_of_store_to_any_other(filled: dict[str, Any], database: str) -> None:
    moved(database)
    back = process("", "runs", "migrate", "--from", database, "--to", "sqlite:back.db")

    assert back.returncode == 0, back.stderr
    assert on("sqlite:back.db", holdings) == filled


def test_a_person_is_told_what_was_done(filled: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.invoke(["runs", "migrate", "--from", FROM, "--to", "sqlite:new.db"]) == 0
    out, err = capsys.readouterr()
    assert "15 runs of sqlite:" in out
    assert "8 ended ones copied, 7 moved, 0 there already, 0 left behind." in out
    assert err == ""  # no bar where nobody looks


def test_the_progress_is_shown_on_a_terminal(filled: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr("rich.progress.Progress.update", lambda self, task, **more: told.append(more))
    monkeypatch.setattr("rich.progress.Progress.advance", lambda self, task: told.append("one more"))
    assert cli.invoke(["runs", "migrate", "--from", FROM, "--to", "sqlite:new.db"]) == 0
    assert told == [{"total": 15}, *["one more"] * 15]


# --- going on ---------------------------------------------------------------------------------


def test_a_parked_call_is_settled_and_resumed_on_postgres_by_another_process(
    folder: Path, database: str
) -> None:
    parked = process(FROM, "run", "bot:doubtful", "Pay 500.", "-t", "acme", "--run-id", "r1", "--json")
    assert parked.returncode == 3, parked.stderr
    call = json.loads(parked.stdout)["pending"][0]["call_id"]
    settled = ("runs", "resume", "r1", "-t", "acme", "--agent", "bot:doubtful", "--settle")

    assert moved(database)["moved"] == 1
    here = process(FROM, *settled, f"{call}=did_not_happen", "--json", MENDED="1")
    assert (here.returncode, effects()) == (1, 0)  # the source does not go on with it
    assert json.loads(here.stdout)["error"]["type"] == "SettlementRefused"
    there = process(database, *settled, f"{call}=did_not_happen", "--json", MENDED="1")
    assert there.returncode == 0, there.stderr
    assert (json.loads(there.stdout)["output"], effects()) == ("It is paid.", 1)

    again = moved(database)
    assert (again["there"], again["left"]) == (1, [])  # though it went on there
    source = process(FROM, "runs", "resume", "r1", "-t", "acme", "--agent", "bot:doubtful", "--json")
    assert (source.returncode, json.loads(source.stdout)["stop_reason"], effects()) == (4, "moved", 1)


def test_a_run_that_lost_its_process_in_a_call_is_in_doubt_on_postgres(folder: Path, database: str) -> None:
    died = process(FROM, "run", "bot:agent", "Pay 50.", "-t", "acme", "--run-id", "r1", DIE="1")
    assert died.returncode == -signal.SIGKILL

    assert moved(database)["moved"] == 1
    resume = ("runs", "resume", "r1", "-t", "acme", "--agent", "bot:agent", "--json")
    doubt = process(database, *resume)
    assert (doubt.returncode, effects()) == (3, 1)
    call = json.loads(doubt.stdout)["pending"][0]["call_id"]
    done = process(database, *resume, "--settle", f'{call}=happened:"charged"')
    assert done.returncode == 0, done.stderr
    assert (json.loads(done.stdout)["output"], effects()) == ("It is paid.", 1)


def test_a_session_goes_on_with_its_whole_conversation(folder: Path, database: str) -> None:
    ada = ("-t", "acme", "-u", "ada", "-s", "s1")
    for turn in range(5):
        assert process(FROM, "run", "bot:echo", f"{turn}" + "z" * 5000, *ada).returncode == 0
    assert moved(database)["copied"] == 5

    async def sixth(store: Store) -> list[str]:
        from shipworthy import Agent, EchoModel

        agent = Agent(model=EchoModel(), runtime=runtime_for(database))
        result = await agent.run("5", tenant_id="acme", user_id="ada", session_id="s1")
        await agent.close()
        return [message.text[:1] for message in result.messages]

    assert on(database, sixth) == [text for turn in "012345" for text in (turn, turn)]


def test_what_a_live_worker_drives_is_left_alone_with_its_session(
    filled: dict[str, Any], database: str
) -> None:
    ada = ("-t", "acme", "-u", "ada", "-s", "live")
    assert process(FROM, "run", "bot:echo", "Hello.", *ada, "--run-id", "r0").returncode == 0
    command = [sys.executable, "-m", "shipworthy.app.cli", "run", "bot:agent", "Pay.", *ada, "--run-id", "r1"]
    with subprocess.Popen(command, env=_environment(FROM, {"HANG": "1"})) as worker:
        try:
            until = time.monotonic() + 30
            while not Path("hanging").exists():
                assert time.monotonic() < until
                time.sleep(0.02)
            report = moved(database, expected=1)
            assert [(left["run_id"], left["type"]) for left in report["left"]] == [
                ("r0", "RunBusy"),
                ("r1", "RunBusy"),
            ]
            assert "Stop the service" in report["left"][1]["fix"]
            assert on(database, holdings) == filled
            assert worker.poll() is None
        finally:
            worker.kill()
    after = moved(database)
    assert (after["copied"], after["moved"], after["there"], after["left"]) == (1, 1, 15, [])


# --- whatever comes between -------------------------------------------------------------------


def _deaths(to: str) -> int:
    """How often the command dies on its way, each time at its tenth write: before it and after it, in turn."""
    for deaths in range(20):
        command = [
            sys.executable,
            "dying.py",
            str(19 + deaths % 2),
            "runs",
            "migrate",
            "--from",
            FROM,
            "--to",
            to,
        ]
        done = subprocess.run(
            command, env=_environment("", {}), capture_output=True, text=True, timeout=60, check=False
        )
        if done.returncode != -signal.SIGKILL:
            assert done.returncode == 0, done.stdout + done.stderr
            return deaths
    raise AssertionError("it does not come to its end")


def test_killed_at_every_tenth_write_it_comes_out_equal(filled: dict[str, Any], database: str) -> None:
    assert _deaths(database) >= 3
    assert on(database, holdings) == filled
    assert moved(database)["there"] == 15


class Died(BaseException):
    """What a process's end is in these."""


def _die(point: Point) -> None:
    raise Died


async def _bring(folder: Path, points: Points | None = None) -> migrate.Report:
    """From one file of the folder to another, with those points on the way."""
    async with contextlib.AsyncExitStack() as stack:
        stores: list[Any] = []
        for name in ("old.db", "new.db"):
            store = runtime_for(f"sqlite:{folder / name}").store
            await store.open()
            stack.push_async_callback(store.close)
            stores.append(store if points is None else PointedStore(store, points, lambda *_: None))
        return await Migration(*stores, origin="old", to="new").work()


async def _few(store: Store) -> None:
    await ended(store, ALICE, "one")
    await ended(store, ALICE, "two", at=1010)
    await store.commit(await begun(store, ALICE, "parked", at=1020), parking(3, at=1020))
    await store.release(await begun(store, BOB, "orphan", at=1030))


def test_whatever_the_moment_of_death_it_goes_on(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    at = f"sqlite:{tmp_path / 'first' / 'old.db'}"
    on(at, _few)
    before = on(at, holdings)
    counting = Points()
    shutil.copytree(tmp_path / "first", tmp_path / "whole")
    asyncio.run(_bring(tmp_path / "whole", counting))
    assert len(counting.reached) >= 18  # four begins; two claims, commits; a release

    for number, point in enumerate(counting.reached):
        folder = tmp_path / str(number)
        shutil.copytree(tmp_path / "first", folder)
        with pytest.raises(Died):
            asyncio.run(_bring(folder, Points(point, _die)))
        report = asyncio.run(_bring(folder))
        assert report.left == [], point
        assert on(f"sqlite:{folder / 'new.db'}", holdings) == before, point


def test_a_moved_run_begins_above_its_fence_whatever_the_moment_of_death(tmp_path: Path) -> None:
    """What its tools have shown to others is never followed by a lower one."""

    async def raised(store: Store) -> int:
        await store_parked(store)
        for _ in range(3):
            fence = (await store.claim(ALICE, "parked")).fence
        await store.commit(fence, Batch([RunResumed(seq=4, fence=fence.token, previous="released")], {}))
        await store.commit(fence, parking(5))
        return fence.token

    async def seen(store: Store) -> int:
        return (await store.claim(ALICE, "parked")).fence.token

    (tmp_path / "first").mkdir()
    before = on(f"sqlite:{tmp_path / 'first' / 'old.db'}", raised)
    counting = Points()
    shutil.copytree(tmp_path / "first", tmp_path / "whole")
    asyncio.run(_bring(tmp_path / "whole", counting))
    assert on(f"sqlite:{tmp_path / 'whole' / 'new.db'}", seen) > before == 4
    for number, point in enumerate(counting.reached):
        folder = tmp_path / str(number)
        shutil.copytree(tmp_path / "first", folder)
        with pytest.raises(Died):
            asyncio.run(_bring(folder, Points(point, _die)))
        assert asyncio.run(_bring(folder)).left == []
        assert on(f"sqlite:{folder / 'new.db'}", seen) > before, point


# --- what is refused --------------------------------------------------------------------------


async def _two() -> tuple[InMemoryStore, InMemoryStore]:
    return InMemoryStore(), InMemoryStore()


def test_another_run_of_the_same_id_is_refused_and_not_overwritten() -> None:
    async def go() -> None:
        old, new = await _two()
        for store, at in ((old, 1000), (new, 2000)):
            await ended(store, ALICE, "ended", at=at, joins=False)
            await store.commit(await begun(store, BOB, "parked", at=at), parking(3, at=at))
            await store.release(await begun(store, STRANGER, "orphan", at=at))
        before = [await holdings(store) for store in (old, new)]
        report = await Migration(old, new, origin="old", to="new").work()
        assert [type(left.error) for left in report.left] == [RunConflict] * 3
        assert [await holdings(store) for store in (old, new)] == before

    asyncio.run(go())


def test_a_session_that_went_on_in_both_is_refused() -> None:
    async def go() -> None:
        old, new = await _two()
        await ended(old, ALICE, "one")
        await Migration(old, new, origin="old", to="new").work()
        await ended(old, ALICE, "two")
        await ended(new, ALICE, "three")
        before = await holdings(new)
        report = await Migration(old, new, origin="old", to="new").work()
        assert {type(left.error) for left in report.left} == {RunConflict}
        assert await holdings(new) == before

    asyncio.run(go())


def test_what_was_moved_to_one_place_is_not_brought_to_another() -> None:
    async def go() -> None:
        old, new = await _two()
        await store_parked(old)
        await Migration(old, new, origin="old", to="new").work()
        report = await Migration(old, InMemoryStore(), origin="old", to="elsewhere").work()
        assert [str(left.error) for left in report.left] == [
            "Run 'parked' goes on elsewhere: Moved to new. Name that place with --to."
        ]

    asyncio.run(go())


async def store_parked(store: Store) -> None:
    await store.commit(await begun(store, ALICE, "parked"), parking(3))


def test_a_run_that_is_taken_up_meanwhile_is_not_moved() -> None:
    class Resumed(InMemoryStore):
        async def claim(self, scope: Scope, run_id: str) -> Claim:
            mine = await super().claim(scope, run_id)
            await super().claim(scope, run_id)  # somebody else's resume
            return mine

    async def go() -> None:
        old, new = Resumed(), InMemoryStore()
        await store_parked(old)
        report = await Migration(old, new, origin="old", to="new").work()
        assert [type(left.error).__name__ for left in report.left] == ["RunBusy"]
        assert await holdings(new) == {}
        assert len(await old.read(ALICE, "parked")) == 3

    asyncio.run(go())


class Clocked(InMemoryStore):
    """With a clock that can be set, and runs that were taken from a stopped worker."""

    now = 1_000_000

    def clock(self) -> int:
        return self.now

    async def claim(self, scope: Scope, run_id: str) -> Claim:
        return Claim((await super().claim(scope, run_id)).fence, "expired")


async def _attempt(store: Store, *more: AnyEvent) -> None:
    call = ToolCall("charge", "{}", "c1")
    events: list[AnyEvent] = [
        *opening(ALICE, "r").events,
        ModelAnswered(seq=3, ordinal=1, parts=(call,)),
        ToolsJudged(seq=4, calls=(JudgedCall("c1", "once"),)),
        ToolAttempted(seq=5, call_id="c1", start_by=1_010_000, timeout=60.0),
        *more,
    ]
    fence = await store.begin(ALICE, "r", Batch(events, {}))
    assert fence is not None
    await store.release(fence)


@pytest.mark.parametrize(
    "more",
    [(), (RunResumed(seq=6, fence=2, previous="expired"),)],
    ids=["the attempt", "an attempt that was found"],
)
def test_what_a_stopped_worker_could_still_carry_out_is_waited_for(more: tuple[AnyEvent, ...]) -> None:
    async def go() -> None:
        old, new = Clocked(), InMemoryStore()
        await _attempt(old, *more)
        report = await Migration(old, new, origin="old", to="new").work()
        assert [left.error.fix for left in report.left] == ["Run the same command again in 70.0 seconds."]
        old.now += 70_001
        assert (await Migration(old, new, origin="old", to="new").work()).moved == 1

    asyncio.run(go())


def test_a_start_on_a_clock_that_the_destination_has_not_reached_does_not_block_it_for_ever() -> None:
    async def go() -> None:
        old, new = Clocked(), Clocked()
        await _attempt(old)
        old.now, new.now = 2_000_000, 500
        for _ in range(2):
            report = await Migration(old, new, origin="old", to="new").work()
            assert report.left == []
        attempt = (await new.read(ALICE, "r"))[4]
        assert attempt == ToolAttempted(seq=5, call_id="c1", timeout=60.0)

    asyncio.run(go())


def test_a_run_too_large_for_a_transaction_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "LARGEST", 100_000)

    async def go() -> None:
        old, new = await _two()
        events: list[AnyEvent] = [ModelAnswered(seq=3, ordinal=1, parts=(LARGE,))]
        fence = await begun(old, ALICE, "r")
        await old.commit(fence, Batch(events, {LARGE.digest: BODY}))
        before = await holdings(old)
        report = await Migration(old, new, origin="old", to="new").work()
        assert "too much for one transaction" in str(report.left[0].error)
        assert await holdings(old) == before

    asyncio.run(go())


def test_events_count_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "LARGEST", 100)

    async def go() -> None:
        old, new = await _two()
        await store_parked(old)
        before = await holdings(old)
        report = await Migration(old, new, origin="old", to="new").work()
        assert "too much for one transaction" in str(report.left[0].error)
        assert await holdings(old) == before

    asyncio.run(go())


TOO_LONG = os.urandom(300).hex()  # as random as it is long: an index does not make it smaller


@pytest.mark.parametrize(
    ("scope", "run_id"),
    [
        (Scope(TOO_LONG, "u", "s"), "r"),
        (Scope("t", TOO_LONG), "r"),
        (Scope("t", "u", TOO_LONG), "r"),
        (Scope("t", "u", "s"), TOO_LONG),
    ],
    ids=["tenant", "user", "session", "run"],
)
def test_a_run_whose_id_some_store_cannot_index_stays_as_it_is(scope: Scope, run_id: str) -> None:
    async def go() -> None:
        old, new = await _two()
        await old.commit(await begun(old, scope, run_id), parking(3))
        await ended(old, scope, "ended")  # which is copied if it can be
        before = await holdings(old)
        report = await Migration(old, new, origin="old", to="new").work()
        (left,) = report.left
        assert left.run.run_id == run_id
        assert "more than 512 bytes" in str(left.error)
        assert "keep it there" in str(left.error.fix)
        assert await holdings(old) == before
        assert [run.run_id async for run in everything(new)] == ["ended"]

    asyncio.run(go())


def test_a_run_whose_user_the_database_cannot_spell_stays_as_it_is(folder: Path, database: str) -> None:
    address, _, name = database.rpartition("/")
    with psycopg.connect(database, autocommit=True) as admin:
        admin.execute(
            f"CREATE DATABASE {name}_latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0".encode()
        )

    async def park(store: Store) -> None:
        await store.commit(await begun(store, Scope("t", "Łukasz"), "r"), parking(3))

    on(FROM, park)
    before = on(FROM, holdings)
    report = moved(f"{address}/{name}_latin", expected=1)
    assert "LATIN1" in json.dumps(report["left"])
    assert on(FROM, holdings) == before


ADDRESSES = {
    "the same store": (FROM, FROM, "both"),
    "the same file by another name": (FROM, "sqlite:./bot.db", "both"),
    "no such file": ("sqlite:none.db", FROM, "no database at none.db"),
    "in memory": (FROM, "inmemory", "is not a runtime"),
    "no password": (FROM, "postgres:ada:secret@host/db", "is not a runtime"),
    "no password either": (FROM, "postgres://ada:secret@host:port/db", "cannot be read"),
    "nor of a server that is away": (FROM, "postgres://ada:secret@127.0.0.1:1/db", "Connection refused"),
}


@pytest.mark.parametrize(("source", "to", "said"), ADDRESSES.values(), ids=ADDRESSES.keys())
def test_an_address_that_cannot_be_used_is_refused_without_its_password(
    source: str, to: str, said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    on(FROM, store_parked)
    assert cli.invoke(["runs", "migrate", "--from", source, "--to", to]) == 1
    out, err = capsys.readouterr()
    assert said in err
    assert "secret" not in out + err
    assert "fix:" in err
    assert on(FROM, lambda store: store.read(ALICE, "parked"))[-1] == RunParked(seq=3, at=1000)


def test_runs_are_looked_at_on_postgres_by_its_address(filled: dict[str, Any], database: str) -> None:
    moved(database)
    listed = process("", "runs", "list", "-t", "globex", "--store", database, "--json")
    assert [run["run_id"] for run in json.loads(listed.stdout)["runs"]] == [
        "orphan",
        "parked",
        "same",
        "p",
        "d",
        "c",
        "b",
        "a",
    ]
    exported = process("", "runs", "export", "a", "-t", "globex", "--store", database)
    assert json.loads(exported.stdout.splitlines()[-1]) == {"type": "end", "events": 4, "bodies": 1}


# --- the mutants: what these tests must catch -------------------------------------------------


def _right(before: dict[str, Any], folder: Path) -> bool:
    """Whether a migration that is interrupted and done again is reported whole, comes out equal, and leaves nothing in
    the source that could go on."""

    async def unended(store: Store) -> list[str]:
        return [run.run_id async for run in everything(store) if run.status in ("running", "paused")]

    try:
        with contextlib.suppress(Died):
            asyncio.run(_bring(folder, Points(Point("begin", 2, "after"), _die)))
        report = asyncio.run(_bring(folder))
        same = on(f"sqlite:{folder / 'new.db'}", holdings) == before
        return report.left == [] and same and on(f"sqlite:{folder / 'old.db'}", unended) == []
    except Exception:
        return False


def _no_bodies(patch: pytest.MonkeyPatch) -> None:
    """Bodies are forgotten."""

    async def none(self: Any, run: Any, events: Any) -> dict[str, bytes]:
        return {}

    patch.setattr(Migration, "_bodies", none)


def _blind(patch: pytest.MonkeyPatch) -> None:
    """Bodies are forgotten, and nothing is read back."""

    async def nothing(self: Any, run: Any, events: Any, *, moved: bool) -> None:
        return None

    _no_bodies(patch)
    patch.setattr(Migration, "_verify", nothing)


def _second_copy(patch: pytest.MonkeyPatch) -> None:
    """What is there already is begun once more, under another id."""
    build = Migration.__init__

    class Again(PointedStore):
        async def begin(self, scope: Scope, run_id: str, batch: Batch, token: int = 1) -> Fence | None:
            fence = await super().begin(scope, run_id, batch, token)
            return fence or await super().begin(scope, f"{run_id}-again", batch, token)

    def built(self: Any, source: Store, destination: Store, **more: Any) -> None:
        build(self, source, Again(destination, Points(), lambda *_: None), **more)

    async def never(self: Any, run: Any) -> bool:
        return False

    patch.setattr(Migration, "__init__", built)
    patch.setattr(Migration, "_has", never)


def _both(patch: pytest.MonkeyPatch) -> None:
    """The source is not told that a run went elsewhere."""

    async def untold(self: Any, run: Any) -> Any:
        return await self._go_on(run, await self.source.read(run.scope, run.run_id))

    patch.setattr(Migration, "_move", untold)


def _in_pieces(patch: pytest.MonkeyPatch) -> None:
    """A run is begun with its first event, and the rest follows."""
    build = Migration.__init__

    class Pieces(PointedStore):
        async def begin(self, scope: Scope, run_id: str, batch: Batch, token: int = 1) -> Fence | None:
            fence = await super().begin(scope, run_id, Batch(batch.events[:1], {}), token)
            if fence is not None:
                rest = Batch(batch.events[1:], batch.bodies, batch.status, batch.joins_session)
                await super().commit(fence, rest)
            return fence

    def built(self: Any, source: Store, destination: Store, **more: Any) -> None:
        if isinstance(destination, PointedStore):
            destination = Pieces(destination._store, destination._points, lambda *_: None)
        build(self, source, destination, **more)

    patch.setattr(Migration, "__init__", built)


@pytest.mark.parametrize(
    "mutant",
    [None, _no_bodies, _blind, _second_copy, _both, _in_pieces],
    ids=lambda m: getattr(m, "__name__", "none"),
)
def test_a_mutant_is_caught(
    mutant: Callable[[pytest.MonkeyPatch], None] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(f"sqlite:{tmp_path / 'old.db'}", fill)
    before = on(f"sqlite:{tmp_path / 'old.db'}", holdings)
    if mutant is not None:
        mutant(monkeypatch)
    assert _right(before, tmp_path) is (mutant is None)
