"""Through OpenTelemetry's SDK: what is current in a body, what an exporter that hangs does to a run, bad options."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import context as contexts
from opentelemetry import propagate, trace
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NoOpTracerProvider, SpanContext

from shipworthy import (
    Agent,
    ConsoleTelemetry,
    InMemoryTelemetry,
    OTelTelemetry,
    ScriptedModel,
    ScriptedTurn,
    StableIds,
    ToolCall,
    ask_human,
    tool,
)
from shipworthy.errors import ConfigurationError, ModelUnavailable
from shipworthy.rules.telemetry import names
from tests.telemetry.test_spans import ALICE, turn

CALLER = "00-0123456789abcdef0123456789abcdef-00f067aa0ba902b7-01"


def current() -> SpanContext:
    return trace.get_current_span().get_span_context()


class Seen:
    """A provider that keeps its spans, and an agent whose body and model say what was current in them."""

    def __init__(self, **options: Any) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False, **options)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.telemetry = OTelTelemetry(self.provider, NoOpMeterProvider())
        self.bodies: list[SpanContext] = []
        self.models: list[SpanContext] = []
        self.headers: list[str] = []

    def agent(self, **options: Any) -> Agent[Any, Any]:
        @tool(effect="read")
        async def look(at: str) -> str:
            """Look."""
            self.bodies.append(current())
            carrier: dict[str, str] = {}
            propagate.inject(carrier)
            self.headers.append(carrier.get("traceparent", ""))
            return f"{at} seen"

        @tool(effect="read")
        def peer(at: str) -> str:
            """Look, in a thread."""
            self.bodies.append(current())
            return f"{at} seen"

        def answer(request: Any) -> ScriptedTurn:
            self.models.append(current())
            return turn("done")

        calls = turn(ToolCall("look", {"at": "sea"}), ToolCall("peer", {"at": "sky"}))
        options = {"telemetry": self.telemetry, "name": "scout", **options}
        return Agent("Be brief.", model=ScriptedModel([calls, answer]), tools=[look, peer], **options)

    @property
    def spans(self) -> dict[str, ReadableSpan]:
        assert self.telemetry.flush(10)
        return {span.name: span for span in self.exporter.get_finished_spans()}


def run(agent: Agent[Any, Any], **who: Any) -> Any:
    return asyncio.run(agent.run("Go", **{**ALICE, **who}))


# --- context in and out -----------------------------------------------------------------------


def test_a_body_and_a_call_of_the_model_are_within_their_spans() -> None:
    seen = Seen()
    run(seen.agent())
    spans = seen.spans
    look, peer = spans["execute_tool look"].context, spans["execute_tool peer"].context
    assert {body.span_id for body in seen.bodies} == {look.span_id, peer.span_id}
    assert seen.headers == [f"00-{look.trace_id:032x}-{look.span_id:016x}-03"], "what a request would carry"
    assert [model.span_id for model in seen.models] == [spans["chat scripted"].context.span_id]
    root = spans["invoke_agent scout"].context
    assert {span.parent.span_id for span in spans.values() if span.parent} == {root.span_id}
    assert len({span.context.trace_id for span in spans.values()}) == 1


def test_the_run_is_within_the_span_that_the_caller_is_in() -> None:
    seen = Seen()
    agent = seen.agent()

    async def called() -> None:
        token = contexts.attach(propagate.extract({"traceparent": CALLER}))
        try:
            await agent.run("Go", **ALICE)
            assert f"{current().span_id:016x}" == "00f067aa0ba902b7", "and is in it still"
        finally:
            contexts.detach(token)

    asyncio.run(called())
    root = seen.spans["invoke_agent scout"]
    assert root.parent is not None
    assert f"{root.parent.span_id:016x}" == "00f067aa0ba902b7"
    assert f"{root.context.trace_id:032x}" == CALLER.split("-")[1]


def test_a_nested_run_is_within_the_call_that_made_it() -> None:
    seen = Seen()
    clerk = seen.agent(name="clerk", telemetry=None)
    script = [turn(ToolCall("clerk", {"input": "x"})), turn("done")]
    run(
        Agent("", model=ScriptedModel(script), tools=[clerk.as_tool()], telemetry=seen.telemetry, name="boss")
    )
    spans = seen.spans
    nested, call = spans["invoke_agent clerk"], spans["execute_tool clerk"]
    assert nested.parent is not None
    assert nested.parent.span_id == call.context.span_id
    assert len({span.context.trace_id for span in spans.values()}) == 1


def test_a_run_that_goes_on_is_linked_to_the_trace_that_it_began_in() -> None:
    seen = Seen()

    @tool(effect="read")
    async def ask(what: str) -> str:
        """Ask."""
        return str(await ask_human(what))

    script = [turn(ToolCall("ask", {"what": "?"})), turn("done")]
    agent = Agent("", model=ScriptedModel(script), tools=[ask], telemetry=seen.telemetry, name="boss")

    async def paused() -> None:
        result = await agent.run("Go", **ALICE)
        await agent.resume(result.checkpoint, answer="yes")

    asyncio.run(paused())
    assert seen.telemetry.flush()
    first, second = [span for span in seen.exporter.get_finished_spans() if span.name == "invoke_agent boss"]
    assert first.context.trace_id != second.context.trace_id
    assert [link.context for link in second.links] == [
        SpanContext(first.context.trace_id, first.context.span_id, True, first.context.trace_flags)
    ]
    assert dict(first.attributes or {})[names.STATUS] == "paused"


def test_what_is_not_sampled_is_propagated_all_the_same() -> None:
    seen = Seen(sampler=ALWAYS_OFF)
    run(seen.agent())
    assert seen.spans == {}
    assert seen.headers[0].startswith("00-")
    assert seen.headers[0].endswith(("-00", "-02")), "with the flag that says so"


def test_a_failed_call_has_an_error_and_says_nothing_of_what_was_said() -> None:
    seen = Seen()
    secret = ModelUnavailable("The prompt was 4711.")
    run(Agent("", model=ScriptedModel([secret, turn("done")]), telemetry=seen.telemetry), tenant_id="acme")
    assert seen.telemetry.flush()
    failed = seen.exporter.get_finished_spans()[0]
    assert failed.status.status_code is trace.StatusCode.ERROR
    assert dict(failed.attributes or {})[names.ERROR_TYPE] == "ModelUnavailable"
    assert "4711" not in failed.to_json()


def test_runs_of_one_id_in_one_trace_have_ids_of_their_own_and_others_have_random_ones() -> None:
    def ids_of(name: str) -> set[int]:
        seen = Seen(id_generator=StableIds())
        token = contexts.attach(propagate.extract({"traceparent": CALLER}))
        try:
            run(seen.agent(name=name), run_id="r")
        finally:
            contexts.detach(token)
        return {span.context.span_id for span in seen.spans.values()}

    found = [ids_of(name) for name in ("sales", "sales", "billing")]  # each in a store of its own
    assert len(found[0]) == 4
    assert len(set.union(*found)) == 12
    tracer = TracerProvider(id_generator=StableIds(), shutdown_on_exit=False).get_tracer("another")  # type: ignore[arg-type]
    assert len({tracer.start_span("x").get_span_context().span_id for _ in range(9)}) == 9


def test_no_span_begins_before_the_one_that_it_is_in_or_ends_after_it() -> None:
    seen = Seen()
    clerk = seen.agent(name="clerk", telemetry=None)
    script = [turn(ToolCall("clerk", {"input": "x"})), turn("done")]
    boss = Agent(
        "", model=ScriptedModel(script), tools=[clerk.as_tool()], telemetry=seen.telemetry, name="boss"
    )
    with seen.provider.get_tracer("web").start_as_current_span("POST"):
        run(boss)
    assert seen.telemetry.flush(10)
    spans = {span.context.span_id: span for span in seen.exporter.get_finished_spans()}
    within = [(span, spans[span.parent.span_id]) for span in spans.values() if span.parent]
    assert len(within) == len(spans) - 1
    for span, around in within:
        assert around.start_time <= span.start_time <= span.end_time <= around.end_time, span.name  # type: ignore[operator]


# --- exporters that hang ----------------------------------------------------------------------


class Hangs(SpanProcessor):
    """Takes spans, and lets go of none before it is told to; says on which threads it was."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.threads: set[int] = set()
        self.ended: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.threads.add(threading.get_ident())
        if threading.get_ident() != MAIN:
            self.go_on.wait(30)
        self.ended.append(span)


MAIN = threading.get_ident()


@pytest.fixture
def hanging() -> Iterator[Hangs]:
    processor = Hangs()
    yield processor
    processor.go_on.set()


def observed(processor: Hangs, kind: type[OTelTelemetry] = OTelTelemetry, **options: Any) -> OTelTelemetry:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor)
    return kind(provider, NoOpMeterProvider(), **options)


def never_on_the_loop(processor: Hangs, telemetry: OTelTelemetry) -> bool:
    """The law: an exporter is asked on no thread that drives runs, and runs do not wait for it."""
    agent = Agent("", model=ScriptedModel([turn("done")]), telemetry=telemetry)
    for _ in range(5):
        run(agent)
    processor.go_on.set()
    telemetry.flush(10)
    return MAIN not in processor.threads


def test_an_exporter_that_hangs_keeps_no_run_waiting(hanging: Hangs) -> None:
    telemetry = observed(hanging)
    assert never_on_the_loop(hanging, telemetry)
    assert len(hanging.ended) == 10
    assert telemetry.dropped == 0


class OnTheLoop(OTelTelemetry):
    """A mutant: does the work where the run is."""

    def __init__(self, *providers: Any, **options: Any) -> None:
        super().__init__(*providers, **options)
        self.spool.put = lambda job: self._work(job) or True  # type: ignore[method-assign, func-returns-value]


def test_mutant_an_exporter_that_is_called_on_the_loop_is_found(hanging: Hangs) -> None:
    assert not never_on_the_loop(hanging, observed(hanging, OnTheLoop))


def test_what_does_not_fit_is_counted_and_no_span_is_half(
    hanging: Hangs, caplog: pytest.LogCaptureFixture
) -> None:
    telemetry = observed(hanging, queue=3)
    agent = Agent("", model=ScriptedModel([turn("done")]), telemetry=telemetry)
    with caplog.at_level(logging.WARNING, "shipworthy"):
        for _ in range(10):
            run(agent)
    assert not telemetry.flush(0.01)
    assert telemetry.dropped > 0
    assert len([r for r in caplog.records if "drops what it is told" in r.message]) == 1
    hanging.go_on.set()
    assert telemetry.flush(10)
    assert hanging.ended, "what was on its way arrives"
    for span in hanging.ended:
        attributes = dict(span.attributes or {})
        assert {names.KEY, names.RUN, "tenant_id", "user_id"} <= attributes.keys()
        assert span.end_time is not None


def test_an_exporter_that_raises_is_logged_once_and_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    class Raises(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            raise OSError("no route")

    telemetry = observed(Raises())  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING, "shipworthy"):
        for _ in range(3):
            assert run(Agent("", model=ScriptedModel([turn("done")]), telemetry=telemetry)).value == "done"
        assert telemetry.flush(10)
    assert telemetry.spool.failed > 1
    assert len([r for r in caplog.records if "no route" in r.message]) == 1


def test_a_processor_that_raises_where_a_span_begins_harms_no_run_and_no_metric() -> None:
    class Raises(SpanProcessor):
        def on_start(self, span: Any, parent_context: Any = None) -> None:
            raise OSError("no room")

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(Raises())
    reader = InMemoryMetricReader()
    telemetry = OTelTelemetry(provider, MeterProvider([reader], shutdown_on_exit=False))
    assert run(Agent("", model=ScriptedModel([turn("done")]), telemetry=telemetry)).value == "done"
    assert telemetry.flush(10)
    data = reader.get_metrics_data()
    assert data is not None
    metrics = {m.name: m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics}
    assert metrics[names.TOKENS_INPUT].data.data_points[0].value == 10
    assert names.SESSION_DURATION in metrics


def test_what_is_closed_takes_no_more() -> None:
    telemetry = InMemoryTelemetry()
    agent = Agent("", model=ScriptedModel([turn("done")]), telemetry=telemetry)
    run(agent)
    assert telemetry.close()
    run(agent)
    assert len(telemetry.spans) == 2
    assert telemetry.dropped > 0


# --- providers and options --------------------------------------------------------------------


def test_providers_that_do_nothing_are_enough() -> None:
    telemetry = OTelTelemetry(NoOpTracerProvider(), NoOpMeterProvider())
    agent = Agent("", model=ScriptedModel([turn("done")]), telemetry=telemetry)
    assert run(agent).value == "done"
    assert telemetry.flush(10)
    assert telemetry.spool.failed == 0


def test_the_global_providers_are_taken_where_none_are_given() -> None:
    assert run(Agent("", model=ScriptedModel([turn("done")]), telemetry=OTelTelemetry())).value == "done"


def test_a_global_provider_that_is_set_after_telemetry_is_made_is_taken_with_its_ids() -> None:
    code = """
import asyncio
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
import shipworthy
telemetry = shipworthy.OTelTelemetry()
provider = TracerProvider(id_generator=shipworthy.StableIds())
provider.add_span_processor(BatchSpanProcessor(ConsoleSpanExporter()))
trace.set_tracer_provider(provider)
asyncio.run(shipworthy.Agent("", model=shipworthy.mock("x"), telemetry=telemetry).run("Go", tenant_id="acme"))
assert telemetry.ids is provider.id_generator
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert '"name": "invoke_agent agent"' in done.stdout


def test_metrics_name_whom_they_are_told_to_and_are_named_as_they_are_told_to() -> None:
    reader = InMemoryMetricReader()
    meters = MeterProvider([reader], shutdown_on_exit=False)
    telemetry = OTelTelemetry(
        NoOpTracerProvider(), meters, metric_prefix="loom", metric_identity="user", metric_identities=2
    )
    agent = Agent("", model=ScriptedModel([turn("done")]), telemetry=telemetry)
    for user in ("alice", "bob", "carol", "dave"):
        run(agent, user_id=user)
    assert telemetry.flush(10)
    data = reader.get_metrics_data()
    assert data is not None
    metrics = {m.name: m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics}
    assert {"loom.tokens.input", "loom.session.duration_ms", "gen_ai.client.token.usage"} <= metrics.keys()
    points = metrics["loom.tokens.input"].data.data_points
    assert {p.attributes["user_id"]: p.value for p in points} == {"alice": 10, "bob": 10, "other": 20}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"metric_identity": "everybody"}, "metric_identity is 'everybody'"),
        ({"metric_prefix": "1 space"}, "metric_prefix is '1 space'"),
        ({"metric_identities": 0}, "metric_identities is 0"),
        ({"queue": True}, "queue is True"),
        ({"capture_content": "false"}, "capture_content is 'false'"),
    ],
)
def test_bad_options_are_named_with_their_fix(options: dict[str, Any], words: str) -> None:
    for kind in (OTelTelemetry, InMemoryTelemetry, ConsoleTelemetry):
        with pytest.raises(ConfigurationError, match=words):
            kind(**options)


def test_what_is_left_when_a_process_ends_is_told_before_the_exporter_ends() -> None:
    code = """
import asyncio
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
import shipworthy
provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(ConsoleSpanExporter()))
telemetry = shipworthy.OTelTelemetry(provider, NoOpMeterProvider())
asyncio.run(shipworthy.Agent("", model=shipworthy.mock("x"), telemetry=telemetry).run("Go", tenant_id="acme"))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert '"name": "invoke_agent agent"' in done.stdout
    assert '"name": "chat mock"' in done.stdout


def test_a_forked_child_tells_of_its_own_runs() -> None:
    code = """
import asyncio, os, warnings
warnings.simplefilter("ignore")
import shipworthy
telemetry = shipworthy.InMemoryTelemetry()
def run():
    agent = shipworthy.Agent("", model=shipworthy.mock("x"), telemetry=telemetry)
    asyncio.run(agent.run("Go", tenant_id="acme"))
    assert telemetry.flush(5)
run()
child = os.fork()
if not child:
    telemetry.clear()
    run()
    os._exit(0 if len(telemetry.spans) == 2 else 1)
assert os.waitpid(child, 0)[1] == 0
assert len(telemetry.spans) == 2
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_without_the_extra_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "import shipworthy\n"
        "shipworthy.InMemoryTelemetry(), shipworthy.ConsoleTelemetry()\n"
        "try: shipworthy.OTelTelemetry\n"
        "except shipworthy.errors.MissingExtra as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert 'pip install "shipworthy[otel]"' in done.stdout, done.stderr


def test_what_is_no_provider_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="tracer_provider is 'otlp'"):
        OTelTelemetry("otlp")
    with pytest.raises(ConfigurationError, match="has no get_meter"):
        OTelTelemetry(None, TracerProvider(shutdown_on_exit=False))


def test_the_console_has_a_line_for_every_span(capsys: pytest.CaptureFixture[str]) -> None:
    telemetry = ConsoleTelemetry(measurements=True)
    seen = Seen()
    run(seen.agent(telemetry=telemetry), run_id="r-1")
    assert telemetry.flush(10)
    lines = capsys.readouterr().err.splitlines()
    spans = [line.split(" ms ")[0].split(None, 1)[1] for line in lines if " ms " in line]
    assert [span.rsplit(None, 1)[0] for span in spans] == [
        "chat scripted",
        "execute_tool look",
        "execute_tool peer",
        "chat scripted",
        "invoke_agent scout",
    ]
    assert any(["in 10 out 1 tool_calls  acme/alice r-1" in line for line in lines])
    assert "\x1b" not in "".join(lines), "no colours where no terminal is"
    assert any([line.startswith("shipworthy.tokens.input 10") for line in lines])
