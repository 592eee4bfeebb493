"""What the laws of control need: bodies that count, places that may object, and what is odd in such a place."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import msgspec

from shipworthy import (
    Agent,
    Approve,
    Decision,
    Deny,
    PerUserPermissions,
    Replace,
    ScriptedModel,
    ToolCall,
    Tuning,
    policy,
    tool,
)
from shipworthy.domain.effects import Effect
from shipworthy.domain.scope import Scope
from tests.engine.world import ALICE, valid

SECRET = "the result that nobody may see"
PATIENCE = 0.02
"""Seconds that whoever is asked may take, in the laws of those that take too long."""
CALLS = [ToolCall("look", {"amount": 1}), ToolCall("put", {"amount": 1}), ToolCall("pay", {"amount": 1})]
ALLOW = Decision.allow_()
Kind = Literal["sync", "async"]


class Bodies:
    """Three tools, one of each effect, and how often the body of each ran."""

    def __init__(self) -> None:
        self.ran: Counter[str] = Counter()
        self.made: list[Any] = []

    def tools(self, **options: Any) -> list[Any]:
        return [self.tool(name, effect, **options) for name, effect in EFFECTS.items()]

    def tool(self, name: str, effect: Effect, **options: Any) -> Any:
        @tool(effect=effect, name=name, **options)
        async def body(amount: int) -> str:
            self.ran[name] += 1
            self.made.append(amount)
            return SECRET

        return body


EFFECTS: dict[str, Effect] = {"look": "read", "put": "idempotent", "pay": "once"}


async def finish(
    agent: Agent[Any, Any], stream: bool = False, prompt: str = "Go.", who: Any = ALICE, **options: Any
) -> Any:
    """The result of a run, read along with or not."""
    if not stream:
        return await agent.run(prompt, **who, **options)
    async with agent.stream(prompt, **who, **options) as reading:
        async for _ in reading:
            pass
    return reading.result


def words(result: Any) -> str:
    """All that the model was told by tools."""
    parts = [part for message in result.messages if message.role == "tool" for part in message.parts]
    return "\n".join([content.text for part in parts for content in part.content])


# ------------------------------------------------------------------------------------------------- places


class Place(msgspec.Struct, frozen=True):
    """Somewhere a function of the developer's is asked. `consents`: values that let the call run; `wire`: the agent's
    options, the tools' and the hooks' around that function."""

    name: str
    kind: Kind
    consents: tuple[Any, ...]
    wire: Callable[[Any], dict[str, Any]]

    def agent(self, function: Any, bodies: Bodies, **options: Any) -> Agent[Any, Any]:
        """An agent that asks *function* here, and is asked by its model for one call of each effect."""
        wired = self.wire(function)
        hooks, tools = wired.pop("hooks", {}), wired.pop("tools", {})
        made: Agent[Any, Any] = Agent(
            "Be brief.",
            model=options.pop("model", None) or ScriptedModel([CALLS, "Done."]),
            tools=bodies.tools(**tools),
            **wired,
            **options,
        )
        for stage, hook in hooks.items():
            getattr(made, stage)(hook)
        return made

    def is_consent(self, value: Any) -> bool:
        for consent in self.consents:
            if type(consent) is type(value) and consent is not value:
                if isinstance(value, Decision) and value == consent:
                    return True
            elif consent is value:
                return True
        return False

    def __str__(self) -> str:
        return f"{self.name}-{self.kind}"


class Chosen:
    """A policy that a function chose."""

    version, immediate = "1", True

    def decide(self, scope: Scope, action: Any) -> Decision:
        return ALLOW


class Immediate:
    """A policy that is asked on the event loop."""

    version, immediate = "1", True

    def __init__(self, function: Any) -> None:
        self._function = function

    def decide(self, scope: Scope, action: Any) -> Any:
        return self._function(scope, action)


class Plain(Immediate):
    """A policy of a developer's own that says nothing of being quick."""

    immediate = False


def _hook(stage: str) -> Callable[[Any], dict[str, Any]]:
    return lambda function: {"hooks": {stage: function}}


ASKS = Immediate(lambda scope, action: Decision.ask_("Somebody has to look at it.", rule="ask"))
YES = Approve(by="maria")
WIRES: dict[str, tuple[tuple[Any, ...], Callable[[Any], dict[str, Any]]]] = {
    "policy": ((ALLOW,), lambda f: {"permissions": policy(version="1")(f)}),
    "policy object": ((ALLOW,), lambda f: {"permissions": Plain(f)}),
    "immediate policy": ((ALLOW,), lambda f: {"permissions": Immediate(f)}),
    "chooser": ((Chosen(),), lambda f: {"permissions": PerUserPermissions(f, version="1")}),
    "before_tool": ((None, ALLOW), _hook("before_tool")),
    "after_tool": ((None, ALLOW), _hook("after_tool")),
    "before_model": ((None, ALLOW), _hook("before_model")),
    "after_model": ((None, ALLOW), _hook("after_model")),
    "predicate": ((False,), lambda f: {"tools": {"requires_approval": f}}),
    "handler": ((YES, ALLOW), lambda f: {"permissions": ASKS, "approval_handler": f}),
}
KINDS: tuple[Kind, ...] = ("async", "sync")
PLACES = [Place(name, kind, *WIRES[name]) for name in WIRES for kind in KINDS]
"""Every place, with a plain function and with an async one."""


# ------------------------------------------------------------------------------------------------ oddities


class Odd(msgspec.Struct, frozen=True):
    """Something that a function does which is no consent: of that place, `make` gives the function. `ends`: what the
    caller of the run gets instead of a result."""

    name: str
    make: Callable[[Place], Any]
    ends: type[BaseException] | None = None
    at: tuple[str, ...] = ()
    kinds: tuple[Kind, ...] = KINDS

    def __str__(self) -> str:
        return self.name


def giving(value: Any) -> Callable[[Place], Any]:
    """A function that gives *value*."""

    def make(place: Place) -> Any:
        if place.kind == "sync":
            return lambda *_: value

        async def odd(*_: Any) -> Any:
            return value

        return odd

    return make


def raising(error: type[BaseException]) -> Callable[[Place], Any]:
    def make(place: Place) -> Any:
        def odd(*_: Any) -> Any:
            raise error("It broke.")

        async def later(*_: Any) -> Any:
            raise error("It broke.")

        return odd if place.kind == "sync" else later

    return make


class Quiet:
    """An awaitable that leaves no warning behind where nobody awaits it, and a yes where somebody does."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __await__(self) -> Iterator[Any]:
        yield from asyncio.sleep(0).__await__()
        return self.value


def _awaitable_of_awaitable(place: Place) -> Any:
    return giving(Quiet(Quiet(place.consents[-1])))(place)


RELEASE = threading.Event()
"""Set where the threads that hang are to end; see `released`."""


def _hanging(place: Place) -> Any:
    def sleeps(*_: Any) -> Any:
        RELEASE.wait(30)
        return place.consents[-1]

    async def forever(*_: Any) -> Any:
        await asyncio.sleep(30)
        return place.consents[-1]

    return sleeps if place.kind == "sync" else forever


def _late(place: Place) -> Any:
    """It gives its consent when its time is over, whoever cancels it."""

    async def late(*_: Any) -> Any:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            pass
        return place.consents[-1]

    return late


def _grouped(place: Place) -> Any:
    """Breaks within a group of tasks, which cancels whoever waits for it."""

    async def breaks() -> None:
        raise ValueError("It broke.")

    async def grouped(*_: Any) -> Any:
        async with asyncio.TaskGroup() as group:
            group.create_task(breaks())
        return place.consents[-1]

    return grouped


def _never(place: Place) -> Any:
    async def never(*_: Any) -> Any:
        await asyncio.get_running_loop().create_future()

    return never


def _generator(place: Place) -> Any:
    def generator(*_: Any) -> Any:
        yield place.consents[-1]

    async def later(*_: Any) -> Any:
        yield place.consents[-1]

    return generator if place.kind == "sync" else later


class Subclass(Decision, frozen=True):
    """Says allow, and is none of ours."""


class Text(str):
    """A text of somebody's own, which may compare as it likes."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = str.__hash__


class Agreeable:
    """Whatever it is asked for, it has, and whatever it is compared with, it is."""

    ruling, reason, rule, tell, approvers, among = "allow", "", "", None, 1, ()
    version, immediate = 1, "yes"

    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = object.__hash__


def _decision(**fields: Any) -> Decision:
    return msgspec.structs.replace(ALLOW, **fields)


VALUES: dict[str, Any] = {
    "None": None,
    "True": True,
    "False": False,
    "1": 1,
    "0": 0,
    "'allow'": "allow",
    "'yes'": "yes",
    "''": "",
    "an empty dict": {},
    "a dict": {"ruling": "allow"},
    "an empty list": [],
    "a list of an allow": [ALLOW],
    "a tuple": ("allow", ""),
    "an object": object(),
    "an agreeable object": Agreeable(),
    "NotImplemented": NotImplemented,
    "an exception": ValueError("allow"),
    "a subclass": Subclass("allow"),
    "an allow": ALLOW,
    "an ask": Decision.ask_("?"),
    "a deny": Decision.deny_("No."),
    "a replacement": Replace({}),
    "an approval": YES,
    "a class": Decision,
    "a function": Decision.allow_,
    "ruling 'allowed'": _decision(ruling="allowed"),
    "ruling 'ALLOW'": _decision(ruling="ALLOW"),
    "ruling True": _decision(ruling=True),
    "ruling None": _decision(ruling=None),
    "ruling of a subclass": _decision(ruling=Text("deny")),
    "reason None": _decision(reason=None),
    "a reason that is no text": _decision(reason="\ud800"),
    "rule 5": _decision(rule=5),
    "tell b''": _decision(tell=b""),
    "approvers 0": _decision(approvers=0),
    "approvers True": _decision(approvers=True),
    "approvers -1": _decision(ruling="ask", approvers=-1),
    "approvers 1.0": _decision(ruling="ask", approvers=1.0),
    "approvers nan": _decision(ruling="ask", approvers=float("nan")),
    "among a list": _decision(among=["maria"]),
    "among a text": _decision(ruling="ask", among="maria"),
    "among blank": _decision(ruling="ask", among=(" ",)),
}
OF_HANDLERS: dict[str, Any] = {
    "a denial": Deny(by="maria"),
    "an approval by nobody": Approve(by=""),
    "an approval by None": Approve(by=None),  # type: ignore[arg-type]
    "an approval by a number": Approve(by=7),  # type: ignore[arg-type]
    "remembered forever": Approve(by="maria", remember="forever"),  # type: ignore[arg-type]
    "covers everything": Approve(by="maria", remember="run", covers="everything"),  # type: ignore[arg-type]
    "expired": Approve(by="maria", expires_in=-1.0),
    "never expiring": Approve(by="maria", expires_in=float("inf")),
    "expiring at nan": Approve(by="maria", expires_in=float("nan")),
    "arguments of a wrong type": Approve(by="maria", arguments={"amount": "much"}),
    "arguments that are a list": Approve(by="maria", arguments=[1]),  # type: ignore[arg-type]
    "arguments that are not JSON": Approve(by="maria", arguments={"amount": object()}),
    "an approval's class": Approve,
}
OF_CHOOSERS: dict[str, Any] = {
    "a policy's class": Chosen,
    "a policy without version": Immediate.__new__(type("Nameless", (), {"decide": lambda *_: ALLOW})),
    "a policy that is rude": Immediate(lambda *_: "allow"),
    "a policy that breaks": Immediate(lambda *_: 1 / 0),
}
ERRORS: list[type[BaseException]] = [
    ValueError,
    StopIteration,
    StopAsyncIteration,
    RecursionError,
    TimeoutError,
    SystemExit,
    GeneratorExit,
    asyncio.CancelledError,
    BaseException,
]
ODDITIES = [
    *[Odd(name, giving(value)) for name, value in VALUES.items()],
    *[Odd(name, giving(value), at=("handler",)) for name, value in OF_HANDLERS.items()],
    *[Odd(name, giving(value), at=("chooser",)) for name, value in OF_CHOOSERS.items()],
    *[Odd(f"raises {error.__name__}", raising(error)) for error in ERRORS],
    Odd("raises KeyboardInterrupt", raising(KeyboardInterrupt), ends=KeyboardInterrupt),
    Odd("an awaitable of an awaitable", _awaitable_of_awaitable),
    Odd("a generator", _generator),
    Odd("hangs", _hanging),
    Odd("answers too late", _late, kinds=("async",)),
    Odd("is never done", _never, kinds=("async",)),
    Odd("breaks in a group", _grouped, kinds=("async",)),
]


def hunts() -> Sequence[tuple[Place, Odd]]:
    """Every oddity in every place where it is one."""
    found: list[tuple[Place, Odd]] = []
    for place in PLACES:
        for odd in ODDITIES:
            if (odd.at and place.name not in odd.at) or place.kind not in odd.kinds:
                continue
            if place.name == "immediate policy" and (place.kind, odd.name) == ("sync", "hangs"):
                continue  # it says of itself that it computes and nothing else
            if odd.name in VALUES and place.is_consent(VALUES[odd.name]):
                continue
            found.append((place, odd))
    return found


HURRY = Tuning(policy_timeout=PATIENCE, approval_timeout=PATIENCE)


class Hunted(msgspec.Struct):
    """What came of a run in which somebody was odd."""

    bodies: Bodies
    results: list[Any]
    ended: list[BaseException]


async def hunt(place: Place, function: Any, *, tuning: Tuning | None = None) -> Hunted:
    """One run and one that is streamed, of an agent that asks *function* in that place."""
    hunted = Hunted(Bodies(), [], [])
    agent = place.agent(function, hunted.bodies, tuning=tuning)
    for stream in (False, True):
        try:
            hunted.results.append(await finish(agent, stream))
        except Exception as error:
            hunted.ended.append(error)
    return hunted


def escaped(place: Place, hunted: Hunted) -> list[str]:
    """What should not have happened: the law of all places, so that a mutant can be held against it."""
    wrong = [
        f"{name} ran {count} times" for name, count in hunted.bodies.ran.items() if place.name != "after_tool"
    ]
    for result in hunted.results:
        if not valid(result.messages):
            wrong.append("the conversation is not valid")
        if SECRET in words(result):
            wrong.append("the model saw the result")
        if place.name.endswith("_model"):
            if (result.status, result.stop_reason) != ("stopped", "denied"):
                wrong.append(f"the run is {result.status} ({result.stop_reason})")
        elif result.status != "completed":
            wrong.append(f"the run is {result.status} ({result.error})")
        elif words(result).count("Denied: ") + words(result).count("withheld") != len(CALLS):
            wrong.append(f"the model was told {words(result)!r}")
    return wrong + [f"the caller got {error!r}" for error in hunted.ended]
