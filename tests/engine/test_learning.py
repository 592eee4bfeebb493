"""Facts that are learned of what users said: at whose expense, from what, and what becomes of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from shipworthy import (
    Agent,
    BudgetConfig,
    Decision,
    InMemoryFactStore,
    InMemoryMemory,
    Operator,
    RunFilter,
    Scope,
    ScriptedTurn,
    SqliteMemory,
    SqliteRuntime,
    StandardBudget,
    ToolCall,
    Tuning,
    Usage,
)
from shipworthy.app import learning
from shipworthy.app.outputs import TOOL
from shipworthy.domain.events import FactsLearned, MemoryWritten, RunStarted
from shipworthy.domain.memory import Fact
from shipworthy.domain.model import ModelRequest
from shipworthy.engine.memory.memory import Memory
from shipworthy.errors import IdentityMissing
from shipworthy.testing import ScriptedModel

ALICE = Scope("acme", "alice")
AS_ALICE: dict[str, Any] = {"tenant_id": "acme", "user_id": "alice"}
LIKES_TEA = {"subject": "user", "predicate": "likes", "object": "tea", "single": False, "confidence": 0.9}


def lives_in(city: str, confidence: float = 0.9) -> dict[str, Any]:
    return {
        "subject": "user",
        "predicate": "lives in",
        "object": city,
        "single": True,
        "confidence": confidence,
    }


class Clerk:
    """A model that answers a user, and as a learner proposes what it was told to, by what the user said."""

    def __init__(self, **learns: Any) -> None:
        self.learns, self.shown = learns, list[str]()
        self.model = ScriptedModel([self._turn] * 9)

    def _turn(self, request: ModelRequest) -> Any:
        usage = Usage(input_tokens=10, output_tokens=5)
        if "extract facts" not in request.instructions:
            return ScriptedTurn("You like tea, and live in Rome, I recall.", usage=usage)
        self.shown.append(request.messages[-1].text)
        facts = [fact for word, fact in self.learns.items() if word in request.messages[-1].text]
        if any([isinstance(fact, Exception) for fact in facts]):
            raise next(fact for fact in facts if isinstance(fact, Exception))
        return ScriptedTurn(ToolCall(TOOL, {"facts": facts}), usage=usage)


def go(law: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(law(), 60))


def agent(memory: Memory, clerk: Clerk, **options: Any) -> Agent[Any, str]:
    options = {"auto_extract": True, "name": "clerk", **options}
    return Agent("You help.", model=clerk.model, memory=memory, **options)


async def said(a: Agent[Any, str], *prompts: str, **who: Any) -> Any:
    """Say these, one after another, and wait until what can be learned of them is learned."""
    async with a:
        for prompt in prompts:
            result = await a.run(prompt, **{**AS_ALICE, **who})
            await a._memory._learning.settle(30)  # type: ignore[union-attr]
    return result


async def objects(memory: Memory, **which: Any) -> list[str]:
    return [fact.object for fact in await memory.facts.of(ALICE, **which)]


def test_a_fact_is_learned_once_and_recalled_in_another_session() -> None:
    async def law() -> None:
        memory, clerk = InMemoryMemory(embedder=None), Clerk(tea=LIKES_TEA)
        a = agent(memory, clerk)
        await said(a, "I like tea.", "It is tea that I like.", session_id="one")
        [fact] = await memory.facts.of(ALICE)
        assert (fact.text, fact.origin, fact.trust, len(fact.sources)) == (
            "user likes tea",
            "model",
            "trusted",
            2,
        )
        assert fact.confidence == pytest.approx(0.99)
        seen: list[str] = []
        clerk.model._turns = (lambda request: (seen.append(request.messages[0].text), "Fine.")[1],)
        await said(a, "Which drinks would a user like?", session_id="two")
        assert '"remembered":"user likes tea","fact_since"' in seen[0]

    go(law)


def test_a_learner_sees_the_users_words_and_nothing_that_was_recalled_or_answered() -> None:
    async def law() -> None:
        memory, clerk = InMemoryMemory(embedder=None), Clerk()
        await memory.remember(ALICE, "The secret of tea is patience.")
        await said(agent(memory, clerk), "Tell me of tea.")
        [shown] = clerk.shown
        assert "Tell me of tea." in shown
        assert "patience" not in shown
        assert "Rome" not in shown

    go(law)


def test_a_contradiction_supersedes_and_what_is_not_sure_is_set_aside() -> None:
    async def law() -> None:
        memory = InMemoryMemory(embedder=None)
        clerk = Clerk(Berlin=lives_in("Berlin"), Paris=lives_in("Paris"), Oslo=lives_in("Oslo", 0.3))
        a = agent(memory, clerk)
        await said(a, "I live in Berlin.", "I moved to Paris.", "Perhaps to Oslo one day.")
        assert await objects(memory) == ["Paris"]
        assert await objects(memory, superseded=True) == ["Berlin", "Paris"]
        assert await objects(memory, quarantined=True) == ["Paris", "Oslo"]
        berlin = next(f for f in await memory.facts.of(ALICE, superseded=True) if f.object == "Berlin")
        assert await objects(memory, known_at=berlin.learned_at) == ["Berlin"]
        assert await objects(memory, true_at=berlin.valid_from, superseded=True) == ["Berlin"]
        texts = [
            each.text for each in await memory.recall(ALICE, "Where does the user live?", kinds=["fact"])
        ]
        assert texts == ["user lives in Paris"]

    go(law)


def test_two_facts_of_one_time_both_survive() -> None:
    async def law() -> None:
        memory = InMemoryMemory(embedder=None)
        clerk = Clerk(Berlin=lives_in("Berlin"), Paris=lives_in("Paris"))
        await said(agent(memory, clerk), "I live in Berlin and in Paris.")
        assert await objects(memory) == ["Berlin", "Paris"]

    go(law)


def test_learning_is_charged_to_the_user_and_is_no_part_of_the_session() -> None:
    async def law() -> None:
        memory, clerk = InMemoryMemory(embedder=None), Clerk(tea=LIKES_TEA)
        budget = StandardBudget(BudgetConfig(per_user_max_tokens=1_000_000))
        a = agent(memory, clerk, budget=budget)
        async with a:
            result = await a.run("I like tea.", session_id="one", **AS_ALICE)
            await a._memory._learning.settle(30)  # type: ignore[union-attr]
            [written] = [
                e for e in await a.runtime.store.read(ALICE, result.run_id) if isinstance(e, MemoryWritten)
            ]
            assert written.learning is not None
            journal = await a.runtime.store.read(ALICE, written.learning)
            assert isinstance(journal[0], RunStarted)
            assert journal[0].session is None
            assert any([isinstance(event, FactsLearned) for event in journal])
            assert await a.runtime.store.session(Scope("acme", "alice", "one")) == [result.run_id]
            balances = await a.runtime.store.ledger.show(Operator("law"), "acme", "alice")
            assert [each.spent for each in balances if each.unit == "tokens"] == [30]

    go(law)


def test_a_user_without_budget_learns_nothing_and_somebody_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async def law() -> None:
        memory, clerk = InMemoryMemory(embedder=None), Clerk(tea=LIKES_TEA)
        budget = StandardBudget(BudgetConfig(per_user_max_tokens=5_000))
        a = agent(memory, clerk, budget=budget)
        with caplog.at_level(logging.WARNING, "shipworthy.memory"):
            async with a:
                await a.run("I like tea.", **AS_ALICE)
                await a._memory._learning.settle(30)  # type: ignore[union-attr]
        assert (await memory.facts.of(ALICE) == []) == ("learned nothing" in caplog.text)

    go(law)


def test_a_learner_keeps_to_the_agents_hooks() -> None:
    async def law() -> None:
        memory, clerk = InMemoryMemory(embedder=None), Clerk(tea=LIKES_TEA)
        a = agent(memory, clerk)

        @a.before_model
        async def no_tea(ctx: Any, request: ModelRequest) -> Any:
            return Decision.deny_("No tea.") if "extract facts" in request.instructions else None

        assert (await said(a, "I like tea.")).status == "completed"
        assert clerk.shown == []
        assert await objects(memory) == []

    go(law)


def test_a_learner_that_fails_is_seen(caplog: pytest.LogCaptureFixture) -> None:
    async def law() -> None:
        memory, clerk = InMemoryMemory(embedder=None), Clerk(tea=RuntimeError("no model today"))
        with caplog.at_level(logging.WARNING, "shipworthy.memory"):
            result = await said(a := agent(memory, clerk), "I like tea.")
        assert result.status == "completed"
        assert "learned nothing" in caplog.text
        statuses = [run.status for run in await a.runtime.store.list(Scope("acme"), RunFilter())]
        assert sorted(statuses) == ["completed", "failed"]

    go(law)


def test_learning_is_on_for_real_models_and_off_for_doubles() -> None:
    class Real(ScriptedModel):
        is_double = False

    async def law() -> None:
        for model, learns in ((Real(["Fine.", "x"]), True), (ScriptedModel(["Fine."]), False)):
            memory = InMemoryMemory(embedder=None)
            a: Agent[Any, str] = Agent("", model=model, memory=memory)
            result = await said(a, "I like tea.")
            [written] = [
                e for e in await a.runtime.store.read(ALICE, result.run_id) if isinstance(e, MemoryWritten)
            ]
            assert (written.learning is not None) is learns

    go(law)


def test_consolidating_learns_what_was_not_learned_and_does_it_once() -> None:
    async def law() -> None:
        memory, clerk = InMemoryMemory(embedder=None), Clerk(tea=LIKES_TEA, Paris=lives_in("Paris"))
        a = agent(memory, clerk, auto_extract=False)
        async with a:
            await a.run("I like tea.", **AS_ALICE)
            await a.run("I live in Paris.", **AS_ALICE)
            assert clerk.shown == []
            assert (await a.consolidate(**AS_ALICE)).learned == 2
            assert sorted(await objects(memory)) == ["Paris", "tea"]
            assert (await a.consolidate(**AS_ALICE)).learned == 0
            assert (await a.consolidate()).learned == 0
            with pytest.raises(IdentityMissing):
                await a.consolidate(user_id="alice")
        assert len(clerk.shown) == 2

    go(law)


def test_consolidating_by_itself() -> None:
    async def law() -> None:
        memory, clerk = InMemoryMemory(embedder=None), Clerk(tea=LIKES_TEA)
        tuning = Tuning(auto_consolidate=True, recover_every=0.02)
        async with agent(memory, clerk, auto_extract=False, tuning=tuning) as a:
            await a.run("I like tea.", **AS_ALICE)
            while not await objects(memory):  # noqa: ASYNC110 - a memory has no event
                await asyncio.sleep(0.02)

    go(law)


def test_facts_that_say_the_same_are_joined() -> None:
    async def law() -> None:
        memory = InMemoryMemory(embedder=None)
        twins = [
            Fact(id=name, subject=subject, predicate="likes", object=thing, learned_at=1, valid_from=1)
            for name, subject, thing in (("a", "user", "tea"), ("b", "User", "Tea"), ("c", "user", "coffee"))
        ]
        await memory.keep(ALICE, twins)
        assert await memory.facts.join(ALICE) == 1
        assert await objects(memory) == ["tea", "coffee"]
        assert await memory.facts.join(ALICE) == 0

    go(law)


def test_facts_may_be_elsewhere(tmp_path: Path) -> None:
    async def law() -> None:
        facts = InMemoryFactStore()
        memory = SqliteMemory(tmp_path / "bot.db", embedder=None, fact_store=facts)
        await memory.remember(ALICE, "Alice talks of tea.")
        await memory.facts.add(ALICE, "Alice", "likes", "tea")
        found = await memory.recall(ALICE, "tea")
        assert {each.text for each in found} == {"Alice talks of tea.", "Alice likes tea"}
        assert [record.kind for record in await memory.store.page(ALICE)] == ["episode"]
        await memory.erase(ALICE)
        assert await facts.page(ALICE) == []
        await memory.close()

    go(law)


class Hangs:
    """A model that never answers a learner."""

    name, is_double = "scripted", True

    def __init__(self) -> None:
        self._other, self.asked = Clerk().model, asyncio.Event()

    async def stream(self, request: ModelRequest) -> Any:
        if "extract facts" in request.instructions:
            self.asked.set()
            await asyncio.Event().wait()
        async for item in self._other.stream(request):
            yield item

    async def close(self) -> None:
        pass


def test_learning_that_was_left_is_taken_up_by_whoever_comes(tmp_path: Path) -> None:
    def fresh(model: Any, **options: Any) -> tuple[Memory, Agent[Any, str]]:
        memory = SqliteMemory(tmp_path / "bot.db", embedder=None)
        options = {
            "auto_extract": True,
            "name": "clerk",
            "runtime": SqliteRuntime(tmp_path / "bot.db"),
            **options,
        }
        return memory, Agent("You help.", model=model, memory=memory, **options)

    async def left() -> None:
        model = Hangs()
        memory, a = fresh(model)
        await a.run("I like tea.", **AS_ALICE)
        await model.asked.wait()
        assert await objects(memory) == []
        # The event loop goes, as at the end of a script, with the learning run under way.

    async def taken_up() -> None:
        clerk = Clerk(tea=LIKES_TEA)
        memory, a = fresh(clerk.model, tuning=Tuning(recover_every=0.05))
        async with a:
            while not await objects(memory):  # noqa: ASYNC110 - the file has no event
                await asyncio.sleep(0.05)
        assert len(clerk.shown) == 1

    go(left)
    go(taken_up)


def test_a_learner_has_a_name_of_its_own_and_an_id_that_follows_from_the_run() -> None:
    assert learning.learning_of("a", "bc") != learning.learning_of("ab", "c")
    assert learning.learning_of("a", "b") == learning.learning_of("a", "b")
