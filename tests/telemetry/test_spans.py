"""What the fold says of events: leaf spans have the tokens, every span ends once, and nothing says what was said."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from shipworthy import (
    Agent,
    BudgetConfig,
    Charge,
    InMemoryMemory,
    InMemoryTelemetry,
    PriceTable,
    Scope,
    ScriptedModel,
    ScriptedTurn,
    StandardBudget,
    ToolCall,
    Usage,
    handoff,
    price_usd,
    tool,
)
from shipworthy.domain import events as facts
from shipworthy.domain.events import AnyEvent, ModelAnswered, RunStarted
from shipworthy.domain.messages import Text
from shipworthy.rules.codec import decode_events
from shipworthy.rules.state import replay
from shipworthy.rules.telemetry import names
from shipworthy.rules.telemetry.identity import Identities
from shipworthy.rules.telemetry.past import left_from
from shipworthy.rules.telemetry.records import Measured, Record, SpanClosed, SpanOpened
from shipworthy.rules.telemetry.spans import TELLS, Fold
from shipworthy.rules.telemetry.whose import Told, run_key

ALICE = {"tenant_id": "acme", "user_id": "alice"}
GOLDEN = [
    decode_events(json.dumps(json.loads(line)["events"]))
    for path in sorted((Path(__file__).parents[1] / "golden").glob("journal-*.jsonl"))
    for line in path.read_text().splitlines()
]
IDS = [run[0].run_id for run in GOLDEN]  # type: ignore[union-attr]


def fold_of(events: list[AnyEvent], kind: type[Fold] = Fold, **options: Any) -> Fold:
    started = events[0]
    assert isinstance(started, RunStarted)
    scope = Scope(started.tenant, started.user, started.session)
    return kind(Told(scope, started.run_id, (started.agent,), "scripted"), **options)


def said_of(events: list[AnyEvent], kind: type[Fold] = Fold, **options: Any) -> list[Record]:
    return fold_of(events, kind, **options).feed(events)


def total(records: list[Record], metric: str) -> float:
    return sum([r.value for r in records if isinstance(r, Measured) and r.metric == metric])


def problems(records: list[Record]) -> Iterator[str]:
    """What is wrong with the spans of a run that came to an end or a pause."""
    opened: dict[str, SpanOpened] = {}
    closed: Counter[str] = Counter()
    for record in records:
        if isinstance(record, SpanOpened):
            if record.key in opened:
                yield f"{record.name} is opened twice"
            opened[record.key] = record
        elif isinstance(record, SpanClosed):
            closed[record.key] += 1
            if record.key not in opened or record.at < opened[record.key].at:
                yield f"{record.key} is closed before it is opened"
    for key, span in opened.items():
        if closed[key] != 1:
            yield f"{span.name} is closed {closed[key]} times"
        yield from _of_its_own(span, opened)


def _of_its_own(span: SpanOpened, opened: dict[str, SpanOpened]) -> Iterator[str]:
    if span.operation != names.INVOKE_AGENT and span.parent not in opened:
        yield f"{span.name} is in no sitting"
    if names.TENANT_ID not in span.attributes or names.RUN not in span.attributes:
        yield f"{span.name} says not whose it is"


def tokens_on(records: list[Record]) -> Counter[str]:
    """Input tokens by the operation whose spans have them."""
    operations = {r.key: r.operation for r in records if isinstance(r, SpanOpened)}
    found: Counter[str] = Counter()
    for record in records:
        if isinstance(record, SpanClosed) and names.INPUT_TOKENS in record.attributes:
            found[operations[record.key]] += record.attributes[names.INPUT_TOKENS]  # type: ignore[operator]
    return found


# --- any journal ------------------------------------------------------------------------------


@pytest.mark.parametrize("events", GOLDEN, ids=IDS)
def test_every_span_of_a_run_begins_and_ends_once(events: list[AnyEvent]) -> None:
    assert list(problems(said_of(events))) == []


@pytest.mark.parametrize("events", GOLDEN, ids=IDS)
def test_tokens_and_money_are_those_of_the_journal(events: list[AnyEvent]) -> None:
    state, records = replay(events), said_of(events)
    assert tokens_on(records) == Counter({"chat": state.usage.input_tokens or 0})
    if state.charged is not None:
        assert total(records, names.COST_USD) == pytest.approx((state.charged.cost or 0) / 1e9, abs=1e-12)
        assert total(records, names.TOKENS_INPUT) == state.charged.input_tokens
        assert total(records, names.TOKENS_OUTPUT) == state.charged.output_tokens
        told = [r.attributes.get(names.CHARGED_INPUT, 0) for r in records if isinstance(r, SpanClosed)]
        assert sum(told) == state.charged.input_tokens  # type: ignore[arg-type]


def test_every_kind_of_event_is_told_or_known_to_say_nothing() -> None:
    silent = {
        facts.BudgetWarned,
        facts.BudgetUnchecked,
        facts.ArgumentsReplaced,
        facts.ApprovalRequested,
        facts.ApprovalGranted,
        facts.ApprovalDenied,
        facts.HumanAnswered,
        facts.AnswerRejected,
        facts.AnswerDropped,
        facts.OutputRejected,
    }
    assert set(get_args(AnyEvent)) == silent | set(TELLS)
    assert not silent & set(TELLS)


@pytest.mark.parametrize("events", GOLDEN, ids=IDS)
def test_in_whatever_parts_a_journal_comes_it_says_the_same(events: list[AnyEvent]) -> None:
    fold = fold_of(events)
    assert [r for event in events for r in fold.feed([event])] == said_of(events)


@pytest.mark.parametrize("events", GOLDEN, ids=IDS)
def test_what_was_missed_makes_no_half_spans(events: list[AnyEvent]) -> None:
    for lost in range(1, len(events)):
        fold, asked, records = fold_of(events), 0, list[Record]()
        for i, event in enumerate(events):
            if i != lost:
                records += fold.feed([event], asked)
            asked += isinstance(event, facts.ModelRequested)
        whole = {r.key for r in said_of(events) if isinstance(r, SpanOpened)}
        wrong = [p for p in problems(records) if "times" not in p and "no sitting" not in p]
        assert wrong == []
        assert {r.key for r in records if isinstance(r, SpanClosed)} <= whole


@pytest.mark.parametrize("content", [False, True], ids=["without content", "with content"])
def test_what_was_said_is_on_spans_only_where_it_is_asked_for(content: bool) -> None:
    found, on = list[str](), list[str]()
    for events in GOLDEN:
        texts = {part.text for part in events[0].prompt if isinstance(part, Text)}  # type: ignore[union-attr]
        for event in events:
            if isinstance(event, ModelAnswered):
                texts |= {part.text for part in event.parts if isinstance(part, Text) and len(part.text) > 3}
        records = said_of(events, content=content)
        values = " ".join([str(value) for r in records for value in r.attributes.values()])
        values += " ".join([r.detail for r in records if isinstance(r, SpanClosed)])
        found += [text for text in texts if text in values]
        on += [name for r in records for name in r.attributes if name in names.CONTENT]
    assert bool(found) == content
    assert set(on) == (set(names.CONTENT) if content else set())


@pytest.mark.parametrize("again", [False, True], ids=["once", "again"])
@pytest.mark.parametrize("events", GOLDEN, ids=IDS)
def test_wherever_a_process_dies_its_spans_are_told_once(events: list[AnyEvent], again: bool) -> None:
    for died in range(1, len(events)):
        before = events[:died]
        resumed = facts.RunResumed(fence=9, previous="dead", seq=died + 1, at=before[-1].at + 5)
        charged = facts.ModelAbandoned(charged=Charge(1, 1), reason="crashed", seq=died + 2, at=resumed.at)
        first = said_of(before)
        second = fold_of(events, past=before, again=again).feed([resumed, charged])
        opened = {r.key for r in first if isinstance(r, SpanOpened)}
        ended = {r.key for r in first if isinstance(r, SpanClosed)}
        told = Counter(r.key for r in second if isinstance(r, SpanClosed))
        assert set(told.values()) <= {1}
        assert opened <= ended | set(told), "what was under way is told by the one that goes on"
        if again:
            assert all([r.past for r in second if isinstance(r, SpanOpened) and r.key in opened])
            kept = said_of(before[: left_from(before)]) if left_from(before) else []
            left = ended - {r.key for r in kept if isinstance(r, SpanClosed)}
            assert told.keys() >= left, "and so is what had ended in the sittings that were left"
        else:
            assert not ended & set(told), "what had ended is not"
        assert total(second, names.SESSION_DURATION) == total(second, names.TOKEN_USAGE) == 0, (
            "nor measured again"
        )


# --- mutants ----------------------------------------------------------------------------------


class OnBoth(Fold):
    """Has what was used on the sitting's span, too."""

    used = 0

    def answered(self, event: ModelAnswered) -> None:
        self.used += event.usage.input_tokens or 0
        super().answered(event)

    def _close(self, span: Any, at: int, attributes: Any, *more: Any) -> None:
        if span.opened.operation == names.INVOKE_AGENT and self.used:
            attributes[names.INPUT_TOKENS] = self.used
        super()._close(span, at, attributes, *more)


class LeavesOpen(Fold):
    """Closes nothing that has no outcome."""

    def _close_all(self, at: int, error: str) -> None:
        self._lost()


@pytest.fixture
def with_mutants(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table calls what a mutant overrides."""
    for kind, tell in list(TELLS.items()):
        monkeypatch.setitem(TELLS, kind, lambda fold, event, name=tell.__name__: getattr(fold, name)(event))


def test_mutant_usage_on_two_levels_is_found(with_mutants: None) -> None:
    assert any([tokens_on(said_of(events, OnBoth)).keys() > {"chat"} for events in GOLDEN])


def test_mutant_a_span_that_stays_open_is_found(with_mutants: None) -> None:
    assert any([list(problems(said_of(events, LeavesOpen))) for events in GOLDEN])


# --- what single events mean ------------------------------------------------------------------


def numbered(*events: AnyEvent) -> list[AnyEvent]:
    from msgspec.structs import replace

    return [replace(event, seq=i + 1, at=1000 + 100 * i) for i, event in enumerate(events)]


def test_a_run_that_learns_counts_as_an_extraction() -> None:
    events = numbered(
        RunStarted(run_id="learn-1", tenant="acme", prompt=(), agent="a~learner"),
        facts.FactsLearned(added=("f1", "f2")),
        facts.RunEnded(status="completed"),
    )
    records = said_of(events)
    assert total(records, names.EXTRACT_INVOCATIONS) == 1
    assert total(records, names.EXTRACT_DURATION) == 200
    spans = [r for r in records if isinstance(r, SpanOpened)]
    assert [(span.name, span.at) for span in spans] == [
        ("invoke_agent a~learner", 1000),
        ("upsert_memory", 1000),
    ]


def test_the_time_in_which_nobody_drives_a_run_is_none_of_its_session() -> None:
    start = numbered(RunStarted(run_id="r", tenant="acme", prompt=()), facts.RunParked(reason="approval"))
    later = [
        facts.RunResumed(fence=2, previous="released", seq=3, at=900_000),
        facts.RunEnded(status="completed", seq=4, at=900_050),
    ]
    assert total(said_of([*start, *later]), names.SESSION_DURATION) == 150
    resumed = fold_of(start, past=start).feed(later)
    assert total(resumed, names.SESSION_DURATION) == 150
    assert [r.name for r in resumed if isinstance(r, SpanOpened)] == ["invoke_agent"], (
        "what paused ended well"
    )


def cut_chat(budget: bool, kind: type[Fold] = Fold) -> tuple[list[str], list[Any]]:
    """The errors of a model's attempt that a deadline cut, and of its duration."""
    given_up = (facts.ModelAbandoned(charged=Charge(1, 1), reason="cancelled"),) if budget else ()
    events = numbered(
        RunStarted(run_id="r", tenant="acme", prompt=()),
        facts.ModelRequested(ordinal=0, model="openai:gpt"),
        *given_up,
        facts.StopRequested(cause="timeout"),
        facts.RunEnded(status="stopped", stop_reason="timeout"),
    )
    records = said_of(events, kind)
    errors = [r.error for r in records if isinstance(r, SpanClosed) and r.error]
    return errors, lasted(records, names.OPERATION_DURATION, names.ERROR_TYPE)


def lasted(records: list[Record], metric: str, of: str) -> list[Any]:
    return [(r.attributes[of], r.value) for r in records if isinstance(r, Measured) and r.metric == metric]


@pytest.mark.parametrize("budget", [False, True])
def test_a_model_that_a_deadline_cut_says_how_long_it_took_and_why_with_a_budget_or_without(
    budget: bool,
) -> None:
    assert cut_chat(budget) == (["timeout"], [("timeout", 0.1)])


class LeavesOutTheSlowest(Fold):
    """A mutant: what was cut has no duration."""

    def _give_up(self, *given_up: Any) -> None:
        self._measured.off = True
        super()._give_up(*given_up)


def test_mutant_a_histogram_without_the_slowest_is_found() -> None:
    assert cut_chat(True, LeavesOutTheSlowest) != (["timeout"], [("timeout", 0.1)])


@pytest.mark.parametrize(
    ("cut", "outcome"),
    [
        ([facts.StopRequested(cause="timeout"), facts.RunEnded(status="stopped")], "timeout"),
        ([facts.ToolInDoubt(call_id="c1", reason="?"), facts.RunParked(reason="in_doubt")], "in_doubt"),
    ],
)
def test_a_call_that_was_cut_or_is_in_doubt_says_how_long_it_took(cut: list[AnyEvent], outcome: str) -> None:
    events = numbered(
        RunStarted(run_id="r", tenant="acme", prompt=()),
        facts.ModelRequested(ordinal=0, model="openai:gpt"),
        ModelAnswered(ordinal=0, parts=(ToolCall("pay", {}, "c1"),)),
        facts.ToolsJudged(calls=(facts.Judged("c1", "once"),)),
        facts.ToolAttempted(call_id="c1"),
        *cut,
    )
    (found,) = lasted(said_of(events), names.TOOL_DURATION, names.OUTCOME)
    assert found[0] == outcome
    assert found[1] >= 100


def test_a_run_that_others_drive_is_handed_over_and_not_interrupted() -> None:
    begun = numbered(RunStarted(run_id="r", tenant="acme", prompt=()))
    driven = [
        facts.RunResumed(fence=2, previous="expired", seq=2, at=1_200),
        facts.RunEnded(status="completed", seq=3, at=1_300),
    ]
    records = fold_of(begun, past=begun).feed(driven)
    assert [(r.error, r.attributes[names.STATUS]) for r in records if isinstance(r, SpanClosed)] == [
        ("", "running"),
        ("", "completed"),
    ]


def test_a_call_that_a_dead_process_left_in_doubt_is_counted_once() -> None:
    start = numbered(
        RunStarted(run_id="r", tenant="acme", prompt=()),
        facts.ModelRequested(ordinal=0, model="openai:gpt"),
        ModelAnswered(ordinal=0, parts=(ToolCall("pay", {}, "c1"),)),
        facts.ToolsJudged(calls=(facts.Judged("c1", "once"),)),
        facts.ToolAttempted(call_id="c1"),
    )
    later = [
        facts.RunResumed(fence=2, previous="dead", seq=6, at=9_000),
        facts.ToolInDoubt(call_id="c1", reason="?", seq=7, at=9_001),
        facts.RunParked(seq=8, at=9_002),
    ]
    records = fold_of(start, past=start).feed(later)
    assert total(records, names.IN_DOUBT) == 1
    assert total(records, names.RUNS_PARKED) == 1
    told = {r.key: r for r in records if isinstance(r, SpanOpened)}
    ended = [
        (told[r.key].name, told[r.key].past, r.error, told[r.key].at, r.at)
        for r in records
        if isinstance(r, SpanClosed)
    ]
    assert ended == [
        ("execute_tool pay", True, "interrupted", 1400, 1400),
        ("invoke_agent", True, "interrupted", 1000, 1400),
        ("invoke_agent", False, "", 9_000, 9_002),
    ]


def test_a_model_is_named_as_the_conventions_name_it() -> None:
    assert names.provider_and_model("openai:gpt-5") == ("openai", "gpt-5")
    assert names.provider_and_model("bedrock:eu.claude:0") == ("aws.bedrock", "eu.claude:0")
    assert names.provider_and_model("scripted") == ("scripted", "scripted")


def test_a_metric_names_so_many_and_then_others() -> None:
    users = Identities("user", 2)
    for name in ("alice", "bob"):
        assert users.of(Scope("acme", name)) == {"tenant_id": "acme", "user_id": name}
    for name in ("carol", "dave"):
        assert users.of(Scope("acme", name)) == {"tenant_id": "acme", "user_id": "other"}
    assert users.of(Scope("globex", "eve")) == {"tenant_id": "globex", "user_id": "other"}, (
        "a tenant with many users takes no other tenant's name"
    )
    assert users.of(Scope("third", "eve")) == {"tenant_id": "other", "user_id": "other"}
    assert users.of(Scope("third")) == {"tenant_id": "other"}
    assert users.of(Scope("~anon-77")) == {"tenant_id": "anonymous"}, (
        "who names nobody is not among the others"
    )
    assert users.of(Scope("acme", "alice")) == {"tenant_id": "acme", "user_id": "alice"}
    assert Identities("tenant", 2).of(Scope("acme", "alice")) == {"tenant_id": "acme"}
    assert Identities("none", 2).of(Scope("acme", "alice")) == {}


def keys_differ(key: Any = run_key) -> bool:
    """The law: runs of one id, in two stores or of two agents, have keys of their own."""
    first = RunStarted(run_id="r", tenant="acme", prompt=(), agent="sales", at=1000, trace="00-1-2-01")
    others = [
        RunStarted(run_id="r", tenant="acme", prompt=(), agent="billing", at=1000, trace="00-1-2-01"),
        RunStarted(run_id="r", tenant="acme", prompt=(), agent="sales", at=1000, trace="00-1-3-01"),
        RunStarted(run_id="r", tenant="acme", prompt=(), agent="sales", at=1001, trace=""),
        RunStarted(run_id="r2", tenant="acme", prompt=(), agent="sales", at=1000, trace="00-1-2-01"),
        RunStarted(run_id="r", tenant="b", prompt=(), agent="sales", at=1000, trace="00-1-2-01"),
    ]
    return len({key(each) for each in (first, first, *others)}) == 1 + len(others)


def test_a_key_is_of_one_run_and_of_no_other() -> None:
    assert keys_differ()


def test_mutant_a_key_of_the_tenant_and_the_id_alone_is_found() -> None:
    assert not keys_differ(lambda started: (started.tenant, started.run_id))


# --- through an agent -------------------------------------------------------------------------

PRICES = PriceTable({"scripted": price_usd(input=3, output=15)}, then=None)


def turn(*parts: Any, tokens: int = 10) -> ScriptedTurn:
    return ScriptedTurn(*parts, usage=Usage(input_tokens=tokens, output_tokens=1))


@tool(effect="read")
async def look(at: str) -> str:
    """Look."""
    return f"{at} seen"


def test_two_agents_that_run_one_id_at_once_keep_all_their_spans() -> None:
    telemetry = InMemoryTelemetry()

    def agent(name: str) -> Agent[Any, Any]:
        script = [turn(ToolCall("look", {"at": "sea"})), turn("done")]
        return Agent("", model=ScriptedModel(script), tools=[look], telemetry=telemetry, name=name)

    async def both() -> None:
        await asyncio.gather(*[agent(name).run("Go", run_id="r", **ALICE) for name in ("a", "a", "b")])

    asyncio.run(both())
    assert len(telemetry.spans) == 12
    assert telemetry.sum(names.TOKENS_INPUT) == 60
    assert telemetry.spool.failed == 0


def test_a_nested_run_is_under_the_call_that_made_it_and_counts_its_own_tokens() -> None:
    telemetry = InMemoryTelemetry(metric_identity="user")
    inner = Agent("In.", model=ScriptedModel([turn("inner", tokens=7)]), name="inner")
    outer = Agent(
        "Out.",
        model=ScriptedModel(
            [turn(ToolCall("ask_inner", {"input": "x"}), tokens=10), turn("done", tokens=20)]
        ),
        tools=[inner.as_tool(name="ask_inner", description="Ask.")],
        budget=StandardBudget(BudgetConfig(max_cost_usd=1), prices=PRICES),
        telemetry=telemetry,
        name="outer",
    )
    result = asyncio.run(outer.run("Go", **ALICE))
    spans = {span.key: span for span in telemetry.spans}
    root = next(span for span in spans.values() if span.name == "invoke_agent inner")
    assert spans[root.parent].name == "execute_tool ask_inner"
    assert spans[spans[root.parent].parent].name == "invoke_agent outer"
    assert root.attributes[names.ROOT_RUN] == result.run_id
    assert sum([span.attributes.get(names.INPUT_TOKENS, 0) for span in spans.values()]) == 37  # type: ignore[misc]
    assert telemetry.sum(names.TOKENS_INPUT) == 37
    assert telemetry.sum(names.TOKENS_INPUT, {names.AGENT: "inner", "user_id": "alice"}) == 7
    assert result.charged is not None
    assert telemetry.sum(names.COST_USD) == pytest.approx((result.charged.cost or 0) / 1e9, abs=1e-12)
    assert all([span.attributes["user_id"] == "alice" for span in spans.values()])
    assert handoff


def test_what_is_not_attempted_has_no_span() -> None:
    telemetry = InMemoryTelemetry(metric_prefix="loom")
    script = [turn(ToolCall("look", {"at": 5, "no": 1})), turn(ToolCall("unknown", {})), turn("done")]
    agent = Agent("Be brief.", model=ScriptedModel(script), tools=[look], telemetry=telemetry)
    asyncio.run(agent.run("Go", **ALICE))
    assert Counter(span.operation for span in telemetry.spans) == {"chat": 3, "invoke_agent": 1}
    assert telemetry.sum("loom.tokens.input") == 30
    assert telemetry.sum(names.TOKEN_USAGE, {names.TOKEN_TYPE: "input"}) == 30, "conventions keep their names"


def test_a_run_that_remembers_and_learns_has_spans_for_both() -> None:
    def answer(request: Any) -> Any:
        if "extract facts" not in request.instructions:
            return turn("What a lovely town.")
        fact = {
            "subject": "user",
            "predicate": "lives in",
            "object": "Turin",
            "single": True,
            "confidence": 0.95,
        }
        return turn(ToolCall("final_answer", {"facts": [fact]}))

    telemetry = InMemoryTelemetry()

    async def learned() -> None:
        memory = InMemoryMemory(embedder=None)
        agent = Agent(
            "",
            model=ScriptedModel([answer]),
            memory=memory,
            auto_extract=True,
            name="concierge",
            telemetry=telemetry,
        )
        async with agent:
            await agent.run("I have moved to Turin.", **ALICE)

    asyncio.run(learned())
    spans = {span.key: span for span in telemetry.spans}
    within = Counter((span.name, spans[span.parent].name if span.parent else "") for span in spans.values())
    assert within == {
        ("search_memory", "invoke_agent concierge"): 1,
        ("chat scripted", "invoke_agent concierge"): 1,
        ("upsert_memory", "invoke_agent concierge"): 1,
        ("invoke_agent concierge", ""): 1,
        ("chat scripted", "invoke_agent concierge~learner"): 1,
        ("upsert_memory", "invoke_agent concierge~learner"): 1,
        ("invoke_agent concierge~learner", ""): 1,
    }
    assert telemetry.sum(names.EXTRACT_INVOCATIONS) == 1
    assert [
        each.attributes[names.STATUS]
        for each in telemetry.measurements
        if each.metric == names.EXTRACT_DURATION
    ] == ["completed"]
