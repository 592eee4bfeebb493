"""A run loses its journal at any of its commits, and goes on in the same process: every span is told, and told once."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import Any

import pytest
from msgspec.structs import replace
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from shipworthy import (
    Agent,
    BudgetConfig,
    InMemoryRuntime,
    InMemoryTelemetry,
    OTelTelemetry,
    Scope,
    ScriptedModel,
    StableIds,
    StandardBudget,
    ToolCall,
    tool,
)
from shipworthy.errors import StoreError, StoreUnavailable
from shipworthy.rules.state import replay
from shipworthy.rules.telemetry import names
from shipworthy.rules.telemetry.records import SpanClosed
from shipworthy.testing.faults import Point, Points
from tests.telemetry.test_spans import ALICE, PRICES, said_of, turn

ACME = Scope("acme", "alice")


def fail(point: Point) -> None:
    raise StoreUnavailable(f"Gone {point}.")


async def went_on(telemetry: Any, at: Point | None) -> tuple[list[Any], list[Point]]:
    """The journal of a run that lost its store at this point, and was resumed; and what points there were."""

    @tool(effect="idempotent")
    async def pay(amount: int) -> str:
        """Pay."""
        return "paid"

    script = [turn(ToolCall("pay", {"amount": 5})), turn(ToolCall("pay", {"amount": 6})), turn("done")]
    runtime, points = InMemoryRuntime(), Points(at, fail)
    points.watch(runtime)
    agent = Agent(
        "",
        model=ScriptedModel(script),
        tools=[pay],
        runtime=runtime,
        telemetry=telemetry,
        budget=StandardBudget(BudgetConfig(max_cost_usd=1), prices=PRICES),
    )
    with contextlib.suppress(StoreError):
        await agent.run("Go", run_id="r", **ALICE)
    points.at = None
    result = await agent.run("Go", run_id="r", **ALICE)
    if result.status != "completed":
        result = await agent.resume("r", tenant_id="acme")
    assert result.status == "completed"
    return list(await runtime.store.read(ACME, "r")), points.reached


async def commits() -> list[Point]:
    _, reached = await went_on(InMemoryTelemetry(), None)
    return [point for point in reached if point.kind == "commit"]


def expected(events: list[Any]) -> Counter[str]:
    return Counter(r.key for r in said_of(events) if isinstance(r, SpanClosed))


def test_a_run_that_loses_its_journal_and_goes_on_has_every_span_once() -> None:
    async def all_of_them() -> None:
        points = await commits()
        assert len(points) > 10
        for point in points:
            telemetry = InMemoryTelemetry()
            events, _ = await went_on(telemetry, point)
            keys = Counter(span.key for span in telemetry.spans)
            assert set(keys.values()) == {1}, point
            assert keys.keys() <= expected(events).keys(), point
            if point.side == "before":  # what was not written is known to nobody; the rest is told
                assert keys == expected(events), point
                state = replay(events)
                assert state.charged is not None
                assert telemetry.sum(names.TOKENS_INPUT) == state.charged.input_tokens, point

    asyncio.run(all_of_them())


def test_with_stable_ids_also_what_was_written_and_not_acknowledged_is_told() -> None:
    async def all_of_them() -> None:
        for point in (await commits())[
            :-1
        ]:  # after the last one the run has ended, and nobody goes on with it
            exporter = InMemorySpanExporter()
            provider = TracerProvider(id_generator=StableIds(), shutdown_on_exit=False)
            provider.add_span_processor(SimpleSpanProcessor(exporter))
            telemetry = OTelTelemetry(provider, NoOpMeterProvider())
            events, _ = await went_on(telemetry, point)
            assert telemetry.flush(10)
            spans = exporter.get_finished_spans()
            ids = {
                (s.context.trace_id, s.context.span_id): str((s.attributes or {})[names.KEY]) for s in spans
            }
            assert Counter(ids.values()) == expected(events), point

    asyncio.run(all_of_them())


@pytest.mark.parametrize("side", ["before", "after"])
def test_the_last_sitting_of_every_run_says_how_it_ended(side: Any) -> None:
    async def ended() -> None:
        telemetry = InMemoryTelemetry()
        await went_on(telemetry, Point("commit", 4, side))
        roots = [span for span in telemetry.spans if span.operation == names.INVOKE_AGENT]
        assert [(root.attributes[names.STATUS], root.error) for root in roots] == [
            ("running", "interrupted"),
            ("completed", ""),
        ]

    asyncio.run(ended())


async def nested_went_on(kind: type[OTelTelemetry], at: Point | None) -> tuple[list[Any], list[Point]]:
    """The spans of a run, and of one nested in it, that lost their store at this point and were resumed."""

    @tool(effect="read")
    async def look(at: str) -> str:
        """Look."""
        return at

    exporter = InMemorySpanExporter()
    provider = TracerProvider(id_generator=StableIds(), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    telemetry = kind(provider, NoOpMeterProvider())
    runtime, points = InMemoryRuntime(), Points(at, fail)
    points.watch(runtime)
    inner = ScriptedModel([turn(ToolCall("look", {"at": "sea"})), turn("seen")])
    clerk = Agent("", model=inner, tools=[look], name="clerk")
    outer = ScriptedModel([turn(ToolCall("clerk", {"input": "x"})), turn("done")])
    boss = Agent("", model=outer, tools=[clerk.as_tool()], runtime=runtime, telemetry=telemetry, name="boss")
    with contextlib.suppress(StoreError):
        await boss.run("Go", run_id="r", **ALICE)
    points.at = None
    if (await boss.run("Go", run_id="r", **ALICE)).status != "completed":
        await boss.resume("r", tenant_id="acme")
    assert telemetry.flush(10)
    return list(exporter.get_finished_spans()), points.reached


def astray(spans: list[Any]) -> list[str]:
    """Spans that have lost what they are in, or the run's first trace."""
    ids = {span.context.span_id for span in spans}
    lost = [
        s.name
        for s in spans
        if s.name != "invoke_agent boss" and (not s.parent or s.parent.span_id not in ids)
    ]
    resumed = [s for s in spans if (s.attributes or {}).get(names.RESUMED)]
    return [*lost, *[s.name for s in resumed if not s.links]]


class Unlinked(OTelTelemetry):
    """A mutant: a sitting that is told again is nowhere, and linked to nothing."""

    def again(self, opened: Any, of: Any, call: Any) -> Any:
        return super().again(replace(opened, link=""), of, None)


def test_a_nested_sitting_that_is_told_again_is_in_the_call_that_made_it() -> None:
    async def all_of_them() -> None:
        _, reached = await nested_went_on(OTelTelemetry, None)
        points = [point for point in reached if point.kind == "commit" and point.side == "before"]
        assert len(points) > 4
        found = list[str]()
        for point in points:
            spans, _ = await nested_went_on(OTelTelemetry, point)
            assert astray(spans) == [], point
            found += astray((await nested_went_on(Unlinked, point))[0])
        assert "invoke_agent clerk" in found, "and a mutant is found"

    asyncio.run(all_of_them())
