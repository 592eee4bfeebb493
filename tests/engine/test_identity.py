"""Whose run it is: no default bucket, no guessing, and a foreign run is like none."""

from __future__ import annotations

import asyncio
import warnings
from typing import Any

import pytest

from shipworthy import EchoModel, RunContext, Scope, ToolCall, tool
from shipworthy.domain.journal import RunFilter
from shipworthy.errors import IdentityMissing, IdentityWarning, InputError, RunConflict, RunNotFound
from tests.engine.world import ALICE, agent, go


def test_one_agent_serves_a_thousand_runs_of_a_hundred_tenants_each_with_its_own_identity() -> None:
    @tool(effect="read")
    async def who(ctx: RunContext[str]) -> str:
        await asyncio.sleep(0)
        return f"{ctx.scope.tenant}/{ctx.scope.user}/{ctx.scope.session}/{ctx.run_id}/{ctx.deps}"

    a = agent(
        ToolCall("who"),
        lambda r: r.messages[-1].parts[0].content[0].text,
        tools=[who],
        deps=lambda s: s.tenant,
    )

    async def law() -> None:
        async def one(i: int) -> None:
            tenant, user = f"tenant-{i % 100}", f"user-{i}"
            result = await a.run("Who?", tenant_id=tenant, user_id=user, session_id="s", run_id=f"run-{i}")
            assert result.output == f"{tenant}/{user}/s/run-{i}/{tenant}"
            assert result.scope == Scope(tenant, user, "s")

        await asyncio.gather(*[one(i) for i in range(1_000)])

    go(law())


def test_whoever_names_nobody_gets_a_fresh_scope_and_a_warning() -> None:
    a = agent("Hi.")
    with pytest.warns(IdentityWarning):
        first = go(a.run("Hi"))
    with pytest.warns(IdentityWarning):
        second = go(a.run("Hi"))
    assert first.scope.anonymous
    assert first.scope != second.scope


@pytest.mark.parametrize(
    "identity",
    [
        {"user_id": "alice"},
        {"session_id": "s"},
        {"tenant_id": "acme", "session_id": "s"},
        {"tenant_id": ""},
        {"tenant_id": " "},
        {"tenant_id": 7},
        {"tenant_id": "a\ud800"},
        {"tenant_id": "~anon-1"},
    ],
)
def test_an_incomplete_identity_is_an_error_that_says_what_to_pass(identity: dict[str, Any]) -> None:
    with pytest.raises(IdentityMissing, match="tenant_id"):
        go(agent("Hi.").run("Hi", **identity))


@pytest.mark.parametrize("name", ["tenant_id", "user_id", "session_id", "run_id"])
def test_an_id_is_bounded_in_bytes_where_runs_begin(name: str) -> None:
    fits: dict[str, Any] = {
        "tenant_id": "acme",
        "user_id": "alice",
        "session_id": "s",
        "run_id": "r",
        name: "é" * 256,
    }
    longer: dict[str, Any] = {**fits, name: "é" * 256 + "x"}
    assert go(agent("Hi.").run("Hi", **fits)).output == "Hi."
    with pytest.raises(InputError, match=f"{name} is too long .* at most 512 bytes"):
        go(agent("Hi.").run("Hi", **longer))
    with pytest.raises(RunNotFound):  # what is kept can be found, whatever its id
        go(agent("Hi.").resume(longer["run_id"], tenant_id=longer["tenant_id"]))


def test_the_tenant_of_an_agent_is_bounded() -> None:
    with pytest.raises(IdentityMissing, match="at most 512 bytes"):
        agent("Hi.", tenant_id="t" * 513)


def test_identity_can_be_required() -> None:
    with warnings.catch_warnings(), pytest.raises(IdentityMissing):
        go(agent("Hi.", require_identity=True).run("Hi"))


def test_a_single_tenant_service_names_its_tenant_once() -> None:
    assert go(agent("Hi.", tenant_id="acme").run("Hi", user_id="alice")).scope == Scope("acme", "alice")


def test_a_foreign_run_and_no_run_give_the_same_answer() -> None:
    async def law() -> None:
        a = agent("Secret.")
        await a.run("Hi", run_id="run-1", **ALICE)
        said = []
        for run_id, tenant in (("run-1", "other"), ("run-2", "other")):
            with pytest.raises(RunNotFound) as error:
                await a.resume(run_id, tenant_id=tenant)
            said.append(str(error.value).replace(run_id, "ID"))
        assert said[0] == said[1]

    go(law())


def test_two_tenants_may_use_the_same_run_id() -> None:
    async def law() -> None:
        a = agent(lambda r: r.messages[0].text)
        one = await a.run("one", tenant_id="one", run_id="r")
        two = await a.run("two", tenant_id="two", run_id="r")
        assert (one.output, two.output) == ("one", "two")

    go(law())


def test_the_same_call_again_gives_the_same_result() -> None:
    calls = 0

    def count(request: Any) -> str:
        nonlocal calls
        calls += 1
        return "Once."

    async def law() -> None:
        a = agent(count)
        await asyncio.gather(*[a.run("Hi", run_id="r", **ALICE) for _ in range(20)])
        assert (await a.run("Hi", run_id="r", **ALICE)).output == "Once."

    go(law())
    assert calls == 1


@pytest.mark.parametrize(
    "other", [{"prompt": "Bye"}, {"user_id": "bob"}, {"session_id": "s"}, {"user_id": None}], ids=str
)
def test_the_same_run_id_with_another_input_is_a_conflict(other: dict[str, Any]) -> None:
    async def law() -> None:
        a = agent("Hi.")
        call: dict[str, Any] = {"prompt": "Hi", "run_id": "r", **ALICE}
        await a.run(**call)
        with pytest.raises(RunConflict):
            await a.run(**{**call, **other})

    go(law())


def test_a_listing_shows_only_its_scope() -> None:
    async def law() -> None:
        from shipworthy import Agent

        a: Agent[Any, Any] = Agent(model=EchoModel())
        for tenant in ("one", "two"):
            for user in ("a", "b"):
                await a.run("Hi", tenant_id=tenant, user_id=user)
        store = a.runtime.store
        assert len(await store.list(Scope("one"), RunFilter())) == 2
        assert len(await store.list(Scope("one", "a"), RunFilter())) == 1
        assert await store.list(Scope("three"), RunFilter()) == []

    go(law())
