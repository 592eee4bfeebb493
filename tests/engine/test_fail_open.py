"""Whoever may object and is odd has objected: nothing runs, whatever went wrong, and the run goes on with a denial."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from shipworthy import (
    Agent,
    Decision,
    Deny,
    Inbox,
    InMemoryStore,
    Replace,
    ScriptedModel,
    ToolCall,
    all_of,
)
from shipworthy.engine import approving, judging, objecting
from shipworthy.engine.driver import InProcess
from shipworthy.engine.runtime import Runtime
from shipworthy.errors import StoreError
from shipworthy.rules.policies.check import sound
from tests.engine import control_world as w
from tests.engine.world import ALICE, agent, go, valid


@pytest.fixture(autouse=True)
def released() -> object:
    """Threads that hang end with their test."""
    w.RELEASE.clear()
    yield
    w.RELEASE.set()


@pytest.mark.parametrize("place", w.PLACES, ids=str)
def test_where_nobody_objects_the_same_wiring_runs_the_tools(place: w.Place) -> None:
    for consent in place.consents:
        hunted = go(w.hunt(place, w.giving(consent)(place)))

        assert hunted.ended == []
        assert hunted.bodies.ran == {"look": 2, "put": 2, "pay": 2}
        assert [w.words(result).count(w.SECRET) for result in hunted.results] == [3, 3]


@pytest.mark.parametrize(("place", "odd"), w.hunts(), ids=str)
def test_whoever_is_odd_has_objected(place: w.Place, odd: w.Odd) -> None:
    if odd.ends is not None:
        bodies = w.Bodies()
        with pytest.raises(odd.ends):
            go(w.finish(place.agent(odd.make(place), bodies)))
        assert not bodies.ran or place.name == "after_tool"
        return

    assert w.escaped(place, go(w.hunt(place, odd.make(place), tuning=w.HURRY))) == []


# ----------------------------------------------------------------------------------- what is judged is what runs


class Sends:
    """What a body was given whose arguments can be changed in place."""

    def __init__(self) -> None:
        self.made: list[Any] = []

    async def send(self, to: dict[str, str], parts: list[int]) -> str:
        self.made.append((dict(to), list(parts)))
        return "sent"


def tamper(arguments: Any) -> None:
    """Make other arguments of those that were shown."""
    to = arguments["to"] if isinstance(arguments, Mapping) else arguments.to
    parts = arguments["parts"] if isinstance(arguments, Mapping) else arguments.parts
    to["iban"] = "GOOD"
    parts.append(99)
    with contextlib.suppress(Exception):
        arguments["to"] = {"iban": "GOOD"}
    with contextlib.suppress(Exception):
        arguments.to = {"iban": "GOOD"}


def only_good(scope: Any, action: Any) -> Decision:
    good = action.arguments["to"]["iban"] == "GOOD"
    return Decision.allow_() if good else Decision.deny_("Not to them.")


def ask_all(scope: Any, action: Any) -> Decision:
    return Decision.ask_("Who is it?", rule="ask")


TAMPERED: dict[str, Callable[[], dict[str, Any]]] = {
    "a hook": lambda: {
        "hook": lambda ctx, action: tamper(action.arguments),
        "permissions": w.Immediate(only_good),
    },
    "a policy": lambda: {
        "permissions": all_of(
            w.Immediate(lambda scope, action: (tamper(action.arguments), Decision.allow_())[1]),
            w.Immediate(only_good),
        )
    },
    "a predicate": lambda: {
        "requires": lambda args: bool(tamper(args)),
        "permissions": w.Immediate(lambda scope, action: Decision.allow_()),
    },
    "a handler": lambda: {
        "permissions": w.Immediate(ask_all),
        "approval_handler": lambda request: (tamper(request.arguments), w.YES)[1],
    },
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("who", TAMPERED)
def test_arguments_that_somebody_changes_who_was_shown_them_are_not_those_that_run(
    who: str, stream: bool
) -> None:
    wired, sends = TAMPERED[who](), Sends()
    hook, requires = wired.pop("hook", None), wired.pop("requires", False)
    evil = {"to": {"iban": "EVIL"}, "parts": [1]}
    a = agent(ToolCall("send", evil), "Done.", **wired)
    a.tool(effect="once", name="send", requires_approval=requires)(sends.send)
    if hook is not None:
        a.before_tool(hook)

    result = go(w.finish(a, stream))

    judged_good = who in ("a predicate", "a handler")  # nobody there minds who it is sent to
    assert sends.made == ([({"iban": "EVIL"}, [1])] if judged_good else [])
    assert result.status == "completed"
    assert valid(result.messages)


def test_a_hook_that_changes_the_request_it_was_shown_changes_nothing_that_is_sent() -> None:
    seen: list[Any] = []

    def first(request: Any) -> Any:
        seen.append((request.instructions, [t.name for t in request.tools], request.settings.max_tokens))
        return "Done."

    a = Agent("Be brief.", model=ScriptedModel([first]), tools=w.Bodies().tools())

    @a.before_model
    def meddle(ctx: Any, request: Any) -> None:
        request.instructions, request.tools = "Be evil.", ()
        request.messages, request.ordinal = [], 7
        with contextlib.suppress(Exception):
            request.settings.max_tokens = 1

    assert go(w.finish(a)).status == "completed"
    assert seen == [("Be brief.", ["look", "put", "pay"], None)]


# ----------------------------------------------------------------------------------------------- replacing

IMPOSSIBLE: dict[str, Any] = {
    "a wrong type": Replace({"amount": "much"}),
    "an unknown name": Replace({"amount": 1, "to": "me"}),
    "nothing": Replace({}),
    "None": Replace(None),  # type: ignore[arg-type]
    "a list": Replace([1]),  # type: ignore[arg-type]
    "a text": Replace('{"amount": 1}'),  # type: ignore[arg-type]
    "a call of another tool": Replace(ToolCall("pay", {"amount": 1})),  # type: ignore[arg-type]
    "what is no JSON": Replace({"amount": object()}),
    "not a number": Replace({"amount": float("nan")}),
    "a class": Replace,
    "something like it": type("Replacement", (), {"arguments": {"amount": 1}, "reason": ""})(),
}


@pytest.mark.parametrize("what", IMPOSSIBLE)
def test_impossible_arguments_in_place_of_others_are_a_denial(what: str) -> None:
    place = w.Place("before_tool", "async", (None,), w.WIRES["before_tool"][1])

    assert w.escaped(place, go(w.hunt(place, w.giving(IMPOSSIBLE[what])(place)))) == []


def test_arguments_that_are_replaced_again_and_again_are_denied_in_the_end() -> None:
    place = w.Place("before_tool", "async", (None,), w.WIRES["before_tool"][1])

    async def more(ctx: Any, action: Any) -> Replace:
        return Replace({"amount": action.arguments["amount"] + 1})

    assert w.escaped(place, go(w.hunt(place, more))) == []


@pytest.mark.parametrize("stream", [False, True])
def test_two_hooks_that_undo_one_another_are_a_denial(stream: bool) -> None:
    bodies = w.Bodies()
    a = agent(w.CALLS, "Done.", tools=bodies.tools())
    a.before_tool(lambda ctx, action: Replace({"amount": 2}))
    a.before_tool(lambda ctx, action: Replace({"amount": 3}))

    result = go(w.finish(a, stream))

    assert (result.status, bodies.ran) == ("completed", {})
    assert w.words(result).count("Denied: ") == 3


# --------------------------------------------------------------------------------------------- cancellation


@pytest.mark.parametrize("polite", [True, False], ids=["polite", "keeps it to itself"])
@pytest.mark.parametrize("place", [p for p in w.PLACES if p.kind == "async"], ids=lambda p: p.name)
def test_a_run_that_is_cancelled_while_somebody_thinks_is_cancelled(place: w.Place, polite: bool) -> None:
    bodies = w.Bodies()

    async def law() -> None:
        thinking = asyncio.Event()

        async def thinks(*_: Any) -> Any:
            thinking.set()
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                if polite:
                    raise
            return place.consents[-1]

        a = place.agent(thinks, bodies)
        running = asyncio.create_task(a.run("Go.", run_id="r", **ALICE))
        await thinking.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        result = await a.resume("r", tenant_id="acme")
        assert (result.status, result.stop_reason) == ("cancelled", "cancelled")
        assert valid(result.messages)
        assert w.SECRET not in w.words(result)

    go(law())
    assert not bodies.ran or place.name == "after_tool"


@pytest.mark.parametrize("place", w.PLACES, ids=str)
def test_a_run_whose_time_is_over_while_somebody_thinks_is_stopped(place: w.Place) -> None:
    if str(place) == "immediate policy-sync":
        return  # it says of itself that it computes and nothing else
    bodies = w.Bodies()
    odd = next(odd for odd in w.ODDITIES if odd.name == "hangs")

    result = go(place.agent(odd.make(place), bodies).run("Go.", timeout=w.PATIENCE, **ALICE))

    assert (result.status, result.stop_reason) == ("stopped", "timeout")
    assert valid(result.messages)
    assert w.SECRET not in w.words(result)
    assert not bodies.ran or place.name == "after_tool"


@pytest.mark.parametrize(
    "place", [p for p in w.PLACES if str(p) in ("before_tool-async", "handler-async")], ids=str
)
def test_whoever_does_not_let_itself_be_cancelled_keeps_nobody_waiting(place: w.Place) -> None:
    async def law() -> None:
        over = asyncio.Event()

        async def stubborn(*_: Any) -> Any:
            while not over.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await over.wait()
            return place.consents[-1]

        assert w.escaped(place, await w.hunt(place, stubborn, tuning=w.HURRY)) == []
        over.set()

    go(law())


# ------------------------------------------------------------------------------------------------- the store


class Faulty(InMemoryStore):
    """A store of which one operation goes wrong while `broken`."""

    def __init__(self, operation: str, how: str) -> None:
        super().__init__()
        self.operation, self.how, self.broken = operation, how, True
        self.hangs = asyncio.Event()

    async def _go_wrong(self, operation: str) -> None:
        if not self.broken or operation != self.operation:
            return
        if self.how == "hangs":
            self.hangs.set()
            await asyncio.sleep(30)
        if self.how == "exits":
            raise SystemExit
        raise {"fails": StoreError, "breaks": RuntimeError, "cancels": asyncio.CancelledError}[self.how](
            "The disk."
        )

    async def signing_keys(self) -> Any:
        await self._go_wrong("signing_keys")
        return await super().signing_keys()

    async def grants(self, scope: Any) -> Any:
        await self._go_wrong("grants")
        return await super().grants(scope)

    async def commit(self, fence: Any, batch: Any) -> Any:
        for event in batch.events:
            await self._go_wrong(type(event).__name__)
        return await super().commit(fence, batch)


OPERATIONS = [
    "signing_keys",
    "grants",
    "ApprovalRequested",
    "ApprovalGranted",
    "ToolsJudged",
    "ToolAttempted",
]


@pytest.mark.parametrize("stream", [False, True], ids=["run", "stream"])
@pytest.mark.parametrize("how", ["fails", "breaks", "cancels", "hangs"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_store_that_goes_wrong_runs_nothing_and_the_run_goes_on_when_it_is_right(
    operation: str, how: str, stream: bool
) -> None:
    bodies = w.Bodies()

    async def law() -> None:
        store = Faulty(operation, how)
        runtime = Runtime(store, InProcess())
        a = agent(
            ToolCall("pay", {"amount": 1}),
            "Done.",
            tools=bodies.tools(),
            permissions=w.ASKS,
            approval_handler=lambda request: w.YES,
            runtime=runtime,
        )
        going = asyncio.ensure_future(w.finish(a, stream, run_id="r"))
        if how == "hangs":
            await store.hangs.wait()
            going.cancel()
        with pytest.raises((Exception, asyncio.CancelledError)):
            await asyncio.wait_for(going, 20)
        assert bodies.ran == {}
        store.broken = False
        result = await a.resume("r", tenant_id="acme")
        if how == "fails":
            assert (result.status, bodies.ran) == ("completed", {"pay": 1})
        assert valid(result.messages)

    go(law())
    assert bodies.ran["pay"] <= 1


# ------------------------------------------------------------------------------------------------- the inbox


@pytest.mark.parametrize("stream", [False, True], ids=["run", "stream"])
@pytest.mark.parametrize("kind", w.KINDS)
@pytest.mark.parametrize("odd", [odd for odd in w.ODDITIES if not odd.at and odd.ends is None], ids=str)
def test_an_inbox_whose_notice_goes_wrong_has_the_request_all_the_same(
    odd: w.Odd, kind: w.Kind, stream: bool
) -> None:
    place = w.Place(
        "notify", kind, (None,), lambda f: {"permissions": w.ASKS, "approval_handler": Inbox(notify=f)}
    )
    bodies = w.Bodies()

    async def law() -> None:
        inbox = Inbox(notify=odd.make(place))
        a = agent(
            ToolCall("pay", {"amount": 1}),
            "Done.",
            tools=bodies.tools(),
            permissions=w.ASKS,
            approval_handler=inbox,
            tuning=w.HURRY,
        )
        result = await w.finish(a, stream)
        assert (result.status, bodies.ran) == ("paused", {})
        (request,) = await inbox.requests("acme")
        await inbox.approve(request, w.YES)
        result = await a.resume(result.run_id, tenant_id="acme")
        assert (result.status, bodies.ran) == ("completed", {"pay": 1})
        assert valid(result.messages)

    go(law())


# --------------------------------------------------------------------------------------------------- mutants


async def _open_on_errors(ask: Any, patience: float, name: str) -> Any:
    """Mutant: what breaks has not objected."""
    try:
        answer = await objecting.answered(ask, patience)
    except Exception:
        return Decision.allow_()
    return answer if answer is None or type(answer) is Replace else _sound(answer, name)


async def _truthy(ask: Any, patience: float, name: str) -> Any:
    """Mutant: what is true is a yes."""
    try:
        answer = await objecting.answered(ask, patience)
    except Exception as error:
        return Decision.deny_(str(error), rule=name)
    if answer is None or type(answer) in (Replace, Decision):
        return answer if type(answer) is not Decision else _sound(answer, name)
    return Decision.allow_() if answer else Decision.deny_("No.", rule=name)


async def _patient(ask: Any, patience: float, name: str) -> Any:
    """Mutant: it may take as long as it likes."""
    return await objecting.decided(ask, 0.5, name)


async def _late(ask: Any, patience: float) -> Any:
    """Mutant: an answer counts that came when the time was over."""
    async with asyncio.timeout(patience):
        return await ask()


def _sound(answer: Any, name: str) -> Decision:
    if (wrong := sound(answer)) is not None:
        return Decision.deny_(wrong, rule=name)
    made: Decision = answer
    return made


def _caught(places: list[w.Place], names: tuple[str, ...]) -> list[str]:
    """What the hunt finds."""
    found: list[str] = []
    for place, odd in w.hunts():
        if place in places and odd.name in names:
            found += w.escaped(place, go(w.hunt(place, odd.make(place), tuning=w.HURRY)))
    return found


ASKED = [
    place for place in w.PLACES if str(place) in ("policy-async", "before_tool-async", "predicate-async")
]
NAMES = ("raises ValueError", "1", "'yes'", "None", "answers too late", "a dict")


@pytest.mark.parametrize("mutant", [_open_on_errors, _truthy])
def test_mutants_that_let_what_is_odd_pass_are_caught(mutant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _caught(ASKED, NAMES) == []
    monkeypatch.setattr(judging, "decided", mutant)
    assert "pay ran 2 times" in _caught(ASKED, NAMES)


def test_a_mutant_that_takes_answers_when_the_time_is_over_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objecting, "answered", _late)
    assert "pay ran 2 times" in _caught(ASKED, ("answers too late",))


def test_a_mutant_that_has_no_limit_of_time_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever answers a little later than it may would be heard."""

    async def slow(ctx: Any, action: Any) -> None:
        await asyncio.sleep(w.PATIENCE * 3)

    place = next(place for place in w.PLACES if str(place) == "before_tool-async")
    assert w.escaped(place, go(w.hunt(place, slow, tuning=w.HURRY))) == []
    monkeypatch.setattr(judging, "decided", _patient)
    assert "pay ran 2 times" in w.escaped(place, go(w.hunt(place, slow, tuning=w.HURRY)))


def test_a_mutant_whose_handler_says_yes_with_whatever_is_true_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def truthy(answer: Any, name: str) -> Any:
        return w.YES if answer else Deny(by="maria")

    handlers = [place for place in w.PLACES if place.name == "handler"]
    monkeypatch.setattr(approving, "_answer_of", truthy)
    assert "pay ran 2 times" in _caught(handlers, ("1", "'yes'", "a dict"))
