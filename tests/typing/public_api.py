"""What a user's type checker sees of the public surface. Never run: pyright reads it (`make types`).

A line with `pyright: ignore` is a mistake that must be found. Where pyright does not find it, it reports the
comment as unnecessary.
"""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from dataclasses import dataclass
from typing import assert_type

from shipworthy import Agent, RunContext, RunResult, SqliteRuntime, is_paused, tool
from shipworthy.testing import EchoModel, ScriptedModel


@dataclass
class Report:
    title: str


class Database:
    async def temperature(self, city: str) -> float: ...


@tool(effect="read")
async def weather(ctx: RunContext[Database], city: str) -> float:
    """Current temperature in a city."""
    return await ctx.deps.temperature(city)


@tool(effect="sometimes")  # pyright: ignore[reportArgumentType]
async def no_such_effect(city: str) -> str: ...


@tool  # pyright: ignore[reportCallIssue]
async def without_effect(city: str) -> str: ...


async def the_output_has_the_type_that_was_asked_for() -> None:
    text = Agent("You answer.", model=EchoModel(), tenant_id="acme")
    assert_type((await text.run("Hello.")).output, str)

    report = Agent("You report.", model=EchoModel(), output=Report, tools=[weather])
    result = await report.run("Weather in Tokyo?", tenant_id="acme", user_id="alice", run_id="order-17")
    assert_type(result, RunResult[Report])
    assert_type(result.output.title, str)
    assert_type(report.run_sync("Weather in Tokyo?", tenant_id="acme").output, Report)
    assert_type(await report.resume("order-17", tenant_id="acme"), RunResult[Report])
    assert_type(is_paused(result), bool)


async def a_union_is_an_output_too() -> None:
    either = Agent[None, Report | int]("You report.", model=EchoModel(), output=Report | int)
    assert_type((await either.run("Hello.", tenant_id="acme")).output, Report | int)


async def mistakes_are_found() -> None:
    agent = Agent("You answer.", model=ScriptedModel(["Hello."]), runtime=SqliteRuntime("bot.db"))
    _ = (await agent.run("Hello.")).output.no_such_field  # pyright: ignore[reportAttributeAccessIssue]
    await agent.run("Hello.", tenant=1)  # pyright: ignore[reportCallIssue]
    Agent("You answer.", model=EchoModel(), no_such_option=True)  # pyright: ignore[reportCallIssue]
