"""What is entered beside runs, what becomes of erased ones, cancellation while a log is slow, other runtimes; and that
the laws of `test_runs` notice a log that is not told of everything, or too late."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from shipworthy import DBOSRuntime, InMemoryMemory, InMemoryRuntime, Scope, SqliteRuntime, ToolCall
from shipworthy.adapters.inmemory.audit import InMemoryAuditLog
from shipworthy.app import cli
from shipworthy.domain.audit import Draft
from shipworthy.domain.journal import Batch, Fence
from shipworthy.engine import answering, auditing, cancelling
from shipworthy.engine.auditing import Logs, Witness
from shipworthy.errors import AuditError
from tests.audit import test_runs
from tests.audit.evidence import ALICE, LASTING, SECRET, Kind, Place, Told, agrees, finish
from tests.audit.lives import PAY, World
from tests.servers.temporal import fresh_name

go = asyncio.run
BOB = {"tenant_id": "acme", "user_id": "bob"}

# --- beside runs ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LASTING)
def test_who_is_erased_is_gone_from_the_bodies_and_the_log_verifies(kind: Kind, tmp_path: Path) -> None:
    async def law() -> None:
        place = Place(kind, tmp_path)
        runtime, memory = place.runtime(), InMemoryMemory(embedder=None)
        world = World(place, runtime)
        async with world.agent(PAY, "Done.", memory=memory) as agent:
            for who in (ALICE, BOB):
                await agent.run(f"I am {who['user_id']}.", **who)
            await memory.remember(Scope("acme", "alice"), "Alice likes tea.")
            before = [(each.entry.seq, each.entry.user) for each in place.told() if each.body]
            await memory.erase(Scope("acme", "alice"))
            told = place.told()
            assert {each.entry.user for each in told if each.body} == {"bob"}
            gone = [seq for seq, user in before if user == "alice"]
            assert len(gone) == len([user for _, user in before if user == "bob"]) > 5
            kept = b"".join([each.body or b"" for each in told])
            assert b"I am bob." in kept
            [written] = [e.entry for e in told if e.entry.action == "memory.written" and not e.entry.n]
            [erased] = [e.entry for e in told if e.entry.action == "person.erased"]
            assert (written.tenant, written.user, erased.tenant, erased.user) == ("acme", "alice") * 2
            assert erased.facts["runs"] == 1
        report = place.report()
        assert (report.verdict, report.bodies.edited) == ("ok", 0)
        assert report.bodies.erased + report.bodies.missing == len(gone)

    go(law())


BOT = """
    from shipworthy import Agent, BudgetConfig, FileAuditLog, ScriptedModel, StandardBudget
    budget = StandardBudget(BudgetConfig(per_user_max_requests=100))
    log = FileAuditLog("audit.jsonl", secret="a secret of the log's owner, kept elsewhere")
    kept = dict(model=ScriptedModel(["Hi."] * 9), name="bot", memory="sqlite:memory.db", audit_log=log)
    agent = Agent(budget=budget, runtime="sqlite:bot.db", **kept)
    elsewhere = Agent(**kept)
"""
ALICES = "--tenant acme --user alice"
SET = f"budget set audited:agent --per user {ALICES} --unit requests --cap 7 --by mia --why exam"


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What is in the log of a bot after these commands."""
    (tmp_path / "audited.py").write_text(textwrap.dedent(BOT))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def after(*commands: str) -> list[Told]:
        for command in commands:
            sys.modules.pop("audited", None)
            assert cli.invoke(command.split()) == 0
        sys.modules.pop("audited")
        place = Place("file", tmp_path)
        assert place.report().verdict == "ok"
        return place.told()

    return after


def test_a_cap_that_an_operator_sets_is_entered_with_who_and_why(told: Any) -> None:
    [entry] = [each.entry for each in told(SET) if each.entry.action == "budget.overridden"]
    assert (entry.actor, entry.tenant, entry.facts["why"]) == ("operator:mia", "acme", "exam")
    assert entry.facts["cap"] == 7


@pytest.mark.parametrize("agent", ["agent", "elsewhere"])
def test_what_an_operator_forgets_and_erases_is_entered_and_gone_from_the_bodies(
    agent: str, told: Any
) -> None:
    """The runs of `elsewhere` are in no file: only the log still has what was said in them."""
    said = told(f"run audited:{agent} Hello {ALICES}")
    assert any(b"Hello" in (each.body or b"") for each in said)
    found = told(
        f"memory forget audited:{agent} {ALICES} --before 2020-01-01 --yes",
        f"memory erase audited:{agent} {ALICES} --yes --json",
    )
    actions = [each.entry.action for each in found]
    assert actions.count("memory.forgotten") == 1
    [erased] = [each.entry for each in found if each.entry.action == "person.erased"]
    assert (erased.tenant, erased.user) == ("acme", "alice")
    assert not any([each.body for each in found])


# --- a slow log -------------------------------------------------------------------------------


class Slow(InMemoryAuditLog):
    """Appends nothing before it is let; an append that is cancelled completes first."""

    def __init__(self) -> None:
        super().__init__(SECRET)
        self.appends, self.stops_at = 0, 0
        self.stopped, self.may_go_on = asyncio.Event(), asyncio.Event()

    async def append(self, drafts: Sequence[Draft]) -> None:
        entering = asyncio.ensure_future(self._slowly(drafts))
        try:
            await asyncio.shield(entering)
        except asyncio.CancelledError:
            await entering
            raise

    async def _slowly(self, drafts: Sequence[Draft]) -> None:
        self.appends += 1
        if self.appends == self.stops_at:
            self.stopped.set()
            await self.may_go_on.wait()
        await super().append(drafts)


async def cancelled_at(append: int, tmp_path: Path, stream: bool) -> str:
    """Cancel a run while the log is at this append; how it ended, "" if there is no such append."""
    place, log = Place("memory", tmp_path), Slow()
    place._memory, log.stops_at = log, append
    runtime = InMemoryRuntime()
    agent = place.agent(PAY, "Done.", tools=[World(place, runtime).pay()], runtime=runtime)
    task = asyncio.create_task(finish(agent, stream, run_id="r"))
    stopped = asyncio.create_task(log.stopped.wait())
    await asyncio.wait([task, stopped], return_when=asyncio.FIRST_COMPLETED)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done() or not log.stopped.is_set()
    log.may_go_on.set()
    await asyncio.wait([task])
    stopped.cancel()
    assert task.cancelled() is log.stopped.is_set()
    result = await agent.resume("r", tenant_id="acme")
    await agrees(place, runtime.store)
    await agent.close()
    return result.status if log.stopped.is_set() else ""


@pytest.mark.parametrize("stream", [False, True])
def test_a_run_that_is_cancelled_while_the_log_is_slow_ends_in_both(stream: bool, tmp_path: Path) -> None:
    ends: list[str] = []
    while end := go(cancelled_at(len(ends) + 1, tmp_path, stream)):
        ends.append(end)
    assert len(ends) > 2
    assert ends == ["cancelled"] * (len(ends) - 1) + ["completed"]  # its end was being entered


# --- other runtimes ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["memory", "file", "apart"])
def test_two_runtimes_may_share_a_log_and_one_of_them_may_close(kind: Kind, tmp_path: Path) -> None:
    async def law() -> None:
        place = Place(kind, tmp_path)
        log, kept = place.log(), InMemoryRuntime()
        one = place.agent("Hi.", runtime=kept, audit_log=log)
        async with one:
            await one.run("Go", run_id="1", **ALICE)
            async with place.agent("Hi.", runtime=InMemoryRuntime(), audit_log=log, name="other") as two:
                await two.run("Go", run_id="2", **ALICE)
            await one.run("Go", run_id="3", **ALICE)
        assert [e.entry.run for e in place.holding() if e.entry.action == "run.ended"] == ["1", "2", "3"]
        with pytest.raises(AuditError):
            await log.append([Draft(action="x", actor="x", at=1)])

    go(law())


def test_runs_that_dbos_drives_are_in_the_log(tmp_path: Path) -> None:
    async def law() -> None:
        place = Place("joined", tmp_path)
        runtime = DBOSRuntime(f"sqlite:{tmp_path / 'dbos.db'}", store=SqliteRuntime(place.path).store)
        world = World(place, runtime)
        async with world.agent(PAY, "Done.") as agent:
            assert (await finish(agent, run_id="r")).status == "completed"
            await agrees(place, runtime.store)
        assert place.actions("r")[-1] == "run.ended"

    go(law())


def test_runs_that_temporal_drives_are_in_the_log_of_caller_and_worker(tmp_path: Path, temporal: str) -> None:
    async def law() -> None:
        from shipworthy import TemporalRuntime

        place = Place("file", tmp_path)

        def agent() -> Any:
            options = {"task_queue": fresh_name("audited"), "patience": 2.0} if not queue else queue[0]
            queue.append(options)
            runtime = TemporalRuntime(temporal, store=f"sqlite:{tmp_path / 'bot.db'}", **options)
            return World(place, runtime).agent(PAY, "Done.")

        queue: list[dict[str, Any]] = []
        worker, caller = agent(), agent()
        async with worker, worker.runtime.serving():
            async with caller:
                assert (await finish(caller, run_id="r")).status == "completed"
            await agrees(place, worker.runtime.store)

    go(law())


# --- mutants ----------------------------------------------------------------------------------


async def too_late(self: Witness, fence: Fence, batch: Batch) -> Any:
    """The log is told once the journal has it, and the effect may be under way."""
    outcomes = await self._store.commit(fence, batch)
    drafts = self._drafts(batch.events, fence.token)

    async def later() -> None:
        await asyncio.sleep(0.002)
        with contextlib.suppress(AuditError):
            await self.log.append(drafts)

    _LATER.append(asyncio.ensure_future(later()))
    self._late = ()
    return outcomes


_LATER: list[Any] = []


def test_mutant_a_log_that_is_told_after_the_commit_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Witness, "commit", too_late)
    with pytest.raises(AssertionError):
        assert go(test_runs.seen_by_its_body(Place("file", tmp_path)))[-1:] == ["tool.attempted"]


def test_mutant_a_first_event_that_is_never_entered_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Witness, "of_first", lambda self, event, token: None)
    with pytest.raises(AssertionError):
        go(test_runs.seen_by_its_body(Place("file", tmp_path)))


def answered(tmp_path: Path) -> None:
    test_runs.test_what_is_answered_in_another_process_is_in_the_log("file", "agent", tmp_path)


@pytest.mark.parametrize(
    ("where", "law"), [(answering, answered), (cancelling, lambda path: nested_and_cancelled(path))]
)
def test_mutant_an_answer_or_a_cancellation_that_is_not_entered_is_noticed(
    where: Any, law: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unseen(store: Any, witness: Any, fence: Any, batch: Any) -> Any:
        return await store.commit(fence, batch)

    async def nothing(self: Any, store: Any, state: Any) -> Any:
        return ()

    monkeypatch.setattr(where, "commit", unseen)
    monkeypatch.setattr(Logs, "appended", nothing)
    with pytest.raises(AssertionError):
        law(tmp_path)


def test_mutant_what_a_stranger_answered_and_nobody_enters_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(self: Any, store: Any, state: Any) -> Any:
        return ()

    monkeypatch.setattr(Logs, "appended", nothing)
    with pytest.raises(AssertionError):
        test_runs.test_what_is_answered_in_another_process_is_in_the_log("joined", "stranger", tmp_path)


def test_mutant_a_cancellation_that_waits_for_the_next_append_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def put_off(log: Any, drafts: Any) -> bool:
        try:
            await log.append(drafts)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()
            task.cancel()
        return False

    monkeypatch.setattr(auditing, "_outlasting", put_off)
    with pytest.raises(AssertionError):
        test_a_run_that_is_cancelled_while_the_log_is_slow_ends_in_both(False, tmp_path)


def nested_and_cancelled(tmp_path: Path) -> None:
    """A run that waits for a nested one is cancelled by an agent that has no tool for that any more."""
    from shipworthy import Agent, Inbox, ScriptedModel, StandardPermissions

    async def law() -> None:
        place = Place("file", tmp_path)
        runtime = place.runtime()
        held: dict[str, Any] = {"permissions": StandardPermissions(), "approval_handler": Inbox()}
        world = World(place, runtime)
        inner = Agent("Help.", name="helper", model=ScriptedModel([PAY]), tools=[world.pay()], **held)
        asks = ToolCall("helper", {"input": "Pay."})
        without = world.agent(asks, tools=[world.pay()], **held)
        async with world.agent(asks, tools=[inner.as_tool()], **held) as agent:
            assert (await agent.run("Go", run_id="r", **ALICE)).status == "paused"
            assert (await without.cancel("r", tenant_id="acme")).status == "cancelled"
            await agrees(place, runtime.store)
            ended = [e.entry.run for e in place.holding() if e.entry.action == "run.ended"]
            assert len(ended) == 2

    go(law())


def test_a_nested_run_that_is_cancelled_with_the_one_around_it_has_its_end(tmp_path: Path) -> None:
    nested_and_cancelled(tmp_path)


def test_mutant_a_log_that_runs_do_not_stop_for_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered = Witness.commit

    async def regardless(self: Witness, fence: Fence, batch: Batch) -> Any:
        try:
            return await entered(self, fence, batch)
        except AuditError:
            return await self._store.commit(fence, batch)

    monkeypatch.setattr(Witness, "commit", regardless)
    with pytest.raises(BaseException):  # noqa: B017, PT011 - pytest's own
        go(test_runs.troubled(Place("file", tmp_path)))
