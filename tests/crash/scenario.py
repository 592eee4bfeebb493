"""The scenario: an agent that uses what matters after a crash, and a world outside in which effects are counted."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from shipworthy import Agent, NotDone, RunContext, ScriptedModel, ScriptedTurn, ToolCall, tool
from shipworthy.adapters.sqlite.workers import now
from shipworthy.app.configuration import Tuning
from shipworthy.domain.effects import DidNotHappen, Happened
from shipworthy.domain.model import Answer, Delta, ModelRequest
from shipworthy.engine.runtime import Runtime
from shipworthy.errors import ModelUnavailable
from shipworthy.testing.faults import Points
from tests.crash import checks


class Report(msgspec.Struct):
    """What the agent gives."""

    paid: int
    note: str


class StaleFence(Exception):
    """The sink has seen a newer owner of the run."""


def append(path: Path, record: Any) -> None:
    """One line, at once, whoever else writes."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(fd, msgspec.json.encode(record) + b"\n")
        os.fsync(fd)
    finally:
        os.close(fd)


class Sink:
    """The world outside: a file that only grows. With *fencing* it refuses those who lost their run."""

    def __init__(self, folder: Path, *, fencing: bool = False) -> None:
        self.path = folder / "sink"
        self.fencing = fencing

    def happen(self, effect: str, ctx: RunContext[Any], **args: Any) -> str:
        made = checks.Effect(
            effect,
            ctx.scope.tenant,
            ctx.run_id,
            ctx.tool,
            json.dumps(args),
            ctx.idempotency_key,
            ctx.fence,
            os.getpid(),
        )
        with open(self.path.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self.fencing:
                newest = max([e.fence for e in self.read() if e.run_id == ctx.run_id], default=0)
                if newest > ctx.fence:
                    raise StaleFence(f"{newest} was seen, this is {ctx.fence}")
            append(self.path, made)
        return receipt(ctx.tool, made.args)

    def read(self) -> list[checks.Effect]:
        if not self.path.exists():
            return []
        return [msgspec.json.decode(line, type=checks.Effect) for line in self.path.read_bytes().splitlines()]

    def verdict(self, ctx: RunContext[Any]) -> Happened | DidNotHappen:
        """What a bank would say of the key."""
        for effect in self.read():
            if effect.key == ctx.idempotency_key:
                return Happened(receipt(effect.tool, effect.args))
        return DidNotHappen()


def receipt(name: str, args: str) -> str:
    """What a tool returns: the same however its outcome becomes known."""
    return f"{name} {args}: done"


REPORT = {"paid": 60, "note": "all done"}


def call(name: str, **args: Any) -> ToolCall:
    return ToolCall(name, args)


SCRIPTS: dict[str, list[Any]] = {
    # every feature that matters, and its answers by the ordinal of the request
    "a": [
        ModelUnavailable("down"),
        ["Let me look.", call("look", n=1), call("look", n=2), call("big", n=5000), call("big", n=9000)],
        [call("mail", to="bob"), call("look", n=3)],
        [call("pay", amount=10), call("look", n=4), call("pay", amount=20), call("look", n=5)],
        [call("book", what="flight"), call("nothing_such", n=1)],
        call("pay", amount=13),
        ["Now the wire.", call("wire", amount=30)],
        call("final_answer", paid="sixty"),
        call("final_answer", **REPORT),
    ],
    # the second run of the session: it sees the first
    "b": [call("pay", amount=40), ScriptedTurn(call("final_answer", paid=40, note="again"))],
    # several at once
    "g": [
        [call("look", n=1), call("mail", to="eve")],
        [call("pay", amount=1), call("pay", amount=2)],
        call("final_answer", paid=3, note="small"),
    ],
    # for zombies, and for faults of the disk
    "z": [
        call("look", n=1),
        call("pay", amount=10),
        [call("mail", to="eve"), call("book", what="train")],
        call("final_answer", paid=10, note="over"),
    ],
    # an answer, and later another one, that call the same tool in the same place
    "p": [call("pay", amount=1), call("pay", amount=2), call("final_answer", paid=3, note="twice")],
}


class Script:
    """A model that answers by the first letter of the run's id, and writes down what it was shown."""

    name = "script"

    def __init__(self, folder: Path) -> None:
        self._asked = folder / "requests"
        self._models = {letter: ScriptedModel(turns) for letter, turns in SCRIPTS.items()}

    async def stream(self, request: ModelRequest) -> AsyncIterator[Delta | Answer]:
        shown = list(request.messages)
        append(
            self._asked,
            checks.Request(
                tenant(request.run_id),
                request.run_id,
                request.ordinal,
                checks.digest(request.instructions, shown),
                checks.valid(shown),
            ),
        )
        async for item in self._models[request.run_id[0]].stream(request):
            yield item

    async def close(self) -> None:
        """Nothing to close."""


def wall_clock() -> int:
    """The clock of a server on this machine, which is nobody's reading of it."""
    return time.time_ns() // 1_000_000


PATIENT = 60.0


def tools(
    sink: Sink, points: Points, clock: Callable[[], int], *, verified: bool, pause: float = 0.0
) -> Sequence[Any]:
    """Tools of each contract; `once` ones with verify= if *verified*, and only they with the agent's own timeout."""

    async def ask_the_world(ctx: RunContext[Any], args: Any) -> Happened | DidNotHappen:
        made = (ctx.scope.tenant, ctx.run_id, ctx.call_id, ctx.attempt)
        append(sink.path.with_name("asked"), checks.Asked(*made, clock(), os.getpid()))
        return sink.verdict(ctx)

    verify: Any = ask_the_world if verified else None

    @tool(effect="read", timeout=PATIENT)
    async def look(ctx: RunContext[Any], n: int) -> str:
        with points.around("read"):
            await asyncio.sleep(pause)
            return f"fact {n}"

    @tool(effect="read", max_result=6000, timeout=PATIENT)
    async def big(n: int) -> str:
        with points.around("read"):
            await asyncio.sleep(pause)
            return "x" * n

    @tool(effect="idempotent", timeout=PATIENT)
    async def mail(ctx: RunContext[Any], to: str) -> str:
        with points.around("idempotent"):
            return sink.happen("idempotent", ctx, to=to)

    @tool(effect="once", verify=verify)
    async def pay(ctx: RunContext[Any], amount: int) -> str:
        await asyncio.sleep(
            pause / 10
        )  # short: a body that is killed three times before its effect is given up
        with points.around("once"):
            if amount == 13:
                raise NotDone("unlucky")
            made = sink.happen("once", ctx, amount=amount)
        await asyncio.sleep(pause)
        return made

    @tool(effect="once", verify=verify)
    async def book(ctx: RunContext[Any], what: str) -> str:
        with points.around("once"):
            return sink.happen("once", ctx, what=what)

    @tool(effect="once", verify=verify)
    def wire(ctx: RunContext[Any], amount: int) -> str:
        with points.around("once"):
            return sink.happen("once", ctx, amount=amount)

    return [look, big, mail, pay, book, wire]


class Setting(msgspec.Struct, kw_only=True, frozen=True):
    """How a process opens its store. Times in seconds."""

    store: Literal["sqlite", "postgres"] = "sqlite"
    verified: bool = True
    fencing: bool = False
    ttl: float = 10.0
    skew: float = 0.5
    tool_timeout: float = 60.0
    pause: float = 0.0
    patience: float = 5.0
    recover_every: float = 10.0
    vfs: str | None = None


def agent(folder: Path, runtime: Runtime, points: Points, setting: Setting) -> Agent[Any, Report]:
    """The agent of the scenario."""
    sink = Sink(folder, fencing=setting.fencing)
    clock = now if setting.store == "sqlite" else wall_clock
    return Agent(
        "You keep the books.",
        name="clerk",
        model=Script(folder),
        tools=tools(sink, points, clock, verified=setting.verified, pause=setting.pause),
        output=Report,
        runtime=runtime,
        tuning=Tuning(tool_timeout=setting.tool_timeout, recover_every=setting.recover_every),
    )


def identity(run_id: str) -> dict[str, Any]:
    """Whose run it is: 'a' and 'b' are of one session; several at once are of several tenants."""
    if run_id[0] in "ab":
        return {"tenant_id": "acme", "user_id": "alice", "session_id": "s"}
    return {"tenant_id": f"tenant {run_id[-1]}", "user_id": "bob"}


def tenant(run_id: str) -> str:
    return str(identity(run_id)["tenant_id"])


def prompt(run_id: str) -> str:
    return f"Do what {run_id} says."
