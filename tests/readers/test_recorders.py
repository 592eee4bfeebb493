"""Recorders are told every event, once and in order; whatever they do, the run does not notice."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from shipworthy import (
    Agent,
    Approve,
    Inbox,
    InMemoryRuntime,
    Observed,
    Recording,
    StandardPermissions,
    ToolCall,
)
from shipworthy.app import recorders
from shipworthy.app.delivery import Delivery, Fate, Queue, Work
from shipworthy.domain.events import AnyEvent, RunEnded, RunResumed, RunStarted
from shipworthy.errors import ConfigurationError, InvalidHook
from tests.readers.world import ALICE, SCRIPT, Hanging, Recorder, bot, journal, refund, sight

N_EVENTS = 9
"""Events of a run of `bot`."""


# --- what is told -----------------------------------------------------------------------------


async def streamed(agent: Agent[Any, Any]) -> str:
    async with agent.stream("Where is my order?", **ALICE, run_id="r1") as stream:
        async for _ in stream:
            pass
    return str(stream.result.output)


async def called(agent: Agent[Any, Any]) -> str:
    return str((await agent.run("Where is my order?", **ALICE, run_id="r1")).output)


@pytest.mark.parametrize("way", [called, streamed])
def test_a_recorder_is_told_every_event_once_and_in_order(way: Callable[..., Any]) -> None:
    async def go() -> None:
        agent, recorder = bot(), Recorder()
        recording = agent.attach(recorder)
        output = await way(agent)
        assert await recording.flush()
        events = await journal(agent, "r1")
        assert output == SCRIPT[-1]
        assert recorder.of("r1") == events
        assert len(events) == N_EVENTS
        assert (recording.seen, recording.failed, recording.dropped) == (N_EVENTS, 0, 0)
        assert {about for _, about in recorder.told} == {
            Observed("acme", "alice", "s1", "r1", "r1", "bot", ("bot",), False)
        }

    asyncio.run(go())


def test_runs_that_go_on_side_by_side_are_each_told_in_order() -> None:
    async def go() -> None:
        agent, recorder = bot(), Recorder()
        recording = agent.attach(recorder)
        await asyncio.gather(*[agent.run("?", tenant_id="acme", run_id=f"r{i}") for i in range(40)])
        assert await recording.flush()
        for i in range(40):
            assert recorder.of(f"r{i}") == await journal(agent, f"r{i}")
        assert recording.seen == 40 * N_EVENTS
        assert len(recorder.threads) == 1

    asyncio.run(go())


def law_of_nesting() -> None:
    """Nested runs are told, with their path, once."""

    async def go() -> None:
        recorder, runtime = Recorder(), InMemoryRuntime()
        clerk = bot(runtime, name="clerk")
        boss = bot(
            runtime, [ToolCall("clerk", {"input": "look"}), "Done."], tools=[clerk.as_tool()], name="boss"
        )
        both = [boss.attach(recorder), clerk.attach(recorder)]
        await boss.run("?", **ALICE, run_id="r1")
        assert [await recording.flush() for recording in both] == [True, True]
        nested = {about.run_id: about for _, about in recorder.told if about.run_id != "r1"}
        assert [(a.root, a.agent, a.path) for a in nested.values()] == [("r1", "clerk", ("boss", "clerk"))]
        for run_id in ("r1", *nested):
            assert recorder.of(run_id) == await journal(boss, run_id)

    asyncio.run(go())


def test_nested_runs_are_told_with_their_path_and_once_though_both_agents_have_the_recorder() -> None:
    law_of_nesting()


def test_the_law_catches_a_recorder_that_is_told_by_each_of_its_agents(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recorders, "_identity", lambda recorder: (id(object()), os.urandom(8).hex()))
    with pytest.raises(AssertionError):
        law_of_nesting()


def waiting(runtime: Any) -> Agent[Any, str]:
    return bot(
        runtime,
        [ToolCall("refund", {"number": "17"}), "Done."],
        tools=[refund],
        permissions=StandardPermissions(),
        approval_handler=Inbox(),
    )


def test_what_goes_on_elsewhere_is_told_there_from_where_it_goes_on() -> None:
    async def go() -> None:
        runtime, before, after = InMemoryRuntime(), Recorder(), Recorder()
        first, second = waiting(runtime), waiting(runtime)
        recording, later = first.attach(before), second.attach(after)
        parked = await first.run("?", **ALICE, run_id="r1")
        await second.resume(parked, answer=Approve(by="bob"))
        assert await recording.flush()
        assert await later.flush()
        told = before.of("r1") + after.of("r1")
        assert sorted(told, key=lambda event: event.seq) == await journal(first, "r1")
        assert any([isinstance(event, RunResumed) for event in after.of("r1")])
        assert isinstance(after.of("r1")[-1], RunEnded)
        assert after.told[-1][1].resumed
        assert not before.told[0][1].resumed

    asyncio.run(go())


def test_a_recorder_may_come_between_runs_and_go_during_one() -> None:
    async def go() -> None:
        agent, early, late = bot(), Recorder(), Recorder()
        first = agent.attach(early)
        assert agent.attach(early) is first  # told once, however often it is attached
        await agent.run("?", **ALICE, run_id="r1")
        second = agent.attach(late)
        async with agent.stream("?", **ALICE, run_id="r2") as stream:
            async for item in stream:
                if isinstance(item, RunStarted):
                    first.detach()
        await first.flush()
        await second.flush()
        assert len(early.of("r1")) == N_EVENTS
        assert late.of("r1") == []
        assert len(early.of("r2")) < N_EVENTS
        assert len(late.of("r2")) == N_EVENTS
        assert agent.attach(early) is not first

    asyncio.run(go())


def test_a_recorder_that_takes_one_argument_is_given_the_event() -> None:
    told: list[Any] = []
    recordings = [one.attach(told.append) for one in (bot(), bot())]
    assert recordings[0] is recordings[1]  # a method is one recorder, however often it is named
    sitting = recordings[0].sitting(sight())
    sitting.saw([RunStarted(run_id="r1", tenant="acme", prompt=())])
    assert recordings[0].flush_sync()
    assert [type(event) for event in told] == [RunStarted]


# --- what a recorder may do to a run: nothing -------------------------------------------------


def outcome(agent: Agent[Any, Any]) -> tuple[str, list[str]]:
    async def go() -> tuple[str, list[str]]:
        result = await agent.run("?", **ALICE, run_id="r1")
        return result.output, [type(event).__name__ for event in await journal(agent, "r1")]

    return asyncio.run(go())


ALONE = outcome(bot())


def law_of_errors() -> None:
    """What a recorder raises is counted, and the run is what it is without."""

    def broken(event: Any) -> None:
        raise KeyError(event.seq)

    agent = bot()
    recording = agent.attach(broken)
    assert outcome(agent) == ALONE
    assert recording.flush_sync()
    assert (recording.seen, recording.failed, recording.dropped) == (0, N_EVENTS, 0)


def law_of_threads() -> None:
    """No recorder is called on the thread of the loop."""
    recorder = Recorder()
    agent = bot()
    recording = agent.attach(recorder)
    assert outcome(agent) == ALONE
    assert recording.flush_sync()
    assert len(recorder.threads) == 1
    assert threading.get_ident() not in recorder.threads


def law_of_room(capacity: int = 3) -> None:
    """What does not fit is dropped and counted, and nothing else is: one in hand, *capacity* wait."""
    hanging = Hanging()
    agent = bot()
    recording = agent.attach(hanging, capacity=capacity)
    try:
        recording.sitting(sight()).saw([RunStarted(run_id="r0", tenant="acme", prompt=())])
        assert hanging.called.wait(5)
        assert outcome(agent) == ALONE
        assert not recording.flush_sync(0.01)
        assert recording.dropped == N_EVENTS - capacity
    finally:
        hanging.let.set()
    assert recording.flush_sync()
    assert (recording.seen, hanging.calls) == (1 + capacity, 1 + capacity)


def test_what_a_recorder_raises_is_counted_and_logged_once_for_each_kind(
    caplog: pytest.LogCaptureFixture,
) -> None:
    law_of_errors()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "broken raised KeyError" in caplog.text


def test_a_recorder_is_called_on_a_thread_of_its_own() -> None:
    law_of_threads()


def test_a_recorder_that_hangs_costs_events_and_never_the_run(caplog: pytest.LogCaptureFixture) -> None:
    law_of_room()
    assert [record.message for record in caplog.records if "cannot keep up" in record.message] != []


def law_of_sums() -> None:
    """Told, told and it raised, not told: from however many loops events come, each is one of these."""

    def moody(event: AnyEvent) -> None:
        if event.seq % 3 == 0:
            raise ValueError

    recording = recorders.attach([], moody, capacity=20)

    def hand_over() -> None:
        sitting = recording.sitting(sight())
        for _ in range(300):
            sitting.saw(events(3))

    threads = [threading.Thread(target=hand_over) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert recording.flush_sync()
    assert recording.seen + recording.failed + recording.dropped == 4 * 300 * 3
    assert min(recording.seen, recording.failed, recording.dropped) > 0


def test_what_was_told_and_what_was_not_add_up() -> None:
    law_of_sums()


class OnTheLoop(Delivery[Work]):
    """The mutant that does not use its thread."""

    def offer(self, items: Sequence[Work]) -> None:
        for item in items:
            item()
            self.seen += 1


class Unbounded(Queue):
    """The mutant that takes everything."""

    def put(self, ticket: int, item: Work) -> Fate:
        self._items.append((ticket, item))
        return "taken"


class Uncounted(Delivery[Work]):
    """The mutant that drops and says nothing."""

    def offer(self, items: Sequence[Work]) -> None:
        super().offer(items)
        self.dropped = 0


@pytest.mark.parametrize(
    ("part", "mutant", "law"),
    [
        ("Delivery", OnTheLoop, law_of_threads),
        ("Delivery", OnTheLoop, law_of_errors),
        ("Queue", Unbounded, law_of_room),
        ("Delivery", Uncounted, law_of_room),
        ("Delivery", Uncounted, law_of_sums),
    ],
)
def test_the_laws_catch_what_they_are_there_for(
    part: str, mutant: Any, law: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorders, part, mutant)
    with pytest.raises(AssertionError):
        law()


def test_an_exit_in_a_recorder_ends_nothing() -> None:
    def leaving(event: Any) -> None:
        sys.exit(3)

    async def leaving_late(event: Any) -> None:
        sys.exit(3)

    agent = bot()
    both = [agent.attach(leaving), agent.attach(leaving_late)]
    assert outcome(agent) == ALONE
    assert all([recording.flush_sync() for recording in both])
    assert [recording.failed for recording in both] == [N_EVENTS, N_EVENTS]


# --- async recorders --------------------------------------------------------------------------


def test_an_async_recorder_has_a_loop_of_its_own_and_may_block_it() -> None:
    told: list[tuple[int, asyncio.AbstractEventLoop]] = []
    let = threading.Event()

    async def blocking(event: AnyEvent) -> None:
        let.wait(30)  # what no coroutine should do
        await asyncio.sleep(0)
        told.append((event.seq, asyncio.get_running_loop()))

    agent = bot()
    recording = agent.attach(blocking)
    assert outcome(agent) == ALONE
    assert told == []
    let.set()
    assert recording.flush_sync()
    assert [seq for seq, _ in told] == list(range(1, N_EVENTS + 1))
    assert len({loop for _, loop in told}) == 1


def test_a_recorder_may_be_called_on_a_loop_that_its_owner_names() -> None:
    async def go() -> None:
        loop, told = asyncio.get_running_loop(), []

        async def mine(event: AnyEvent) -> None:
            assert asyncio.get_running_loop() is loop
            told.append(event.seq)

        def plain(event: AnyEvent) -> None:
            assert asyncio.get_running_loop() is loop

        agent = bot()
        both = [agent.attach(mine, loop=loop), agent.attach(plain, loop=loop)]
        await agent.run("?", **ALICE)
        assert [await recording.flush() for recording in both] == [True, True]
        assert [(r.seen, r.failed) for r in both] == [(N_EVENTS, 0)] * 2
        assert told == [*range(1, N_EVENTS + 1)]

    asyncio.run(go())


def test_a_loop_that_was_closed_costs_events_and_never_the_run() -> None:
    async def never(event: AnyEvent) -> None:
        raise AssertionError

    loop = asyncio.new_event_loop()
    loop.close()
    agent = bot()
    recording = agent.attach(never, loop=loop)
    assert outcome(agent) == ALONE
    assert recording.flush_sync()
    assert recording.failed == N_EVENTS


def test_a_loop_that_ends_meanwhile_costs_events_and_no_more() -> None:
    async def endless(event: AnyEvent) -> None:
        await asyncio.sleep(60)

    async def go() -> Recording:
        agent = bot()
        recording = agent.attach(endless, loop=asyncio.get_running_loop())
        await agent.run("?", **ALICE)
        return recording

    recording = asyncio.run(go())
    assert recording.flush_sync()
    assert (recording.seen, recording.failed, recording.dropped) == (0, N_EVENTS, 0)


# --- threads come and go ----------------------------------------------------------------------


def events(n: int) -> list[AnyEvent]:
    return [RunStarted(seq=i + 1, run_id="r1", tenant="acme", prompt=()) for i in range(n)]


def test_a_thread_that_is_idle_ends_and_the_next_event_starts_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shipworthy.app.delivery.IDLE", 0.01)
    recorder = Recorder()
    recording = recorders.attach([], recorder)
    sitting = recording.sitting(sight())
    for told in (3, 6):
        sitting.saw(events(3))
        assert recording.flush_sync()
        assert len(recorder.told) == told
        deadline = time.monotonic() + 5
        while recorder.threads & {thread.ident for thread in threading.enumerate()}:
            assert time.monotonic() < deadline
            time.sleep(0.005)


def test_a_recorder_that_nobody_has_any_more_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shipworthy.app.delivery.IDLE", 0.01)
    recorder = Recorder()
    kept = weakref.ref(recorder)
    recording = recorders.attach([], recorder)
    recording.sitting(sight()).saw(events(1))
    assert recording.flush_sync()
    del recorder, recording
    deadline = time.monotonic() + 5
    while kept() is not None:
        assert time.monotonic() < deadline
        gc.collect()
        time.sleep(0.005)


def test_a_forked_child_begins_with_nothing_waiting_and_no_thread() -> None:
    hanging = Hanging()
    recording = recorders.attach([], hanging, capacity=5)
    sitting = recording.sitting(sight())
    sitting.saw(events(3))
    assert hanging.called.wait(5)
    hanging.let.set()
    recording.reader.delivery.forked()  # type: ignore[attr-defined]
    sitting.saw(events(1))
    assert recording.flush_sync()


def test_a_script_that_ends_has_told_everything_to_everybody_who_does_not_hang() -> None:
    script = """
import asyncio, time
from shipworthy import Agent, EchoModel
from shipworthy.app import delivery

def slow(event):
    time.sleep(0.02)
    print(type(event).__name__, flush=True)

def hanging(event):
    time.sleep(60)

async def hanging_too(event):
    await asyncio.sleep(60)

delivery.AT_EXIT = 0.3
agent = Agent(model=EchoModel())
for recorder in (hanging, slow, hanging_too):
    agent.attach(recorder)
agent.run_sync("Hello", tenant_id="acme")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    assert done.stdout.split() == ["RunStarted", "ModelRequested", "ModelAnswered", "RunEnded"], done.stderr


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recorder", "options", "kind"),
    [
        (None, {}, ConfigurationError),
        ("print", {}, ConfigurationError),
        (Recorder, {}, ConfigurationError),
        (lambda: None, {}, InvalidHook),
        (lambda event, about, more: None, {}, InvalidHook),
        (lambda event, *, sink: None, {}, InvalidHook),
        (lambda event: None, {"capacity": 0}, ConfigurationError),
        (lambda event: None, {"capacity": True}, ConfigurationError),
        (lambda event: None, {"loop": "main"}, ConfigurationError),
    ],
)
def test_what_cannot_be_a_recorder_is_said_when_it_is_attached(
    recorder: Any, options: dict[str, Any], kind: type[Exception]
) -> None:
    with pytest.raises(kind) as raised:
        bot().attach(recorder, **options)
    assert raised.value.fix  # type: ignore[attr-defined]


def test_one_recorder_has_one_mailbox() -> None:
    recorder = Recorder()
    agent = bot()
    recording = agent.attach(recorder, capacity=7)
    assert bot().attach(recorder) is recording
    assert bot().attach(recording) is recording
    with pytest.raises(ConfigurationError, match="other options"):
        bot().attach(recorder, capacity=8)


@pytest.mark.parametrize(
    ("function", "two"),
    [
        (lambda event: None, False),
        (lambda event, about: None, True),
        (lambda event, whose: None, True),
        (lambda event, database=None: None, False),
        (lambda event, about=None: None, True),
        (lambda *given: None, True),
        ([].append, False),
        (print, True),
    ],
)
def test_whose_run_it_is_goes_to_those_who_take_it(function: Any, two: bool) -> None:
    assert recorders.takes_two(function) is two
