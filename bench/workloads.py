"""The conversations that all three sides have: the same tools, the same texts, the same number of turns."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from floors import Governed, GovernedTool, Raw, Replies, Service, call, say
from measure import Gate

from shipworthy import Agent, ScriptedModel, ScriptedTurn, ToolCall, Usage, tool
from shipworthy.ports.budget import Budget

INSTRUCTIONS = "You are a travel assistant. Answer in one sentence."
PROMPT = "What is the weather in Oslo?"
FORECAST = "Oslo: partly cloudy, 14 degrees, wind 5 m/s from the south-west, rain after nine in the evening."
ARGUMENTS = '{"city":"Oslo","days":3}'
DONE = "It stays dry in Oslo until nine in the evening."
USAGE = Usage(input_tokens=90, output_tokens=7)
TIMEOUT = 30.0

gate = Gate()
marks: list[int] = []
_numbers = itertools.count()


class Place(msgspec.Struct):
    """The arguments of every tool here, for the governed floor's validator."""

    city: str
    days: int


async def weather(city: str, days: int) -> str:
    """Weather for a city."""
    return FORECAST


async def slow_weather(city: str, days: int) -> str:
    """Weather for a city, from a service that takes a millisecond."""
    await asyncio.sleep(0.001)
    return FORECAST


async def remote_weather(city: str, days: int) -> str:
    """Weather for a city, from services that take 50 to 150 ms."""
    await asyncio.sleep(0.05 + next(_numbers) % 1000 / 10_000)
    return FORECAST


async def gated_weather(city: str, days: int) -> str:
    """Weather for a city, once everybody has asked."""
    await gate.wait()
    return FORECAST


async def marked_weather(city: str, days: int) -> str:
    """Weather for a city, noting the CPU time."""
    marks.append(time.process_time_ns())
    return FORECAST


FUNCTIONS = (weather, slow_weather, remote_weather, gated_weather, marked_weather)
OURS = {fn.__name__: tool(fn, effect="read", timeout=TIMEOUT) for fn in FUNCTIONS}
GOVERNED = {fn.__name__: GovernedTool(fn, Place, effect="read", timeout=TIMEOUT) for fn in FUNCTIONS}
RAW: dict[str, Callable[..., Awaitable[str]]] = {fn.__name__: fn for fn in FUNCTIONS}


class Trio:
    """The same agent three times: *turns* answers with *calls* calls of one tool each, then a last answer."""

    def __init__(
        self, name: str = "weather", turns: int = 0, calls: int = 1, chunks: Sequence[str] = ()
    ) -> None:
        self._name = name
        self._script: list[Any] = [[ToolCall(name, ARGUMENTS)] * calls] * turns
        last = "".join(chunks) or DONE
        replies = [call(*[(name, ARGUMENTS)] * calls, turn=turn) for turn in range(turns)]
        self._replies = Replies([*replies, say(last)], chunks)
        with_usage = [ScriptedTurn(*turn, usage=USAGE) for turn in self._script]
        self._model = ScriptedModel(
            [*with_usage, ScriptedTurn(last, usage=USAGE, chunks=tuple(chunks) or None)]
        )

    def raw(self) -> Raw:
        return Raw(INSTRUCTIONS, self._replies, [RAW[self._name]])

    def governed(self, service: Service) -> Governed:
        return Governed(INSTRUCTIONS, self._replies, [GOVERNED[self._name]], service)

    def ours(self, budget: Budget | None = None) -> Agent[Any, str]:
        return Agent(
            INSTRUCTIONS,
            model=self._model,
            tools=[OURS[self._name]],
            max_turns=1_000_000,
            name="bench",
            budget=budget,
        )

    # one request of each, as a function of the caller's number

    def ask_raw(self) -> Callable[[int], Any]:
        raw = self.raw()
        return lambda _: raw.run(PROMPT)

    def ask_governed(self, service: Service | None = None) -> Callable[[int], Any]:
        governed = self.governed(service or Service())
        return lambda n: governed.run(PROMPT, f"tenant-{n % 100}", f"user-{n % 1000}")

    def ask_ours(self, budget: Budget | None = None) -> Callable[[int], Any]:
        agent = self.ours(budget)
        return lambda n: agent.run(PROMPT, tenant_id=f"tenant-{n % 100}", user_id=f"user-{n % 1000}")
