"""What tenants do with one memory and one agent, and everything that one of them is told of it."""

from __future__ import annotations

import hashlib
import random
import re
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from shipworthy import Agent, ToolCall, Tuning, tool
from shipworthy.domain.memory import Kind
from shipworthy.domain.model import ModelRequest
from shipworthy.domain.scope import Scope
from shipworthy.engine.memory.memory import Memory
from shipworthy.errors import ShipworthyError
from shipworthy.rules.memory.facts import Belief
from shipworthy.testing import ScriptedModel
from tests.memory.isolation import World

START = 1_790_000_000_000_000_000
WORDS = (
    *("peanut", "allergy", "window", "seat", "berlin", "train"),
    *("hotel", "invoice", "number", "code", "garden", "violin"),
)
_LATER = re.compile(r"\b179\d{10}\b")


class Clock:
    """Time stands still in a step, and a step of somebody else takes none of ours."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = START
        monkeypatch.setattr(time, "time_ns", lambda: self.now)


class Assistant:
    """An agent for all tenants. What the model was sent is in its answer, by its digest, and in `sent`."""

    def __init__(self, memory: Memory) -> None:
        self.sent: list[str] = []

        @tool(effect="read")
        async def look_up(word: str) -> str:
            """Look a word up."""
            if word == "nothing":
                raise ValueError(f"{word} was not found")
            return f"{word} is in the book"

        self.agent = Agent(
            "You help.",
            model=ScriptedModel([self._first, self._then, self._then]),
            memory=memory,
            tools=[look_up],
            tuning=Tuning(model_retries=0),
        )

    def _first(self, request: ModelRequest) -> Any:
        self._saw(request)
        asked = request.messages[-1].text
        if "look" in asked:
            return ToolCall("look_up", {"word": "nothing" if "nothing" in asked else asked[-9:]})
        if "fail" in asked:
            raise RuntimeError(f"the model failed at {asked[-9:]}")
        return self._then(request)

    def _then(self, request: ModelRequest) -> str:
        seen = hashlib.sha256(self._saw(request).encode(errors="surrogatepass")).hexdigest()[:12]
        return f"I saw {seen} of {request.messages[-1].text[-9:]}."

    def _saw(self, request: ModelRequest) -> str:
        self.sent.append("\n".join(f"{message.role}: {message.text}" for message in request.messages))
        return self.sent[-1]


class Tenant:
    """One tenant, or several: what they do depends on the numbers that they are given alone."""

    def __init__(self, memory: Memory, assistant: Assistant, scopes: Sequence[Scope], clock: Clock) -> None:
        self._memory, self._assistant, self._scopes, self._clock = memory, assistant, scopes, clock
        self._steps = 0

    async def act(self, number: int) -> bytes:
        """One step, and all that was said of it: result, error, warnings, what the model was sent."""
        self._steps += 1
        self._clock.now = START + self._steps * 60_000_000_000
        chance = random.Random(number)
        scope = chance.choice(self._scopes)
        self._assistant.sent.clear()
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                seen = said(await self._did(chance, scope))
            except ShipworthyError as error:
                seen = f"{type(error).__name__}: {error}"
        told = [seen, *(str(one.message) for one in warned), *self._assistant.sent]
        return f"{scope} {told}".encode(errors="surrogatepass")

    async def _did(self, chance: random.Random, scope: Scope) -> Any:
        words = " ".join(chance.sample(WORDS, 4))
        match chance.randrange(24):
            case 0 | 1 | 2 | 3:
                importance = chance.choice([0.1, 0.9])
                return await self._memory.remember(scope, words, id=_name(chance), importance=importance)
            case 4 | 5 | 6 | 7 | 8:
                limit, kinds = chance.choice([1, 3, 9]), _kinds(chance)
                return await self._memory.recall(scope, words, limit=limit, kinds=kinds)
            case 9 | 10 | 11 | 12:
                return await self._believed(chance, scope, words)
            case 13 | 14:
                return await self._blocked(chance, scope, words)
            case 15 | 16:
                return [found async for found in self._memory.export(scope)]
            case 17 | 18 | 19 | 20:
                return await self._forgot(chance, scope, words)
            case _:
                how = chance.choice(["", "look up ", "look for nothing ", "fail "])
                return await self._ran(scope, how + words)

    async def _believed(self, chance: random.Random, scope: Scope, words: str) -> Any:
        if chance.random() < 0.5:
            return await self._memory.facts.of(scope, superseded=chance.random() < 0.5)
        about, single = chance.choice(WORDS), chance.random() < 0.5
        belief = Belief(subject=about, predicate="likes", object=words, single=single)
        return await self._memory.facts.learn(scope, [belief], batch=f"{self._steps}")

    async def _blocked(self, chance: random.Random, scope: Scope, words: str) -> Any:
        if chance.random() < 0.5:
            return await self._memory.blocks(scope)
        text = words if chance.random() < 0.8 else ""
        return await self._memory.set_block(scope, f"block {_name(chance)}", text)

    async def _forgot(self, chance: random.Random, scope: Scope, words: str) -> Any:
        match chance.randrange(4):
            case 0:
                return await self._memory.forget(scope, ids=[_name(chance), _name(chance)])
            case 1:
                return await self._memory.forget(scope, query=words)
            case 2:
                return await self._memory.episodes(scope, limit=5)
            case _:
                return (await self._memory.store.erase(scope)).records

    async def _ran(self, scope: Scope, prompt: str) -> Any:
        """A run, or a stream. It names a user: an agent warns only once of one that does not, whoever that was."""
        agent, scope = self._assistant.agent, scope if scope.user is not None else self._scopes[1]
        who: dict[str, Any] = {"tenant_id": scope.tenant, "user_id": scope.user, "session_id": scope.session}
        who = {name: value for name, value in who.items() if value is not None}
        run_id = f"run-{self._steps}"
        if self._steps % 2:
            result = await agent.run(prompt, run_id=run_id, **who)
        else:
            async with agent.stream(prompt, run_id=run_id, **who) as reading:
                deltas = [str(delta) async for delta in reading]
            result = reading.result
            assert deltas
        events = await agent.runtime.store.read(scope, run_id)
        recalled = [event for event in events if type(event).__name__ in ("MemoryRecalled", "MemoryWritten")]
        return [result.status, str(result.output), str(result.error), recalled]


def said(seen: Any) -> str:
    """A result, as it is compared."""
    return _LATER.sub("then", msgspec.json.encode(msgspec.to_builtins(seen)).decode())


def _name(chance: random.Random) -> str:
    return f"{chance.randrange(9)}"


def _kinds(chance: random.Random) -> Sequence[Kind]:
    every: list[tuple[Kind, ...]] = [("episode",), ("fact",), ("episode", "fact")]
    return chance.choice(every)


async def lived(
    world: World, script: Sequence[int], memory: Memory, clock: Clock, *, alone: bool
) -> list[bytes]:
    """What the world's tenant sees of its own steps (of even numbers), with the steps of others or without."""
    assistant = Assistant(memory)
    named: Callable[[str], list[Scope]] = world.scopes
    first = Tenant(memory, assistant, named(world.tenant), clock)
    others = Tenant(memory, assistant, [one for other in world.others for one in named(other)], clock)
    seen: list[bytes] = []
    async with assistant.agent:
        try:
            for number in script:
                if not number % 2:
                    seen.append(await first.act(number))
                elif not alone:
                    await others.act(number)
        finally:
            for tenant in (world.tenant, *world.others):
                await memory.store.erase(Scope(tenant))
    return seen
