"""What goes over the wire: the official SDK and its exporter send it, the official protocol package reads it."""

from __future__ import annotations

import asyncio
import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from shipworthy import (
    Agent,
    BudgetConfig,
    OTelTelemetry,
    ScriptedModel,
    StandardBudget,
    ToolCall,
    tool,
)
from shipworthy.rules.telemetry import names
from tests.telemetry.test_spans import ALICE, PRICES, turn


class Collector(ThreadingHTTPServer):
    """Keeps the bodies that are posted to it, by path."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.posted: list[tuple[str, bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
        self.server.posted.append((self.path, body))
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def sent(collector: Collector) -> tuple[list[Span], dict[str, Any]]:
    """The spans and metrics of one run under a budget, as they were decoded."""
    of = Resource.create({"service.name": "bookings"})
    traces = TracerProvider(resource=of, shutdown_on_exit=False)
    traces.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{collector.url}/v1/traces")))
    reader = PeriodicExportingMetricReader(OTLPMetricExporter(f"{collector.url}/v1/metrics"))
    meters = MeterProvider([reader], resource=of, shutdown_on_exit=False)
    telemetry = OTelTelemetry(traces, meters, metric_identity="tenant")

    @tool(effect="once")
    async def pay(amount: int) -> str:
        """Pay."""
        raise RuntimeError("no answer")

    script = [turn(ToolCall("pay", {"amount": 5}), tokens=1000), turn("done", tokens=2000)]
    agent = Agent(
        "",
        model=ScriptedModel(script),
        tools=[pay],
        telemetry=telemetry,
        budget=StandardBudget(BudgetConfig(max_cost_usd=1), prices=PRICES),
        name="payer",
    )
    asyncio.run(agent.run("Pay", **ALICE))
    assert telemetry.flush(10)
    traces.shutdown()
    meters.shutdown()
    spans, metrics = list[Span](), dict[str, Any]()
    for path, body in collector.posted:
        if path == "/v1/traces":
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                assert resource.resource.attributes
                for scope in resource.scope_spans:
                    assert (scope.scope.name, scope.schema_url) == ("shipworthy", names.SCHEMA_URL)
                    spans.extend(scope.spans)
        else:
            for measured in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                for by_scope in measured.scope_metrics:
                    assert (by_scope.scope.name, by_scope.schema_url) == ("shipworthy", names.SCHEMA_URL)
                    metrics |= {metric.name: metric for metric in by_scope.metrics}
    return spans, metrics


def of(span: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}


def test_the_spans_of_a_run_arrive_as_a_tree(sent: tuple[list[Span], dict[str, Any]]) -> None:
    spans = {span.name: span for span in sent[0]}
    assert {name: span.kind for name, span in spans.items()} == {
        "chat scripted": Span.SPAN_KIND_CLIENT,
        "execute_tool pay": Span.SPAN_KIND_INTERNAL,
        "invoke_agent payer": Span.SPAN_KIND_INTERNAL,
    }
    root = spans["invoke_agent payer"]
    assert {span.parent_span_id for name, span in spans.items() if span is not root} == {root.span_id}
    assert len({span.trace_id for span in spans.values()}) == 1
    assert spans["execute_tool pay"].status.code == Status.STATUS_CODE_ERROR
    assert of(spans["execute_tool pay"])[names.ERROR_TYPE] == "in_doubt"
    for span in spans.values():
        assert (of(span)["tenant_id"], of(span)["user_id"]) == ("acme", "alice")
        assert "no answer" not in str(span), "what a body said is content"
    assert of(spans["chat scripted"])[names.INPUT_TOKENS] == 1000
    assert names.INPUT_TOKENS not in of(root)


def test_the_metrics_of_a_run_arrive_with_their_units(sent: tuple[list[Span], dict[str, Any]]) -> None:
    metrics = sent[1]
    units = {each.name: each.unit for each in names.INSTRUMENTS}
    assert {name: metric.unit for name, metric in metrics.items()} == {name: units[name] for name in metrics}

    def value(name: str) -> float:
        [point] = metrics[name].sum.data_points
        assert of(point)["tenant_id"] == "acme"
        return point.as_int or point.as_double  # type: ignore[no-any-return]

    assert value(names.TOKENS_INPUT) == 1000
    assert value(names.COST_USD) == pytest.approx(1000 * 3e-6 + 15e-6)
    assert value(names.IN_DOUBT) == value(names.RUNS_PARKED) == 1
    usage = {of(p)[names.TOKEN_TYPE]: p for p in metrics[names.TOKEN_USAGE].histogram.data_points}
    assert (usage["input"].sum, usage["output"].sum) == (1000, 1)
    buckets = next(each.buckets for each in names.INSTRUMENTS if each.name == names.TOKEN_USAGE)
    assert tuple(usage["input"].explicit_bounds) == buckets, "those that the conventions advise"
