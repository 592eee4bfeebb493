"""Hypothesis drives runs over a store that crashes, against a plain model of what may have happened.

Runs are begun, killed at any commit, resumed, killed again, settled by somebody who looks at the world, and answered by
people who approve, approve of something else, deny, or bring what is not theirs. Whatever the order: no effect happens
twice, none without the yes that it needs or with other arguments, no answer and no event is lost, and every
conversation is valid.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from shipworthy import (
    Agent,
    AnswerRefused,
    Approve,
    Deny,
    DidNotHappen,
    Happened,
    Inbox,
    NotDone,
    RunContext,
    Scope,
    ScriptedModel,
    SqliteRuntime,
    ToolCall,
    ask_human,
    tool,
)
from shipworthy.adapters.inmemory.store import InMemoryStore
from shipworthy.app.approvals import NO_OBJECTION, ToolApproval
from shipworthy.domain.events import AnyEvent, ApprovalDenied, ApprovalGranted, RunEnded
from shipworthy.engine import approving
from shipworthy.engine.driver import InProcess
from shipworthy.engine.runtime import Runtime
from shipworthy.rules import state as rules
from tests.contracts.test_store import Sqlite
from tests.crash.proof import LONG
from tests.engine.world import valid

pytestmark = pytest.mark.stateful

NAMES = ("look", "put", "pay", "fail", "decline", "nowhere", "wire", "quiz")
ASKED_FOR = 50
"""What the model wires, unless an approver says another amount."""
RULINGS = st.sampled_from([None, ASKED_FOR, 7])
"""No, yes, or yes to another amount."""
CALLS = st.lists(st.sampled_from(NAMES), min_size=1, max_size=4)
TURNS = st.lists(CALLS, max_size=3)
CRASH = st.one_of(st.none(), st.tuples(st.integers(0, 8), st.booleans()))
SESSIONS = st.sampled_from([None, "s1", "s2"])


class Crash(BaseException):
    """The process dies here: nothing that is not stored survives."""


class Crashing:
    """A store that dies before or after its n-th write; everything else is the store's."""

    def __init__(self, store: Any, crash: tuple[int, bool] | None) -> None:
        self._store = store
        self._left, self._after = crash if crash is not None else (-1, False)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def begin(self, *args: Any) -> Any:
        return await self._write(self._store.begin, args)

    async def commit(self, *args: Any) -> Any:
        return await self._write(self._store.commit, args)

    async def _write(self, write: Any, args: tuple[Any, ...]) -> Any:
        self._left -= 1
        if self._left == -1 and not self._after:
            raise Crash
        done = await write(*args)
        if self._left == -1:
            raise Crash
        return done


class World:
    """Effects that happened, by the call that asked for them; outside of every process."""

    def __init__(self) -> None:
        self.once: Counter[tuple[str, str]] = Counter()
        self.keys: dict[tuple[str, str], set[str]] = {}
        self.wired: dict[tuple[str, str], int] = {}
        self.answered: dict[tuple[str, str], int] = {}

    def tools(self) -> list[Any]:
        @tool(effect="read")
        async def look() -> str:
            return "seen"

        @tool(effect="idempotent")
        async def put(ctx: RunContext[None]) -> str:
            self.keys.setdefault((ctx.run_id, ctx.call_id), set()).add(ctx.idempotency_key)
            return "put"

        @tool(effect="once")
        async def pay(ctx: RunContext[None]) -> str:
            self.once[ctx.run_id, ctx.call_id] += 1
            return "paid"

        @tool(effect="once")
        async def fail(ctx: RunContext[None]) -> str:
            self.once[ctx.run_id, ctx.call_id] += 1
            raise ConnectionError("lost after the effect")

        @tool(effect="once")
        async def decline() -> str:
            raise NotDone("declined")

        @tool(effect="once", requires_approval=True)
        async def wire(ctx: RunContext[None], amount: int) -> str:
            self.once[ctx.run_id, ctx.call_id] += 1
            self.wired[ctx.run_id, ctx.call_id] = amount
            return "wired"

        @tool(effect="once")
        def quiz(ctx: RunContext[None]) -> str:
            answer = ask_human("How many?", schema=int)
            self.once[ctx.run_id, ctx.call_id] += 1
            self.answered[ctx.run_id, ctx.call_id] = answer
            return f"{answer}"

        return [look, put, pay, fail, decline, wire, quiz]


class Runs(RuleBasedStateMachine):
    """One store, many lives."""

    phases: ClassVar[list[Phase]] = [Phase.generate, Phase.shrink]

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.Runner()
        self.world = World()
        self.scripts: dict[str, list[list[str]]] = {}
        self.sessions: dict[str, str | None] = {}
        self.seen: dict[str, list[AnyEvent]] = {}
        self.ends: dict[str, list[str]] = {"s1": [], "s2": []}
        self.said: dict[tuple[str, str], set[Any]] = {}
        self.open()

    def open(self) -> None:
        self.store: Any = InMemoryStore()

    def sitting(self, run_id: str, crash: tuple[int, bool] | None, **how: Any) -> Any:
        """One process's life: begin or resume a run, and perhaps die."""
        made = {"wire": {"amount": ASKED_FOR}}
        turns: list[Any] = [
            [ToolCall(name, made.get(name, {})) for name in names] for names in self.scripts[run_id]
        ]
        runtime = Runtime(Crashing(self.store, crash), InProcess())
        agent: Agent[Any, Any] = Agent(
            model=ScriptedModel([*turns, "Done."]),
            tools=self.world.tools(),
            runtime=runtime,
            tenant_id="t",
            approval_handler=Inbox(),
        )

        async def live() -> Any:
            if how.pop("begin", False):
                who = {"user_id": "u", "session_id": self.sessions[run_id]} if self.sessions[run_id] else {}
                return await agent.run("Go", run_id=run_id, **who)
            return await agent.resume(run_id, **how)

        result = None
        try:
            result = self.loop.run(live())
        except Crash:
            pass
        finally:
            self.after_life()
            self.note(run_id)
        return result

    def after_life(self) -> None:
        """Between two processes."""

    def note(self, run_id: str) -> None:
        """What is durable now; a session's order is that of its ends."""
        events = self.events(run_id)
        before = self.seen.get(run_id, [])
        assert events[: len(before)] == before, "an event that was durable is gone or changed"
        session = self.sessions[run_id]
        ended = bool(events) and isinstance(events[-1], RunEnded)
        if ended and session and run_id not in self.ends[session] and events[-1].status != "failed":  # type: ignore[union-attr]
            self.ends[session].append(run_id)
        self.seen[run_id] = events

    def events(self, run_id: str) -> list[AnyEvent]:
        from shipworthy.errors import RunNotFound

        try:
            return self.loop.run(self.store.read(Scope("t"), run_id))  # type: ignore[no-any-return]
        except RunNotFound:
            return []

    def doubts(self, run_id: str) -> list[str]:
        state = rules.replay(self.seen[run_id])
        return [
            i for i, c in state.calls.items() if c.status in ("in_doubt", "attempted") and c.effect == "once"
        ]

    def waiting(self, run_id: str) -> dict[str, str]:
        """The calls of a paused run that wait for people, and whether they are asked for a yes or for an answer."""
        state = rules.replay(self.seen[run_id])
        found = {}
        for call_id, call in state.calls.items() if state.parked else ():
            if call.status == "asked" and call.denied is None and not call.grants:
                found[call_id] = "approval"
            elif call.status == "waiting" and not call.answers:
                found[call_id] = "answer"
        return found

    @rule(turns=TURNS, session=SESSIONS, crash=CRASH)
    def begin(self, turns: list[list[str]], session: str | None, crash: tuple[int, bool] | None) -> None:
        run_id = f"run-{len(self.scripts)}"
        self.scripts[run_id], self.sessions[run_id] = turns, session
        self.sitting(run_id, crash, begin=True)

    @precondition(lambda self: self.scripts)
    @rule(data=st.data(), crash=CRASH, again=st.booleans())
    def resume(self, data: Any, crash: tuple[int, bool] | None, again: bool) -> None:
        run_id = data.draw(st.sampled_from(sorted(self.scripts)))
        if not self.seen[run_id] or again:
            self.sitting(run_id, crash, begin=True)
        else:
            self.sitting(run_id, crash)

    @precondition(lambda self: any(self.doubts(r) for r, e in self.seen.items() if e))
    @rule(data=st.data(), crash=CRASH)
    def settle(self, data: Any, crash: tuple[int, bool] | None) -> None:
        """Somebody looks at the world and says what is true."""
        run_id = data.draw(st.sampled_from([r for r, e in self.seen.items() if e and self.doubts(r)]))
        verdicts = {
            call_id: Happened("paid") if self.world.once[run_id, call_id] else DidNotHappen()
            for call_id in self.doubts(run_id)
        }
        self.sitting(run_id, crash, settle=verdicts)

    @precondition(lambda self: any(self.waiting(r) for r, e in self.seen.items() if e))
    @rule(data=st.data(), ruling=RULINGS, number=st.integers(0, 9), crash=CRASH)
    def answer(self, data: Any, ruling: int | None, number: int, crash: tuple[int, bool] | None) -> None:
        """Somebody answers one of the calls that wait, or all of them."""
        run_id = data.draw(st.sampled_from([r for r, e in self.seen.items() if e and self.waiting(r)]))
        waiting = self.waiting(run_id)
        some = data.draw(st.sets(st.sampled_from(sorted(waiting)), min_size=1))
        self.say(run_id, {call_id: waiting[call_id] for call_id in some}, ruling, number, crash)

    def say(
        self, run_id: str, waiting: dict[str, str], ruling: int | None, number: int, crash: Any = None
    ) -> None:
        answers: Any = {}
        for call_id, kind in waiting.items():
            if kind == "answer":
                answers[call_id] = said = number
            elif ruling is None:
                answers[call_id], said = Deny(by="maria"), -1
            else:
                edited = None if ruling == ASKED_FOR else {"amount": ruling}
                answers[call_id], said = Approve(by="maria", arguments=edited), ruling
            self.said.setdefault((run_id, call_id), set()).add(said)
        if list(self.waiting(run_id).values()) == ["answer"]:
            answers = next(iter(answers.values()))  # the only question's answer is given as it is
        self.sitting(run_id, crash, answer=answers)

    @precondition(lambda self: any(self.waiting(r) for r, e in self.seen.items() if e) and self.tokens())
    @rule(data=st.data())
    def bring_what_was_used(self, data: Any) -> None:
        """A token that was signed for a call is good for no other one, and for none again."""
        run_id = data.draw(st.sampled_from([r for r, e in self.seen.items() if e and self.waiting(r)]))
        token = data.draw(st.sampled_from(self.tokens()))
        with pytest.raises(AnswerRefused):
            self.sitting(run_id, None, answer=token)
        assert self.waiting(run_id)

    def tokens(self) -> list[str]:
        return [
            e.token
            for es in self.seen.values()
            for e in es
            if isinstance(e, ApprovalGranted | ApprovalDenied)
        ]

    @invariant()
    def nothing_happens_without_the_yes_or_the_answer_that_it_needs(self) -> None:
        for call, what in (self.world.wired | self.world.answered).items():
            assert what in self.said.get(call, set())

    @invariant()
    def no_effect_happens_twice(self) -> None:
        assert all(count == 1 for count in self.world.once.values())
        assert all(len(keys) == 1 for keys in self.world.keys.values())

    @invariant()
    def every_journal_folds_to_a_valid_conversation(self) -> None:
        for events in self.seen.values():
            if events:
                assert [e.seq for e in events] == list(range(1, len(events) + 1))
                state = rules.replay(events)
                assert state == rules.replay(events)
                assert state.calls or valid(state.messages)

    @invariant()
    def a_session_is_its_ended_runs_in_the_order_of_their_ends(self) -> None:
        for session, ended in self.ends.items():
            assert list(self.loop.run(self.store.session(Scope("t", "u", session)))) == ended

    def teardown(self) -> None:
        """Whatever happened, every run can be brought to its end."""
        try:
            for run_id in self.scripts:
                self.bring_to_its_end(run_id)
        finally:
            self.shut()
            self.loop.close()

    def shut(self) -> None:
        """The last process's end."""

    def bring_to_its_end(self, run_id: str) -> None:
        for _ in range(30):
            if not self.seen[run_id]:
                self.sitting(run_id, None, begin=True)
            elif self.doubts(run_id):
                self.settle_all(run_id)
            elif waiting := self.waiting(run_id):
                self.say(run_id, waiting, ASKED_FOR, 1)
            elif not isinstance(self.seen[run_id][-1], RunEnded):
                self.sitting(run_id, None)
        assert isinstance(self.seen[run_id][-1], RunEnded)
        self.no_effect_happens_twice()
        self.nothing_happens_without_the_yes_or_the_answer_that_it_needs()
        self.what_was_said_became_true(run_id)

    def what_was_said_became_true(self, run_id: str) -> None:
        """A yes that was durable was not lost, and a no held."""
        for event in self.seen[run_id]:
            if isinstance(event, ApprovalGranted):
                assert (run_id, event.address) in self.world.wired
            if isinstance(event, ApprovalDenied):
                assert (run_id, event.address) not in self.world.wired

    def settle_all(self, run_id: str) -> None:
        happened = {i: bool(self.world.once[run_id, i]) for i in self.doubts(run_id)}
        self.sitting(
            run_id, None, settle={i: Happened("paid") if h else DidNotHappen() for i, h in happened.items()}
        )


class RunsOnSqlite(Runs):
    """The same lives over a file, reopened after each."""

    def open(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._path = Path(self._folder.name, "runs.db")
        self.reopen()

    def reopen(self) -> None:
        self.store = SqliteRuntime(self._path, durability="process").store
        self.loop.run(self.store.open())

    def after_life(self) -> None:
        # It dies: a process that closes its store lets its bodies end first.
        self.loop.run(Sqlite(self._path).kill(self.store))
        self.reopen()

    def shut(self) -> None:
        self.loop.run(self.store.close())
        self._folder.cleanup()


class ForgetsDoubt(Runs):
    """A mutant: resuming forgets that a `once` call was attempted."""

    phases: ClassVar[list[Phase]] = [Phase.generate]

    def sitting(self, run_id: str, crash: tuple[int, bool] | None, **how: Any) -> Any:
        kept = rules._resumed

        def forgetful(run: rules.RunState, event: Any) -> None:
            kept(run, event)
            for call in run.calls.values():
                if call.status == "in_doubt":
                    call.status, call.open_attempt = "unjudged", False

        rules._resumed = forgetful
        try:
            return super().sitting(run_id, crash, **how)
        finally:
            rules._resumed = kept


class AsksNobody(Runs):
    """A mutant: what a tool says about approval is not asked."""

    phases: ClassVar[list[Phase]] = [Phase.generate]

    def sitting(self, run_id: str, crash: tuple[int, bool] | None, **how: Any) -> Any:
        async def nobody(tool: ToolApproval, arguments: Any) -> Any:
            return NO_OBJECTION

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ToolApproval, "decide", nobody)
            return super().sitting(run_id, crash, **how)


class ChecksNoDigest(Runs):
    """A mutant: a yes to other arguments counts for those that the model gave."""

    phases: ClassVar[list[Phase]] = [Phase.generate]

    def sitting(self, run_id: str, crash: tuple[int, bool] | None, **how: Any) -> Any:
        async def any_yes(run: Any, call: Any, *given: Any) -> Any:
            return tuple([grant.id for grant in call.grants]) or None

        async def no_edit(run: Any, call: Any) -> None:
            return None

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(approving, "standing", any_yes)
            patch.setattr(approving, "edit_of", no_edit)
            return super().sitting(run_id, crash, **how)


def drive(machine: type[Runs], examples: int = 200) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=12,
            deadline=None,
            database=None,
            phases=machine.phases,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize(("machine", "examples"), [(Runs, 80), (RunsOnSqlite, 12)])
def test_whatever_the_order_no_effect_happens_twice_and_nothing_is_lost(
    machine: type[Runs], examples: int
) -> None:
    drive(machine, examples * 3 if LONG else examples)


@pytest.mark.parametrize("mutant", [ForgetsDoubt, AsksNobody, ChecksNoDigest])
def test_the_machine_catches_a_runtime_that_forgets_its_doubts_or_its_people(mutant: type[Runs]) -> None:
    with pytest.raises(BaseException):  # noqa: B017, PT011 - Hypothesis may raise a group
        drive(mutant)
