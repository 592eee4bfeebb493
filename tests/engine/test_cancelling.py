"""Whoever takes a paused run and is interrupted before driving it lets go of it: anybody can take it then."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from shipworthy import Agent, Approve, Inbox, ScriptedModel, ToolCall, tool
from shipworthy.adapters.inmemory.store import InMemoryStore
from shipworthy.engine import recover
from shipworthy.engine.driver import InProcess
from shipworthy.engine.runtime import Runtime
from shipworthy.errors import StoreUnavailable
from tests.engine.world import ALICE, go

R = {**ALICE, "run_id": "r"}
STEPS = 60
Act = Callable[[Agent[Any, Any], Any], Awaitable[Any]]


class Slow(InMemoryStore):
    """Everything takes a step of the event loop before it is done and one after, as over a wire."""

    failing = ""

    async def _step(self, name: str, made: Callable[[], Awaitable[Any]]) -> Any:
        await asyncio.sleep(0)
        if self.failing == name:
            raise StoreUnavailable("The store is away.")
        result = await made()
        await asyncio.sleep(0)
        return result

    async def read(self, *given: Any) -> Any:
        return await self._step("read", lambda: InMemoryStore.read(self, *given))

    async def claim(self, *given: Any) -> Any:
        return await self._step("claim", lambda: InMemoryStore.claim(self, *given))

    async def commit(self, *given: Any) -> Any:
        if self.failing == "commit":
            raise StoreUnavailable("The store is away.")
        try:
            await asyncio.sleep(0)
        finally:  # a commit completes before it is cancelled
            result = await InMemoryStore.commit(self, *given)
        return result


def signer(*, nested: bool) -> tuple[Agent[Any, Any], Slow]:
    @tool(effect="once", requires_approval=True)
    async def sign() -> str:
        return "signed"

    store = Slow(1000)
    given: dict[str, Any] = {"runtime": Runtime(store, InProcess()), "approval_handler": Inbox()}
    signs = [ToolCall("sign", {}), "Signed."]
    if not nested:
        return Agent(model=ScriptedModel(signs), tools=[sign], name="signer", **given), store
    inner = Agent(model=ScriptedModel(signs), tools=[sign], name="signer")
    asks = [ToolCall("signer", {"input": "Sign."}), "Done."]
    return Agent(model=ScriptedModel(asks), tools=[inner.as_tool()], name="boss", **given), store


async def cancel(agent: Agent[Any, Any], paused: Any) -> Any:
    return await agent.cancel("r", tenant_id="acme")


async def answer(agent: Agent[Any, Any], paused: Any) -> Any:
    return await agent.resume(paused.checkpoint, answer=Approve(by="maria"))


async def resume(agent: Agent[Any, Any], paused: Any) -> Any:
    return await agent.resume("r", tenant_id="acme")


async def interrupted(act: Act, agent: Agent[Any, Any], steps: int) -> None:
    """After so many steps, whatever it was at."""
    paused = await agent.run("Sign", **R)
    assert paused.status == "paused"
    task = asyncio.ensure_future(act(agent, paused))
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("nested", [False, True], ids=["direct", "nested"])
@pytest.mark.parametrize("act", [cancel, answer, resume])
def test_a_run_that_was_being_taken_by_somebody_who_was_interrupted_can_be_taken_by_anybody(
    act: Act, nested: bool
) -> None:
    async def law() -> None:
        for steps in range(STEPS):
            agent, store = signer(nested=nested)
            await interrupted(act, agent, steps)
            assert not [run.run_id for run in store._by_key.values() if run.owned]
            async with asyncio.timeout(10):
                await agent.resume("r", tenant_id="acme")
                ended = await agent.cancel("r", tenant_id="acme")
            assert ended.status in ("cancelled", "completed")

    go(law())


@pytest.mark.parametrize("what", ["read", "commit"])
def test_a_run_that_could_not_be_taken_over_is_let_go_of(what: str) -> None:
    async def law() -> None:
        agent, store = signer(nested=True)
        await agent.run("Sign", **R)
        claim = InMemoryStore.claim

        async def then_fails(*given: Any) -> Any:
            claimed = await claim(store, *given)
            store.failing = what
            return claimed

        store.claim = then_fails  # type: ignore[method-assign]
        with pytest.raises(StoreUnavailable):
            await agent.cancel("r", tenant_id="acme")
        del store.claim
        store.failing = ""
        assert not [run.run_id for run in store._by_key.values() if run.owned]
        assert (await agent.cancel("r", tenant_id="acme")).status == "cancelled"

    go(law())


def test_keeping_what_was_claimed_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: a run is not let go of."""

    async def kept(store: Any, fence: Any) -> None:
        return None

    monkeypatch.setattr(recover, "leave", kept)
    with pytest.raises(AssertionError):
        test_a_run_that_was_being_taken_by_somebody_who_was_interrupted_can_be_taken_by_anybody(cancel, False)
