"""Calls that other agents carry out: each makes a run of its own, in the process and within the call of its parent.

The id of a nested run follows from its call, so that the call can be made again, in any process: it finds the run, goes
on with it where it stands, or gives what it ended with.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from shipworthy.domain.events import ApprovalGranted, HumanAnswered, RunStarted, StopRequested
from shipworthy.domain.messages import MODEL, RUNTIME, Message, Text
from shipworthy.domain.scope import Scope
from shipworthy.domain.usage import Spent
from shipworthy.engine.begin import Start, begin
from shipworthy.engine.blueprint import Limits
from shipworthy.engine.counting import tally_of
from shipworthy.engine.execute import outlast
from shipworthy.engine.live import LiveRun
from shipworthy.engine.nesting import Delegate, Ended, Paused, nested_id, parent_of
from shipworthy.engine.plan import Plan, Resume, no_deps
from shipworthy.engine.recover import load, take
from shipworthy.errors import InvalidOutput, MissingTool, RunBusy, RunNotFound, SettlementRefused, StoreError
from shipworthy.rules.calls import Answer, Call
from shipworthy.rules.decide import again_at
from shipworthy.rules.spending import spent, together
from shipworthy.rules.state import RunState, replay

DEEPEST = 8
"""Runs that may be nested in one another, below the outermost one."""
_FIRST_POLL, _SLOWEST_POLL = 0.02, 0.5


class Member(msgspec.Struct, frozen=True):
    """An agent that carries out calls of another one. `identified`: it works for nobody anonymous."""

    name: str
    plan: Callable[[], Plan]
    identified: bool = False


class _Refused(Exception):
    """A nested run that is not begun; the model is told why."""


class _Sitting(msgspec.Struct):
    """One nested run, in one attempt of its call. `child`: the run, once its sitting is over; `words`: why there is
    none; `raised`: what its sitting raised that it is paused for."""

    run: LiveRun
    call: Call
    member: Member
    run_id: str
    task: str
    history: tuple[Message, ...]
    time: float | None
    child: LiveRun | None = None
    words: str = ""
    raised: Exception | None = None

    async def sit(self) -> None:
        """To the nested run's end, or to its pause. Raises StoreError, and whatever keeps it from being begun."""
        try:
            child = await self._seated()
        except _Refused as no:
            self.words = str(no)
            return
        except SettlementRefused as no:  # nothing was recorded, and it waits on
            plan = self.member.plan()
            self.child = await load(self.run.home.inner, plan.blueprint, self.run.scope, self.run_id)
            self.raised = no
            return
        await self._driven(child)

    async def failed(self, error: Exception) -> None:
        """It raised, and its run, if there is one, stands where it stood."""
        self.raised = error
        with contextlib.suppress(RunNotFound):
            self.child = await load(self.run.home.inner, self.run.blueprint, self.run.scope, self.run_id)

    async def _driven(self, child: LiveRun) -> None:
        """Meanwhile it counts as it stands, and from then on as it was left."""
        counted = self.run.counts.nested
        counted[self.run_id] = child
        try:
            if child.state.ended is None:
                child = await self.run.home.inner.drive(child)
        except StoreError:
            raise
        except Exception as error:
            if not child.state.parked:
                raise
            self.raised = error
        finally:
            counted[self.run_id] = tally_of(child)
        self.child = child

    async def _seated(self) -> LiveRun:
        """The run, to be driven unless it has ended."""
        if self.member.identified and self.run.scope.anonymous:
            raise _Refused(f"The agent {self.member.name!r} requires an identity, and this run has none.")
        pause = _FIRST_POLL
        known = self.call.attempts > 1
        while True:
            try:
                if known:
                    return await self._known()
                if (made := await self._begun()) is not None:
                    return made
                known = True
            except RunNotFound:
                known = False
            except RunBusy:  # the worker that made this call before may still be at it
                await self.run.store.news(self.run.scope, self.run_id, pause)
                pause = min(pause * 2, _SLOWEST_POLL)

    async def _begun(self) -> LiveRun | None:
        run, plan = self.run, self.member.plan()
        start = Start(
            scope=run.scope,
            prompt=(Text(self.task, MODEL, "untrusted"),),
            run_id=self.run_id,
            history=self.history,
            deps=await plan.make_deps(run.scope, run.deps),
            settings=None,
            limits=_within(plan.blueprint.limits, self.time),
            parent=run,
            call=self.call.call.call_id,
        )
        return await begin(run.home.inner, plan.blueprint, start)

    async def _known(self) -> LiveRun:
        """The run that an earlier attempt of the call began, as this process has it go on."""
        run, plan = self.run, self.member.plan()
        state = replay(await run.store.read(run.scope, self.run_id))
        self._check(state.started)
        if state.ended is not None:
            return await load(run.home.inner, plan.blueprint, run.scope, self.run_id)
        return await take(run.home.inner, await self._resume(plan, state))

    async def _resume(self, plan: Plan, state: RunState) -> Resume:
        """The run as it is taken over, with what was said and found out of its calls."""
        run = self.run
        mine = {a: each for a, each in run.settlements.items() if _head(state, a) in state.calls}
        answers = [await _whole(run, each) for each in self.call.down if _head(state, each.address)]
        return Resume(
            plan=plan,
            scope=run.scope,
            run_id=self.run_id,
            deps=run.deps,
            settlements=mine,
            parent=run,
            answers=tuple(answers),
        )

    async def stop(self) -> RunState | None:
        """What `Delegate.stop` promises."""
        run, home, plan = self.run, self.run.home.inner, self.member.plan()
        state = replay(await run.store.read(run.scope, self.run_id))
        try:
            self._check(state.started)
        except _Refused:
            return None
        if state.ended is not None or (
            run.state.stopped_here and state.parked and state.stopping is not None
        ):
            return state
        quiet = run.state.stopped_here or state.stopping is None  # nor is the world asked what happened
        if quiet:
            plan = Plan(plan.blueprint, no_deps)
        try:
            child = await take(home, await self._resume(plan, state))
        except SettlementRefused as no:  # nothing was recorded, and it waits on
            run.raises = run.raises or no
            return state
        if child.state.ended is None:
            if quiet:
                child.record(StopRequested(cause="cancelled"))
            child = await home.drive(child)
        return child.state

    def _check(self, started: RunStarted) -> None:
        """That the run is this call's: ids can be chosen."""
        mine, parent = parent_of(self.run, self.call.call.call_id), started.parent
        same = parent is not None and (parent.run_id, parent.path) == (mine.run_id, mine.path)
        if not same or Scope(started.tenant, started.user, started.session) != self.run.scope:
            raise _Refused(f"Not done: there is a run {self.run_id!r} already, which is none of this call.")
        if started.agent != self.member.name:
            raise MissingTool(
                f"Run {self.run_id!r} is one of the agent {started.agent!r}, and the tool "
                f"{self.call.call.name!r} has {self.member.name!r} in its place.",
                fix="Give the tool the agent again (same name, same place), and resume; nothing was lost.",
            )


class Delegating(Delegate):
    """A tool whose calls are nested runs of its `members`: one of one agent, or one of each, side by side (`grouped`).
    `time`: seconds for one sitting of each."""

    members: tuple[Member, ...] = ()
    grouped = False
    time: float | None = None
    origin = ""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple([member.name for member in self.members])

    def task_of(self, arguments: Any) -> str:
        """What the agents are asked."""
        raise NotImplementedError

    async def stop(self, run: LiveRun, call: Call, run_id: str) -> RunState | None:
        ids = self.runs_of(run.run_id, call.call.call_id)
        member = self.members[ids.index(run_id)]
        return await _Sitting(run, call, member, run_id, "", (), self.time).stop()

    def runs_of(self, run_id: str, call_id: str) -> tuple[str, ...]:
        if not self.grouped:
            return (nested_id(run_id, call_id),)
        return tuple([nested_id(run_id, call_id, index) for index in range(len(self.members))])

    async def delegate(self, run: LiveRun, call: Call, arguments: Any) -> Ended | Paused:
        if len(run.agents) > DEEPEST:
            words = f"Not done: agents may be nested {DEEPEST} deep, and this call would be one more."
            return Ended((Text(words, RUNTIME, "untrusted"),), ok=False)
        task = self.task_of(arguments)
        history = await _conversation(run) if self.hands_over else ()
        ids = self.runs_of(run.run_id, call.call.call_id)
        sittings = [
            _Sitting(run, call, member, run_id, task, history, self.time)
            for member, run_id in zip(self.members, ids, strict=True)
        ]
        await _all(sittings)
        if (paused := _paused(run, sittings)) is not None:
            return paused
        outcomes = {each.member.name: await _outcome(each) for each in sittings}
        if self.grouped:
            text = _as_object(outcomes)
        else:
            ((text, _, _),) = outcomes.values()
        some = any([ok for _, _, ok in outcomes.values()])
        return Ended((Text(text, self.origin, "untrusted"),), ok=some, nested=_used(sittings))


async def _all(sittings: Sequence[_Sitting]) -> None:
    """Each to its end or pause, also where another one fails; leaves none running behind. Raises what a single one
    does, and StoreError."""
    if len(sittings) == 1:
        await sittings[0].sit()
        return
    tasks = [asyncio.create_task(each.sit()) for each in sittings]
    try:
        await asyncio.wait(tasks)
    except asyncio.CancelledError:
        for task in tasks:
            task.cancel()
        await outlast(tasks)
        raise
    for each, task in zip(sittings, tasks, strict=True):
        error = task.exception()
        if isinstance(error, Exception) and not isinstance(error, StoreError):
            await each.failed(error)
        elif error is not None:
            raise error


def _paused(run: LiveRun, sittings: Sequence[_Sitting]) -> Paused | None:
    """The nested runs that wait, if there are any, and those that raised beside them: what people are asked of the
    others is not lost to them. Raises what one raised where none waits."""
    first = next((each.raised for each in sittings if each.raised is not None), None)
    open_runs = [each.child for each in sittings if each.child is not None and each.child.state.ended is None]
    if not any([child.state.parked for child in open_runs]):
        if first is not None:
            raise first
        return None
    ends = [child.state.wake_at for child in open_runs]
    if first is not None:  # whoever was woken tries again
        ends.append(again_at(run.state, time.time_ns() // 1_000_000))
    ended = [each.child is not None and each.child.state.ended is not None for each in sittings]
    runs = tuple(
        [each.run_id for each, over in zip(sittings, ended, strict=True) if not over and not each.words]
    )
    return Paused(runs, min([end for end in ends if end is not None], default=None), first, _used(sittings))


def _used(sittings: Sequence[_Sitting]) -> Spent | None:
    """What the nested runs used and were allowed, and those that are nested in them."""
    runs = [each.child for each in sittings if each.child is not None]
    if not runs:
        return None
    tallies = [tally for run in runs if (tally := tally_of(run)).allowed or tally.returned]
    return replace(together([spent(run.state) for run in runs]), tallies=tuple(tallies))


async def _outcome(each: _Sitting) -> tuple[str, bool, bool]:
    """What became of a nested run, as text; whether that is JSON, and whether it is an output."""
    child = each.child
    if child is None or child.state.ended is None:
        return each.words, False, False
    end = child.state.ended
    text, is_json = await _output(child)
    if end.status == "completed":
        return text, is_json, True
    why = f" ({end.stop_reason})" if end.stop_reason and end.status != "cancelled" else ""
    how = "failed" if end.status == "failed" else f"was {end.status}"
    words = f"The agent {each.member.name!r} did not finish: it {how}{why}."
    return (f"{words} Its last answer: {text}" if text else words), False, False


async def _output(child: LiveRun) -> tuple[str, bool]:
    """A text as it is, everything else as JSON."""
    end = child.state.ended
    if end is None or end.output is None:
        return "", False
    text: str = (await child.bodies.part(end.output)).text
    try:
        value = child.blueprint.output.decode(text)
    except InvalidOutput:  # the type has changed since
        return text, True
    return (value, False) if isinstance(value, str) else (text, True)


def _as_object(outcomes: Mapping[str, tuple[str, bool, bool]]) -> str:
    """One JSON object: by agent its output, or what became of it."""
    found: dict[str, Any] = {}
    for name, (text, is_json, ok) in outcomes.items():
        value: Any = msgspec.Raw(text.encode()) if is_json else text
        found[name] = value if ok else {"error": text}
    return msgspec.json.encode(found).decode()


async def _conversation(run: LiveRun) -> tuple[Message, ...]:
    """What was said so far, up to the answer that hands over: of that its words, for its calls have no results yet."""
    *before, last = await run.messages()
    said = tuple([part for part in last.parts if isinstance(part, Text)])
    return (*before, Message("assistant", said)) if said else tuple(before)


async def _whole(run: LiveRun, answer: Answer) -> Answer:
    """An answer with what lies beside the journal of *run* in its place."""
    if isinstance(answer, HumanAnswered):
        return replace(answer, answer=await run.bodies.part(answer.answer))
    if isinstance(answer, ApprovalGranted) and answer.call is not None:
        return replace(answer, call=await run.bodies.part(answer.call))
    return answer


def _head(state: RunState, address: str) -> str:
    """The call of this run that an address leads to, or through; empty where it leads elsewhere."""
    if not address.startswith(state.prefix):
        return ""
    return address.removeprefix(state.prefix).partition("/")[0]


def _within(limits: Limits, seconds: float | None) -> Limits:
    """The agent's limits, and those of the tool."""
    if seconds is None or (limits.timeout is not None and limits.timeout <= seconds):
        return limits
    return replace(limits, timeout=seconds)
