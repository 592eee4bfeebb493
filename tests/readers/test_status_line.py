"""A status line says what a run is about, in words for people, and nothing that anybody said."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import msgspec
import pytest

from shipworthy import (
    Agent,
    Approve,
    Deny,
    Inbox,
    Observed,
    StandardPermissions,
    StatusLine,
    ToolCall,
    ask_human,
    tool,
)
from shipworthy.app import status_line
from shipworthy.app.recorders import Unmoved
from shipworthy.domain.events import (
    ModelAnswered,
    ModelRequested,
    RunEnded,
    RunStarted,
    ToolAttempted,
    ToolReturned,
)
from shipworthy.domain.messages import Text
from shipworthy.errors import ConfigurationError, InvalidHook, StoreUnavailable
from shipworthy.rules.learning import SUFFIX as LEARNER
from tests.readers.world import ALICE, SCRIPT, SECRET, Hanging, bot, refund, run, sight

STARTED = RunStarted(seq=1, run_id="r1", tenant="acme", prompt=(Text(SECRET),))
ENDED = RunEnded(seq=9, status="completed")
REQUESTED = ModelRequested(seq=2, ordinal=0, model="scripted")


def asks(*names: str) -> ModelAnswered:
    return ModelAnswered(
        ordinal=0, parts=tuple([ToolCall(name, {"number": SECRET}, call_id=name) for name in names])
    )


def said(*commits: list[Any], every: float = 0, over: bool = False, **options: Any) -> list[str]:
    """What a status line says of these commits, each told before the next one."""
    told: list[str] = []
    line = StatusLine(told.append, every=every, **options)
    sitting = line.sitting(sight())
    for events in commits:
        sitting.saw(events)
        assert line.delivery.flush_sync()
    if over:
        sitting.over(StoreUnavailable("gone"))
        assert line.delivery.flush_sync()
    return told


def observed(agent: Agent[Any, Any], **options: Any) -> list[str]:
    """What a status line says of one run."""
    told: list[tuple[str, Observed]] = []
    recording = agent.attach(StatusLine(lambda text, about: told.append((text, about)), every=0, **options))
    run(agent)
    assert recording.flush_sync()
    assert {about.run_id for _, about in told} == {"r1"}
    return [text for text, _ in told]


def test_each_phase_of_a_run_is_said_in_turn() -> None:
    assert said(
        [STARTED],
        [REQUESTED],
        [asks("lookup_order")],
        [ToolAttempted(call_id="lookup_order")],
        [ToolReturned(call_id="lookup_order", content=(Text(SECRET),)), REQUESTED],
        [ModelAnswered(ordinal=1, parts=(Text(SECRET),))],
        [ENDED],
        over=True,
        words={"lookup_order": "looking up the order"},
    ) == ["Thinking…", "Looking up the order…", "Thinking…", "Answering…", "Done"]


def test_a_run_ends_its_line_and_nothing_that_was_said_is_in_it() -> None:
    told = observed(bot(script=SCRIPT))
    assert told[-1] == "Done"
    assert set(told) <= {"Thinking…", "Lookup order…", "Answering…", "Done"}
    assert SECRET not in " ".join(told)


def test_of_several_tools_the_one_that_began_last_is_said_until_it_returned() -> None:
    asked = [STARTED, asks("find", "count"), ToolAttempted(call_id="find")]
    assert said(
        asked,
        [ToolAttempted(call_id="count")],
        [ToolReturned(call_id="count", content=())],
        [ToolReturned(call_id="find", content=())],
    ) == ["Find…", "Count…", "Find…"]


def test_a_pause_says_for_what() -> None:
    @tool(effect="read")
    async def confirm() -> str:
        """Ask."""
        return str(await ask_human(f"Is it {SECRET}?"))

    parked = bot(
        script=[ToolCall("refund", {"number": "17"}), "Done."],
        tools=[refund],
        permissions=StandardPermissions(),
        approval_handler=Inbox(),
    )
    assert observed(parked)[-1] == "Waiting for approval…"
    asking = bot(script=[ToolCall("confirm"), "Done."], tools=[confirm])
    assert observed(asking)[-1] == "Waiting for an answer…"


@pytest.mark.parametrize("answer", [Approve(by="bob"), Deny(by="bob")])
def test_a_paused_run_that_goes_on_says_so(answer: Any) -> None:
    async def go() -> None:
        told: list[str] = []
        agent = bot(
            script=[ToolCall("refund", {"number": "17"}), "Done."],
            tools=[refund],
            permissions=StandardPermissions(),
            approval_handler=Inbox(),
        )
        recording = agent.attach(StatusLine(told.append, every=0))
        parked = await agent.run("?", **ALICE)
        await recording.flush()
        told.clear()
        await agent.resume(parked, answer=answer)
        assert await recording.flush()
        assert told[-1] == "Done"

    asyncio.run(go())


def test_a_run_that_is_left_says_so_and_one_that_goes_on_elsewhere_does_not() -> None:
    assert said([STARTED], over=True) == ["Thinking…", "Interrupted"]
    told: list[str] = []
    line = StatusLine(told.append, every=0)
    sitting = line.sitting(sight())
    sitting.saw([STARTED])
    sitting.over(None)
    line.sitting(sight()).over(StoreUnavailable("before anything happened"))
    assert line.delivery.flush_sync()
    assert told == ["Thinking…"]


def test_a_run_that_its_agent_leaves_says_so_and_one_that_learns_says_nothing() -> None:
    async def go() -> None:
        told: dict[str, str] = {}
        begun = asyncio.Event()

        @tool(effect="read")
        async def wait() -> str:
            """Wait."""
            begun.set()
            await asyncio.sleep(60)
            return "over"

        agent = bot(script=[ToolCall("wait"), "Done."], tools=[wait], name="bot")
        recording = agent.attach(StatusLine(lambda text, about: told.update({about.run_id: text}), every=0))
        async with agent, agent.stream("?", **ALICE, run_id="r1") as stream:
            stream.detach()
            await begun.wait()
        assert await recording.flush()
        assert told == {"r1": "Interrupted"}

    asyncio.run(go())
    line = StatusLine(print)
    learning = msgspec.structs.replace(sight(), agents=(f"bot{LEARNER}",))
    assert isinstance(line.sitting(learning), Unmoved)


def law_of_pace() -> None:
    """What comes too soon waits, and only the newest of it is told; the last one at once."""
    told: list[str] = []
    line = StatusLine(told.append, every=30)
    sitting = line.sitting(sight())
    sitting.saw([STARTED])
    assert line.delivery.flush_sync()
    for name in ("one", "two", "three"):
        sitting.saw([asks(name), ToolAttempted(call_id=name)])
    assert not line.delivery.flush_sync(0.02)
    assert told == ["Thinking…"]
    sitting.saw([ENDED])
    assert line.delivery.flush_sync()
    assert told == ["Thinking…", "Done"]
    assert (line.delivery.seen, line.delivery.dropped) == (2, 0)


def test_a_status_is_told_no_more_often_than_asked() -> None:
    law_of_pace()


def test_a_status_that_waits_is_told_in_time() -> None:
    told: list[str] = []
    line = StatusLine(told.append, every=0.02)
    sitting = line.sitting(sight())
    for events in ([STARTED], [asks("find"), ToolAttempted(call_id="find")]):
        sitting.saw(events)
        assert line.delivery.flush_sync()
    assert told == ["Thinking…", "Find…"]


class Eager(status_line.Latest):
    """The mutant that does not wait."""

    def __init__(self, capacity: int, every: float) -> None:
        super().__init__(capacity, 0)


def test_the_law_catches_a_line_that_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_line, "Latest", Eager)
    with pytest.raises(AssertionError):
        law_of_pace()


def test_a_user_interface_that_hangs_costs_statuses_of_others_and_never_a_run() -> None:
    hanging = Hanging()
    agent = bot()
    recording = agent.attach(StatusLine(hanging, capacity=2))
    sitting = recording.sitting(sight("r0"))
    sitting.saw([STARTED])
    assert hanging.called.wait(5)

    async def go() -> list[str]:
        results = [agent.run("?", tenant_id="acme", run_id=f"s{i}") for i in range(5)]
        return [result.output for result in await asyncio.gather(*results)]

    assert asyncio.run(go()) == [SCRIPT[-1]] * 5
    assert recording.dropped > 0
    hanging.let.set()
    assert recording.flush_sync()
    assert recording.seen == 3  # the one in hand, and the last ones of the two that had room


def test_the_words_are_yours() -> None:
    phases = {"thinking": "einen Moment", "completed": "fertig!"}
    assert said([STARTED], [ENDED], phases=phases) == ["Einen Moment…", "Fertig!"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("looking it up", "Looking it up…"),
        ("Done!", "Done!"),
        ("two\nlines\x1b[2J", "Two lines [2J…"),
        ("x" * 200, f"X{'x' * 79}…"),
    ],
)
def test_a_status_is_one_short_line(text: str, shown: str) -> None:
    assert status_line.status(text) == shown


def test_an_async_status_line_is_told_on_the_loop_that_is_named() -> None:
    async def go() -> None:
        told: asyncio.Queue[str] = asyncio.Queue()
        thread = threading.get_ident()

        async def send(text: str) -> None:
            assert threading.get_ident() == thread
            await told.put(text)

        agent = bot()
        agent.attach(StatusLine(send, every=0, loop=asyncio.get_running_loop()))
        await agent.run("?", **ALICE)
        while await asyncio.wait_for(told.get(), 5) != "Done":
            pass

    asyncio.run(go())


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"on_status": "print"}, ConfigurationError),
        ({"on_status": lambda: None}, InvalidHook),
        ({"words": ["looking"]}, ConfigurationError),
        ({"words": {"lookup_order": ""}}, ConfigurationError),
        ({"phases": {"pondering": "hm"}}, ConfigurationError),
        ({"every": -1}, ConfigurationError),
        ({"capacity": 0}, ConfigurationError),
        ({"loop": 1}, ConfigurationError),
    ],
)
def test_what_cannot_be_a_status_line_is_said_when_it_is_made(
    options: dict[str, Any], kind: type[Exception]
) -> None:
    with pytest.raises(kind) as raised:
        StatusLine(**{"on_status": print, **options})
    assert raised.value.fix  # type: ignore[attr-defined]


def test_its_options_are_its_own() -> None:
    with pytest.raises(ConfigurationError, match="options of its own"):
        bot().attach(StatusLine(print), capacity=5)
