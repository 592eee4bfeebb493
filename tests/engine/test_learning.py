"""Facts that are learned of what users said: at whose expense, from what, and what becomes of them."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from shipworthy import (
    Agent,
    BudgetConfig,
    Decision,
    InMemoryFactStore,
    InMemoryMemory,
    ModelSettings,
    Operator,
    RunFilter,
    Scope,
    ScriptedTurn,
    Source,
    SqliteMemory,
    SqliteRuntime,
    StandardBudget,
    ToolCall,
    Tuning,
    Usage,
)
from shipworthy.app.catching_up import CatchingUp
from shipworthy.app.outputs import TOOL
from shipworthy.domain.events import FactsLearned, MemoryWritten, RunStarted
from shipworthy.domain.memory import Episode, Fact, Record
from shipworthy.domain.model import ModelRequest
from shipworthy.engine import erasing
from shipworthy.engine.memory import facts, finding
from shipworthy.engine.memory.facts import Facts
from shipworthy.engine.memory.memory import Memory
from shipworthy.engine.memory.records import LEARNED_TO
from shipworthy.errors import (
    ConfigurationError,
    IdentityMissing,
    InputError,
    InvalidPrompt,
    MemoryUnavailable,
)
from shipworthy.rules.learning import ATTEMPTS, attempt_of, learning_of
from shipworthy.rules.memory.facts import Belief, learn
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


def test_what_learns_has_an_id_that_follows_from_the_run() -> None:
    assert learning_of("a", "bc") != learning_of("ab", "c")
    assert learning_of("a", "b") == learning_of("a", "b")
    assert len({attempt_of("learn-x", nth) for nth in range(1, ATTEMPTS + 1)}) == ATTEMPTS


def test_nobody_else_has_the_name_of_a_learner_or_of_its_runs() -> None:
    model = Clerk().model
    with pytest.raises(ConfigurationError, match="Choose one that does not end in"):
        Agent("", model=model, name="bot~learner")

    async def law() -> None:
        a = agent(InMemoryMemory(embedder=None), Clerk())
        with pytest.raises(InvalidPrompt, match="Choose one that does not begin with"):
            await a.run("I like tea.", run_id=learning_of("acme", "order-1"), **AS_ALICE)

    go(law)


async def consolidated(a: Agent[Any, str], **who: Any) -> int:
    return (await a.consolidate(**who)).learned


def test_what_failed_is_learned_again_once_the_cause_is_gone() -> None:
    async def law() -> None:
        memory, clerk = InMemoryMemory(embedder=None), Clerk(tea=RuntimeError("no model today"))
        clerk.model._turns *= 4
        a = agent(memory, clerk)
        async with a:
            await a.run("I like tea.", **AS_ALICE)
            await a._memory._learning.settle(30)  # type: ignore[union-attr]
            clerk.learns["Paris"] = lives_in("Paris")
            assert await consolidated(a) == 0, "what failed is not told as learned"
            await a.run("I live in Paris.", **AS_ALICE)
            assert await consolidated(a, **AS_ALICE) == 0, "it was learned after its run"
            assert await objects(memory) == ["Paris"], "what fails holds nobody else up"
            clerk.learns["tea"] = LIKES_TEA
            assert await consolidated(a, **AS_ALICE) == 1
            assert sorted(await objects(memory)) == ["Paris", "tea"]
            shown = len(clerk.shown)
            assert await consolidated(a) == 0
            assert len(clerk.shown) == shown, "what is learned is not learned again"

    go(law)


def test_what_fails_each_time_is_given_up_and_by_itself_is_not_tried_again_at_once() -> None:
    async def law() -> None:
        memory, clerk = InMemoryMemory(embedder=None), Clerk(tea=RuntimeError("never"))
        clerk.model._turns *= 9
        a = agent(memory, clerk, auto_extract=False, tuning=Tuning(model_retries=0))
        async with a:
            await a.run("I like tea.", **AS_ALICE)
            learning = a._memory._learning  # type: ignore[union-attr]
            assert learning is not None
            for _ in range(3):
                await learning.consolidate(None, patient=True)
            assert len(clerk.shown) == 1, "a minute is not over"
            for _ in range(ATTEMPTS + 2):
                assert await consolidated(a) == 0
            assert len(clerk.shown) == ATTEMPTS
            assert (await CatchingUp(learning, ALICE, patient=False)._noted()).left == {}

    go(law)


def test_a_failure_that_is_taken_for_done_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    async def done(self: Any, run_id: str) -> tuple[str, str]:
        """As if a run that is there had learned."""
        name = learning_of(self._partition.tenant, run_id)
        return ("due" if await self._found(name) is None else "done"), name

    monkeypatch.setattr(CatchingUp, "_due", done)
    with pytest.raises(AssertionError):
        test_what_failed_is_learned_again_once_the_cause_is_gone()


def test_every_attempt_at_learning_is_erased_with_what_it_learns_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def left() -> list[str]:
        memory, clerk = InMemoryMemory(embedder=None), Clerk(tea=RuntimeError("never"))
        a = agent(memory, clerk, auto_extract=False)
        async with a:
            await a.run("I like tea.", session_id="one", **AS_ALICE)
            for _ in range(2):
                await a.consolidate()
            assert len(await a.runtime.store.list(ALICE, RunFilter())) == 3
            await memory.erase(Scope("acme", "alice", "one"))
            there = await a.runtime.store.list(ALICE, RunFilter())
        return [run.run_id for run in there if run.run_id.startswith("learn-")]

    assert asyncio.run(left()) == []
    monkeypatch.setattr(erasing, "ATTEMPTS", 1)
    assert len(asyncio.run(left())) == 1


def test_a_partition_that_cannot_be_read_stops_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    async def law() -> None:
        memory, clerk = InMemoryMemory(embedder=None), Clerk(tea=LIKES_TEA)
        a = agent(memory, clerk, auto_extract=False)
        async with a:
            await memory.remember(Scope("acme", "aaron"), "Something.")
            odd = [
                Record(id="odd", kind="episode", data=b"{", at=1),
                Record(id=LEARNED_TO, kind="topic", data=b"?", at=1),
            ]
            await memory.store.put(Scope("acme", "aaron"), odd)
            await a.run("I like tea.", **AS_ALICE)
            with caplog.at_level(logging.WARNING, "shipworthy.memory"):
                assert await consolidated(a) == 1
        assert await objects(memory) == ["tea"]

    go(law)


def test_one_lesson_brings_the_surest_facts_and_no_more_than_fifty(caplog: pytest.LogCaptureFixture) -> None:
    class Many(Clerk):
        def _turn(self, request: ModelRequest) -> Any:
            if "extract facts" not in request.instructions:
                return "Fine."
            facts = [{**LIKES_TEA, "object": f"tea {n}", "confidence": 0.7 + n / 1000} for n in range(120)]
            return ToolCall(TOOL, {"facts": facts})

    async def law() -> None:
        memory = InMemoryMemory(embedder=None)
        a = agent(memory, Many())
        with caplog.at_level(logging.WARNING, "shipworthy.memory"):
            result = await said(a, "I like many kinds of tea.")
        assert sorted(await objects(memory)) == sorted([f"tea {n}" for n in range(70, 120)])
        journal = await a.runtime.store.read(ALICE, learning_of("acme", result.run_id))
        [learned] = [event for event in journal if isinstance(event, FactsLearned)]
        assert (len(learned.added), learned.left_out) == (50, 70)
        assert "without 70 more" in caplog.text

    go(law)


def test_what_is_everybodys_is_learned_at_the_expense_of_who_said_it_and_names_them() -> None:
    async def law() -> None:
        memory = InMemoryMemory(embedder=None, level="tenant")
        clerk = Clerk(
            tea={**LIKES_TEA, "single": True},
            Rex={**LIKES_TEA, "subject": "The user's dog", "predicate": "is called", "object": "Rex"},
            rum={**LIKES_TEA, "object": "rum", "single": True},
        )
        budget = StandardBudget(BudgetConfig(per_user_max_tokens=1_000_000))
        a = agent(memory, clerk, budget=budget)
        await said(a, "I like tea. My dog is Rex.")
        await said(a, "I like rum.", user_id="bob")
        shared = await memory.facts.of(Scope("acme"))
        assert [fact.text for fact in shared] == [
            "alice likes tea",
            "alice's dog is called Rex",
            "bob likes rum",
        ]
        for user in ("alice", "bob"):
            balances = await a.runtime.store.ledger.show(Operator("law"), "acme", user)
            assert [each.spent for each in balances if each.unit == "tokens"] == [30], user
        async with a:
            await a.run("I like rum more.", **AS_ALICE)
            await a._memory._learning.settle(30)  # type: ignore[union-attr]
        assert {fact.text for fact in await memory.facts.of(Scope("acme"))} == {
            "alice likes rum",
            "alice's dog is called Rex",
            "bob likes rum",
        }

    go(law)


def test_consolidating_what_is_everybodys_is_at_the_expense_of_who_said_it() -> None:
    async def law() -> None:
        memory, clerk = InMemoryMemory(embedder=None, level="tenant"), Clerk(tea=LIKES_TEA)
        budget = StandardBudget(BudgetConfig(per_user_max_tokens=1_000_000))
        a = agent(memory, clerk, budget=budget, auto_extract=False)
        await said(a, "I like tea.")
        await memory.remember(Scope("acme"), "I like tea.", role="user", source=Source("elsewhere"))
        async with a:
            assert await consolidated(a) == 1
        assert [fact.text for fact in await memory.facts.of(Scope("acme"))] == ["alice likes tea"]
        balances = await a.runtime.store.ledger.show(Operator("law"), "acme", "alice")
        assert [each.spent for each in balances if each.unit == "tokens"] == [30]

    go(law)


def test_a_learner_has_its_agents_settings_but_for_its_tools() -> None:
    async def law() -> None:
        seen: list[ModelRequest] = []

        class Looks(Clerk):
            def _turn(self, request: ModelRequest) -> Any:
                seen.append(request)
                return super()._turn(request)

        wanted = ModelSettings(
            max_tokens=500, extra={"store": False}, stop=("STOP",), parallel_tool_calls=False
        )
        a = agent(InMemoryMemory(embedder=None), Looks(), settings=wanted)
        await said(a, "I like tea.")
        [learner] = [request for request in seen if "extract facts" in request.instructions]
        assert (learner.settings.max_tokens, learner.settings.extra) == (500, {"store": False})
        assert (learner.settings.stop, learner.settings.parallel_tool_calls) == (None, None)

    go(law)


def test_what_is_over_or_still_to_come_is_not_recalled() -> None:
    async def law() -> None:
        memory, now = InMemoryMemory(embedder=None), time.time_ns() // 1_000_000
        year = 365 * 86_400_000
        await memory.facts.add(
            ALICE, "user", "works at", "Initech", valid_from=now - 9 * year, valid_to=now - year
        )
        await memory.facts.add(ALICE, "user", "works at", "Globex", valid_from=now - year, single=True)
        await memory.facts.add(ALICE, "user", "works at", "Acme", valid_from=now + year, single=True)
        found = await memory.recall(ALICE, "Does the user work at Initech or Acme?", limit=1)
        assert [each.text for each in found] == ["user works at Globex"]
        assert await objects(memory, true_at=now) == ["Globex"]
        assert await objects(memory, true_at=now - 2 * year) == ["Initech"]
        assert await objects(memory, true_at=now + 2 * year) == ["Acme"]

    go(law)


def test_what_is_over_is_recalled_by_a_memory_that_does_not_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finding, "is_found", lambda item, at=None: True)
    with pytest.raises(AssertionError):
        test_what_is_over_or_still_to_come_is_not_recalled()


@pytest.mark.parametrize("apart", [False, True])
def test_facts_that_are_kept_are_known_to_learning(apart: bool) -> None:
    async def law() -> None:
        given: dict[str, Any] = {"fact_store": InMemoryFactStore()} if apart else {}
        memory = InMemoryMemory(embedder=None, **given)
        rome = Fact(
            id="a",
            subject="user",
            predicate="lives in",
            object="Rome",
            learned_at=1,
            valid_from=1,
            single=True,
        )
        note = Episode(id="b", text="The user talks of Rome.", at=1)
        await memory.keep(ALICE, [rome, note])
        await memory.keep(ALICE, [replace(rome, object="Oslo"), replace(note, text="Other.")])
        assert [each.text for each in await memory.episodes(ALICE)] == ["The user talks of Rome."]
        assert {each.text for each in await memory.recall(ALICE, "Rome")} == {note.text, rome.text}
        await memory.facts.add(ALICE, "User", "lives_in", "rome", source=Source("x"))
        assert await objects(memory) == ["Rome"]
        await memory.facts.add(ALICE, "user", "lives in", "Bonn")
        assert await objects(memory) == ["Bonn"]
        await memory.keep(ALICE, [replace(rome, object="Oslo")], replace=True)
        assert await objects(memory) == ["Oslo", "Bonn"]

    go(law)


def test_facts_that_learning_does_not_know_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    async def unknown(self: Any, scope: Scope, facts: Any, *, replace: bool, beside: Any = ()) -> None:
        records = await self._memory.vectors.records([*facts, *beside])
        await self._memory.fact_store.put(scope, records, replace=replace)

    monkeypatch.setattr(Facts, "keep", unknown)
    with pytest.raises(AssertionError):
        test_facts_that_are_kept_are_known_to_learning(False)


@pytest.mark.parametrize(
    "wrong",
    [
        {"valid_from": 1.5},
        {"valid_to": "soon"},
        {"valid_from": True},
        {"valid_from": 2**70},
        {"valid_from": 10, "valid_to": 10},
        {"valid_to": 1},
        {"confidence": float("nan")},
        {"confidence": "high"},
        {"single": "yes"},
        {"trust": "Untrusted"},
        {"origin": "\ud800"},
        {"source": Source("\ud800")},
        {"subject": None},
        {"object": "  "},
    ],
    ids=str,
)
def test_what_no_fact_can_be_is_refused_before_anything_is_kept(wrong: dict[str, Any]) -> None:
    async def law() -> None:
        memory = InMemoryMemory(embedder=None)
        fact: dict[str, Any] = {"subject": "user", "predicate": "likes", "object": "tea"}
        with pytest.raises(InputError):
            await memory.facts.add(ALICE, **{**fact, **wrong})
        assert await memory.store.page(ALICE) == []

    go(law)


def test_joining_goes_on_where_somebody_else_writes_meanwhile() -> None:
    async def law() -> None:
        memory = InMemoryMemory(embedder=None)
        await memory.facts.add(ALICE, "user", "likes", "tea")
        [tea] = await memory.facts.of(ALICE)
        twin = replace(tea, id="twin", object="Tea")
        await memory.keep(ALICE, [twin])
        everything, met = memory.facts.of, list[Episode]()

        async def met_by_another(*given: Any, **which: Any) -> list[Fact]:
            found = await everything(*given, **which)
            if not met:
                met.append(await memory.remember(ALICE, "Somebody else is here."))
            return found

        memory.facts.of = met_by_another  # type: ignore[method-assign]
        assert await memory.facts.join(ALICE) == 1
        memory.facts.of = everything  # type: ignore[method-assign]
        assert len(await objects(memory)) == 1
        assert len(await objects(memory, known_at=tea.learned_at)) == 2

    go(law)


def test_many_facts_are_learned_beside_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []

    def seen(*given: Any, **more: Any) -> Any:
        threads.append(threading.current_thread())
        return learn(*given, **more)

    async def law() -> None:
        memory = InMemoryMemory(embedder=None)
        many = [Belief(subject="user", predicate="likes", object=f"tea {n}") for n in range(2_000)]
        await memory.facts.learn(ALICE, many)
        assert len(await memory.facts.of(ALICE)) == 2_000
        assert threads.pop() is not threading.current_thread()

    monkeypatch.setattr(facts, "learn", seen)
    go(law)
    monkeypatch.setattr(facts, "_AT_ONCE", 10_000)
    with pytest.raises(AssertionError):
        go(law)


def test_of_two_who_are_told_one_after_the_other_the_second_is_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shipworthy.engine.memory.facts._now", lambda: 1_000)  # both within one millisecond

    async def law() -> None:
        memory = InMemoryMemory(embedder=None)
        for city in ("Berlin", "Lisbon"):
            await memory.facts.add(ALICE, "user", "lives in", city, single=True)
        assert await objects(memory) == ["Lisbon"]

    go(law)


def test_a_learner_whose_memory_is_away_is_taken_up_again_by_itself() -> None:
    class Leaving(InMemoryFactStore):
        away = True

        async def put(self, *given: Any, **options: Any) -> Any:
            if self.away:
                raise MemoryUnavailable("The facts are away.")
            return await super().put(*given, **options)

    async def law() -> None:
        facts, clerk = Leaving(), Clerk(tea=LIKES_TEA)
        memory = InMemoryMemory(embedder=None, fact_store=facts)
        a = agent(memory, clerk)
        assert (await said(a, "I like tea.")).status == "completed"
        operator, later = Operator("law"), (time.time_ns() // 1_000_000) + 3_600_000
        [due] = await a.runtime.store.due(operator, later)
        assert (due.status, due.run_id[:6]) == ("paused", "learn-")
        facts.away = False
        await a._memory._learning.service.resume(ALICE, due.run_id, {}, None)  # type: ignore[union-attr]
        assert await objects(memory) == ["tea"]

    go(law)
