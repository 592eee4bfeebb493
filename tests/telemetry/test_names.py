"""Names, units and attributes are a promise to dashboards: they stand here, on a page, in OpenTelemetry's package."""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import Histogram, InMemoryMetricReader, Sum
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv._incubating.metrics import gen_ai_metrics
from opentelemetry.semconv.attributes import error_attributes
from opentelemetry.semconv.schemas import Schemas
from opentelemetry.trace import NoOpTracerProvider

from shipworthy import Agent, OTelTelemetry, ScriptedModel
from shipworthy.rules.telemetry import names
from shipworthy.rules.telemetry.records import Measured, SpanClosed, SpanOpened
from tests.docs.test_reference import CODE, page, rows, sections
from tests.telemetry.test_spans import ALICE, GOLDEN, said_of, turn

METRICS = {
    "gen_ai.client.token.usage": ("histogram", "{token}"),
    "gen_ai.client.operation.duration": ("histogram", "s"),
    "shipworthy.session.duration_ms": ("histogram", "ms"),
    "shipworthy.tokens.input": ("counter", "{token}"),
    "shipworthy.tokens.output": ("counter", "{token}"),
    "shipworthy.cost.usd": ("counter", "{USD}"),
    "shipworthy.budget.exceeded": ("counter", "{event}"),
    "shipworthy.auto_extract.duration_ms": ("histogram", "ms"),
    "shipworthy.auto_extract.invocations": ("counter", "{run}"),
    "shipworthy.tool.duration_ms": ("histogram", "ms"),
    "shipworthy.runs.parked": ("counter", "{run}"),
    "shipworthy.in_doubt": ("counter", "{call}"),
}
SPANS = {
    "invoke_agent": "internal",
    "chat": "client",
    "execute_tool": "internal",
    "search_memory": "internal",
    "upsert_memory": "internal",
}
_ALL = "gen_ai.operation.name gen_ai.agent.name tenant_id user_id shipworthy.run.id shipworthy.span.key error.type"
ATTRIBUTES = {
    "invoke_agent": "gen_ai.provider.name gen_ai.request.model gen_ai.conversation.id user.id shipworthy.run.resumed"
    " shipworthy.run.root shipworthy.run.status shipworthy.run.stop_reason shipworthy.parked.reason"
    " gen_ai.system_instructions gen_ai.input.messages gen_ai.output.messages",
    "chat": "gen_ai.provider.name gen_ai.request.model gen_ai.response.model gen_ai.response.finish_reasons"
    " gen_ai.usage.input_tokens gen_ai.usage.output_tokens gen_ai.usage.cache_read.input_tokens"
    " gen_ai.usage.cache_creation.input_tokens gen_ai.usage.reasoning.output_tokens shipworthy.cost.usd"
    " shipworthy.charged.input_tokens shipworthy.charged.output_tokens shipworthy.model.purpose gen_ai.output.messages",
    "execute_tool": "gen_ai.tool.name gen_ai.tool.type gen_ai.tool.call.id shipworthy.tool.attempt"
    " shipworthy.tool.retries shipworthy.tool.effect shipworthy.tool.outcome"
    " gen_ai.tool.call.arguments gen_ai.tool.call.result",
    "search_memory": "shipworthy.memory.items",
    "upsert_memory": "shipworthy.memory.items",
}


def test_metrics_have_these_names_kinds_and_units() -> None:
    assert {each.name: (each.kind, each.unit) for each in names.INSTRUMENTS} == METRICS


def test_spans_have_these_names_kinds_and_attributes() -> None:
    assert names.KINDS == SPANS
    assert {op: set(of) for op, of in names.SPAN_ATTRIBUTES.items()} == {
        op: {*_ALL.split(), *of.split()} for op, of in ATTRIBUTES.items()
    }


def test_only_these_are_told() -> None:
    """And each of them by some run, but for those that no golden journal has a reason for."""
    spans: dict[str, set[str]] = defaultdict(set)
    metrics: dict[str, set[str]] = defaultdict(set)
    for events in GOLDEN:
        operations: dict[str, str] = {}
        for record in said_of(events, content=True):
            if isinstance(record, SpanOpened):
                operations[record.key] = record.operation
                assert record.name.split(" ")[0] == record.operation
            if isinstance(record, Measured):
                metrics[record.metric] |= record.attributes.keys()
            elif isinstance(record, (SpanOpened, SpanClosed)):
                spans[operations[record.key]] |= record.attributes.keys()
    for operation, attributes in spans.items():
        assert attributes <= set(names.SPAN_ATTRIBUTES[operation])  # type: ignore[index]
    for each in names.INSTRUMENTS:
        assert metrics[each.name] <= set(each.attributes)
    untold = {n for op, of in names.SPAN_ATTRIBUTES.items() for n in set(of) - spans[op]}
    assert untold <= {
        names.CACHE_READ_TOKENS,
        names.CACHE_WRITE_TOKENS,
        names.REASONING_TOKENS,
        names.ERROR_TYPE,
        names.RETRIES,
    }
    assert {each.name for each in names.INSTRUMENTS if not metrics[each.name]} <= {
        names.EXTRACT_DURATION,
        names.EXTRACT_INVOCATIONS,
    }


def test_the_sdk_exports_these_kinds_and_units() -> None:
    reader = InMemoryMetricReader()
    telemetry = OTelTelemetry(NoOpTracerProvider(), MeterProvider([reader], shutdown_on_exit=False))
    for each in names.INSTRUMENTS:
        telemetry._add[each.name](1, {})
    data = reader.get_metrics_data()
    assert data is not None
    kinds = {Histogram: "histogram", Sum: "counter"}
    scopes = [scope for resource in data.resource_metrics for scope in resource.scope_metrics]
    assert {(s.scope.name, s.scope.schema_url) for s in scopes} == {("shipworthy", names.SCHEMA_URL)}
    found = {m.name: (kinds[type(m.data)], m.unit) for s in scopes for m in s.metrics}  # type: ignore[index]
    assert found == METRICS


# --- the conventions --------------------------------------------------------------------------


def test_the_names_of_the_conventions_are_those_of_the_official_package() -> None:
    assert Schemas.V1_41_1.value == names.SCHEMA_URL
    ours = {value for value in vars(names).values() if isinstance(value, str) and value.startswith("gen_ai.")}
    official = {
        value
        for module in (gen_ai_attributes, gen_ai_metrics)
        for name, value in vars(module).items()
        if name.startswith("GEN_AI_")
    }
    assert len(ours) >= 20
    assert ours <= official
    assert names.ERROR_TYPE == error_attributes.ERROR_TYPE


# --- the page ---------------------------------------------------------------------------------


def drift(text: str) -> list[str]:
    """Where the page and the code differ."""
    parts = sections(text, 2)
    shown = {CODE.findall(row[0])[0]: row for row in rows(parts["Metrics"])}
    wrong = [f"metric {name}" for name in shown.keys() ^ {each.name for each in names.INSTRUMENTS}]
    for each in names.INSTRUMENTS:
        expected = [
            each.kind,
            f"`{each.unit}`",
            ", ".join([f"`{a}`" for a in each.attributes]),
            each.description,
        ]
        if each.name in shown and shown[each.name][1:] != expected:
            wrong.append(f"metric {each.name}: {expected}")
    kinds = {CODE.findall(row[0])[0].split(" ")[0]: row[1] for row in rows(parts["Spans"])}
    wrong += [
        f"span {op}" for op in kinds.keys() | names.KINDS.keys() if kinds.get(op) != names.KINDS.get(op)
    ]  # type: ignore[call-overload]
    on: dict[str, set[str]] = defaultdict(set)
    for row in rows(parts["Attributes of spans"].split("### Errors")[0]):
        for operation in names.KINDS if row[1] == "all" else CODE.findall(row[1]):
            on[operation].add(CODE.findall(row[0])[0])
    wrong += [f"attributes of {op}" for op, of in names.SPAN_ATTRIBUTES.items() if on[op] != set(of)]
    return wrong + ([] if f"**{names.VERSION}**" in text and names.SCHEMA_URL in text else ["the version"])


def test_the_page_has_every_span_metric_unit_and_attribute() -> None:
    assert drift(page("telemetry.md")) == []


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        (
            "| `shipworthy.in_doubt` | counter | `{call}` |",
            "| `shipworthy.in_doubt` | counter | `1` |",
            "metric shipworthy.in_doubt",
        ),
        ("| `chat {model}` | client |", "| `chat {model}` | internal |", "span chat"),
        (
            "| `shipworthy.cost.usd` | `chat` |",
            "| `shipworthy.cost.usd` | `invoke_agent` |",
            "attributes of chat",
        ),
        ("**1.41.1**", "**1.36.0**", "the version"),
    ],
)
def test_mutant_a_page_that_says_something_else_is_found(before: str, after: str, found: str) -> None:
    text = page("telemetry.md")
    assert before in text
    assert any([found in each for each in drift(text.replace(before, after))])


def test_no_name_stands_anywhere_else() -> None:
    """One module knows the conventions."""
    root = Path(__file__).parents[2] / "shipworthy"
    elsewhere = [
        path.relative_to(root)
        for path in root.rglob("*.py")
        if path.name != "names.py" and re.search(r"[\"']gen_ai\.", path.read_text(encoding="utf-8"))
    ]
    assert elsewhere == []


def test_a_run_with_a_prefix_measures_under_it() -> None:
    reader = InMemoryMetricReader()
    meters: Any = MeterProvider([reader], shutdown_on_exit=False)
    telemetry = OTelTelemetry(NoOpTracerProvider(), meters, metric_prefix="loom")
    asyncio.run(Agent("", model=ScriptedModel([turn("done")]), telemetry=telemetry).run("Go", **ALICE))
    assert telemetry.flush()
    data = reader.get_metrics_data()
    assert data is not None
    found = {m.name for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics}
    assert {name.partition(".")[0] for name in found} == {"gen_ai", "loom"}
