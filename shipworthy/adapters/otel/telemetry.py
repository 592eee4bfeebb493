"""Runs as OpenTelemetry spans and metrics, through the user's own providers.

Spans begin on the event loop, so that what a body does is within them; they end, with their attributes, on the thread
of a spool, where an exporter may hang. What begins here begins by the clock, finer than the journal's milliseconds.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from opentelemetry import context as contexts
from opentelemetry import metrics as metrics_api
from opentelemetry import trace as trace_api
from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NoOpTracer,
    ProxyTracerProvider,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
)

from shipworthy.adapters.otel.ids import StableIds, span_id
from shipworthy.adapters.otel.tracing import Current, context_of, names_in, within
from shipworthy.adapters.shared.spool import at_exit_first
from shipworthy.adapters.shared.telemetry import NOTHING, Telemetry, Watch, told_of
from shipworthy.domain.events import (
    AnyEvent,
    ModelAnswered,
    ModelRequested,
    RunResumed,
    RunStarted,
    ToolAttempted,
)
from shipworthy.domain.messages import ToolCall
from shipworthy.errors import ConfigurationError
from shipworthy.ports.readers import Sight
from shipworthy.rules.telemetry import names
from shipworthy.rules.telemetry.records import Attributes, Measured, Record, SpanClosed, SpanOpened
from shipworthy.rules.telemetry.spans import Fold

MOST_BEGUN = 1024
"""Runs that may be about to begin at once: for each there is a span, and not yet a sitting that it is of."""
MOST_CALLED = 1024
"""Calls that are remembered of sittings that were told again: nested runs of theirs may be, too."""
_KINDS = {"internal": SpanKind.INTERNAL, "client": SpanKind.CLIENT}
_MS = 1_000_000


class OTelTelemetry(Telemetry):
    """Exports spans and metrics of runs through *tracer_provider* and *meter_provider*: those that are set globally,
    unless others are given.

    `capture_content`: prompts, answers, arguments and results are attributes, too. `metric_prefix` stands in place of
    "shipworthy" in the names of our metrics. `metric_identity`: metrics name the "tenant", or tenant and "user", for
    the first `metric_identities` of them. `queue`: so many commits wait for an exporter that is slow. Raises
    ConfigurationError.
    """

    def __init__(self, tracer_provider: Any = None, meter_provider: Any = None, **options: Any) -> None:
        super().__init__(**options)
        traces = trace_api.get_tracer_provider() if tracer_provider is None else tracer_provider
        meters = metrics_api.get_meter_provider() if meter_provider is None else meter_provider
        for name, provider, method in (
            ("tracer_provider", traces, "get_tracer"),
            ("meter_provider", meters, "get_meter"),
        ):
            if not callable(getattr(provider, method, None)):
                raise ConfigurationError(
                    f"{name} is {provider!r}, which has no {method}().",
                    fix=f"Give an OpenTelemetry {'Tracer' if method == 'get_tracer' else 'Meter'}Provider.",
                )
        self._take(traces)
        self.measures = not isinstance(meters, metrics_api.NoOpMeterProvider)
        self._add: Mapping[str, Any] = self._instruments(meters) if self.measures else {}
        self._begun: OrderedDict[str, tuple[Span, int]] = OrderedDict()
        self._called: OrderedDict[tuple[str, ...], list[tuple[int, SpanContext]]] = OrderedDict()

    def _take(self, traces: Any) -> None:
        """Have this provider's tracer. The global one may be still to come."""
        self._to_come = isinstance(traces, ProxyTracerProvider)
        self.tracer: trace_api.Tracer = traces.get_tracer(names.SCOPE, schema_url=names.SCHEMA_URL)
        self.silent = isinstance(self.tracer, NoOpTracer)  # its spans are those that they are in
        ids = getattr(traces, "id_generator", None)
        self.ids: StableIds | None = ids if isinstance(ids, StableIds) else None

    def _look(self) -> None:
        """Whether the global provider has come."""
        traces = trace_api.get_tracer_provider()
        if not isinstance(traces, ProxyTracerProvider):
            self._take(traces)
            at_exit_first()

    def _instruments(self, meters: Any) -> dict[str, Any]:
        """What records a value for each metric."""
        meter = meters.get_meter(names.SCOPE, schema_url=names.SCHEMA_URL)
        found: dict[str, Any] = {}
        for each in names.INSTRUMENTS:
            name = names.prefixed(each.name, self.metric_prefix)
            if each.kind == "counter":
                found[each.name] = meter.create_counter(name, each.unit, each.description).add
            else:
                found[each.name] = meter.create_histogram(
                    name, each.unit, each.description, explicit_bucket_boundaries_advisory=each.buckets
                ).record
        return found

    # the port

    def trace(self) -> str:
        """Begin the span of a sitting: in the caller's trace, or in a new one."""
        if self._to_come:
            self._look()
        now = time.time_ns()
        span = self.begin(names.INVOKE_AGENT, None, SpanKind.INTERNAL, _NAMELESS, now)
        of = span.get_span_context()
        if not of.is_valid:
            return ""
        parent = f"00-{of.trace_id:032x}-{of.span_id:016x}-{int(of.trace_flags) & 0xFF:02x}"
        self._begun[parent] = (span, now)
        if len(self._begun) > MOST_BEGUN:  # it never came to a sitting
            self._begun.popitem(last=False)
        return parent

    def sitting(self, sight: Sight) -> OTelWatch:
        """Observe a sitting."""
        if self._to_come:
            self._look()
        fold = self.fold(told_of(sight), sight, measures=self.measures, again=self.ids is not None)
        return OTelWatch(self, sight, fold)

    # spans

    def begun(self, trace: str) -> tuple[Span, int] | None:
        """The span that was begun for a run, or a sitting, with this trace, and when."""
        return self._begun.pop(trace, None)

    def begin(
        self,
        name: str,
        context: Context | None,
        kind: SpanKind,
        attributes: Attributes,
        at: int,
        key: str = "",
        links: Sequence[Link] = (),
    ) -> Span:
        """Begin a span, at *at* nanoseconds since the Unix epoch."""
        if self.ids is None or not key:
            return self.tracer.start_span(name, context, kind, attributes, links, at)
        self.ids.give(span_id(trace_api.get_current_span(context).get_span_context().trace_id, key))
        try:
            return self.tracer.start_span(name, context, kind, attributes, links, at)
        finally:
            self.ids.give(0)

    def again(self, opened: SpanOpened, of: SpanContext, call: SpanContext | None) -> Span:
        """Begin the span of a sitting that was left: itself, if it can be, or one within it. *call*: the one that it is
        in, where it is of a nested run."""
        first = context_of(opened.link)
        links = () if first is None else (Link(first),)
        at, kind = opened.at * _MS, SpanKind.INTERNAL
        if self.ids is None:
            return self.begin(opened.name, within(of), kind, opened.attributes, at, links=links)
        around = Context() if call is None or call.trace_id != of.trace_id else within(call)
        self.ids.give(of.span_id, of.trace_id)
        try:
            return self.tracer.start_span(opened.name, around, kind, opened.attributes, links, at)
        finally:
            self.ids.give(0)

    def called(self, call: tuple[str, ...], at: int, span: Span) -> None:
        """An attempt of this call was told again."""
        self._called.setdefault(call, []).append((at, span.get_span_context()))
        if len(self._called) > MOST_CALLED:
            self._called.popitem(last=False)

    def attempt_of(self, call: tuple[str, ...], at: int) -> SpanContext | None:
        """The attempt of this call, of those that were told again, that was under way at *at* milliseconds."""
        found = [span for since, span in self._called.get(call, ()) if since <= at]
        return found[-1] if found else None

    # on the spool's thread

    def told(self, watch: Watch, records: list[Record]) -> None:
        assert isinstance(watch, OTelWatch)
        failed: BaseException | None = None
        for record in records:
            kind = type(record)
            try:
                if kind is Measured:
                    self._add[record.metric](record.value, record.attributes)  # type: ignore[union-attr]
                elif self.silent:
                    pass
                elif kind is SpanClosed:
                    watch.closed(record)  # type: ignore[arg-type]
                else:
                    watch.opened(record)  # type: ignore[arg-type]
            except BaseException as error:  # of a processor or an exporter of the user's
                failed = failed or error
        if failed is not None:
            raise failed


class OTelWatch(Watch):
    """One sitting. `spans`: those that began and did not end, and when, 0 for those that are told again; the loop adds
    to them, the spool's thread takes away."""

    def __init__(self, telemetry: OTelTelemetry, sight: Sight, fold: Fold) -> None:
        super().__init__(telemetry, sight, fold)
        self._telemetry, self._told = telemetry, fold.told
        self._around = self._within = contexts.get_current()
        self.spans: dict[str, tuple[Span, int]] = {}
        self._since = 0
        self._pasts: dict[str, Context] = {}
        self._attempts: dict[str, Span] = {}
        self._names = names_in(sight.past)
        self._entered = self.asked

    # on the loop

    def saw(self, events: Sequence[AnyEvent]) -> None:
        """Begin what began, and have the rest done elsewhere."""
        asked = self.asked
        try:
            if self._telemetry.silent:
                self.count(events)
            else:
                self._begin_spans(events)
        finally:
            self._spool.put((self, events, asked, time.time_ns()))

    def _begin_spans(self, events: Sequence[AnyEvent]) -> None:
        for event in events:
            kind = type(event)
            if kind is ModelRequested:
                self.asked += 1
                if self.asked > self._entered:
                    self._ask(self.asked, event.model)  # type: ignore[union-attr]
            elif kind is ToolAttempted:
                self._attempt(event)  # type: ignore[arg-type]
            elif kind is ModelAnswered:
                self._attempts = {}
                self._names = {
                    part.call_id: part.name
                    for part in event.parts  # type: ignore[union-attr]
                    if type(part) is ToolCall
                }
            elif kind is RunStarted or kind is RunResumed:
                self._begin(event)  # type: ignore[arg-type]

    def around(self, call_id: str | None) -> AbstractContextManager[None]:
        """The span of this call, of the model's next attempt, or of the sitting, is the current one."""
        if self._telemetry.silent:
            return NOTHING
        span: Span | None
        if call_id is None:
            span = trace_api.get_current_span(self._within)
        elif call_id:
            span = self._attempts.get(call_id)
        else:
            number = max(self.asked, self._entered + 1)
            known = self.spans.get(self._told.key_of_model(number))
            span = self._ask(number, self.sight.model) if known is None else known[0]
            self._entered = number
        if span is None or not span.get_span_context().is_valid:
            return NOTHING
        return Current(span)

    def _begin(self, event: RunStarted | RunResumed) -> None:
        if type(event) is RunStarted:
            self._told.began(event)
        telemetry = self._telemetry
        begun = telemetry.begun(event.trace) if event.trace else None
        name, attributes = self._told.of_sitting(resumed=type(event) is RunResumed)
        if begun is None:
            now = time.time_ns()
            begun = telemetry.begin(name, self._around, SpanKind.INTERNAL, attributes, now), now
        else:
            begun[0].update_name(name)
        span, self._since = begun
        if self.sight.past and (first := context_of(getattr(self.sight.past[0], "trace", ""))) is not None:
            span.add_link(first)
        self.spans[self._told.key_of(event.seq)] = begun
        self._within = trace_api.set_span_in_context(span, self._around)

    def _ask(self, number: int, model: str) -> Span:
        name, attributes = self._told.of_model(model)
        return self._starts(self._told.key_of_model(number), name, SpanKind.CLIENT, attributes)

    def _attempt(self, event: ToolAttempted) -> None:
        tool = self._names.get(event.call_id)
        if tool is None:
            return
        name, attributes = self._told.of_tool(tool)
        key = self._told.key_of(event.seq)
        self._attempts[event.call_id] = self._starts(key, name, SpanKind.INTERNAL, attributes)

    def _starts(self, key: str, name: str, kind: SpanKind, attributes: Attributes) -> Span:
        now = time.time_ns()
        span = self._telemetry.begin(name, self._within, kind, attributes, now, key)
        self.spans[key] = (span, now)
        return span

    # on the spool's thread

    def opened(self, record: SpanOpened) -> None:
        """Begin what did not begin on the loop: memory's spans, and those of a sitting that was left."""
        known = self.spans.get(record.key)
        if known is not None:
            if record.operation == names.INVOKE_AGENT:
                known[0].set_attributes(record.attributes)
            return
        if record.operation == names.INVOKE_AGENT:
            self._again(record)
            return
        within_ = self._pasts.get(record.parent, self._within)
        kind = _KINDS[names.KINDS[record.operation]]
        since = 0 if record.past else max(record.at * _MS, self._since)
        at = since or record.at * _MS
        span = self._telemetry.begin(record.name, within_, kind, record.attributes, at, record.key)
        self.spans[record.key] = (span, since)
        if record.past and record.call:
            self._telemetry.called(self._call(self.sight.run_id, record.call), record.at, span)

    def _again(self, record: SpanOpened) -> None:
        of = context_of(record.trace)
        if of is None:  # nobody traced it
            self._pasts[record.key] = self._within
            return
        self._pasts[record.key] = within(of)
        if of.trace_flags.sampled:
            under = record.under
            call = None if under is None else self._telemetry.attempt_of(self._call(*under), record.at)
            self.spans[record.key] = (self._telemetry.again(record, of, call), 0)

    def _call(self, run_id: str, call_id: str) -> tuple[str, ...]:
        return (self.sight.scope.tenant, *self.sight.agents[:1], run_id, call_id)

    def closed(self, record: SpanClosed) -> None:
        """End the span. The journal knows when, to the millisecond: not before it began, nor later than it was seen."""
        span, since = self.spans.pop(record.key, _NONE)
        if span is None or not span.is_recording():
            return
        at = record.at * _MS
        if since:
            at = max(min(at + _MS - 1, self.now), since)
        span.set_attributes(record.attributes)
        if record.error:
            span.set_status(Status(StatusCode.ERROR, record.detail or record.error))
        span.end(at)


_NAMELESS: Attributes = {names.OPERATION: names.INVOKE_AGENT}
"""What is known of a run before it has begun."""
_NONE: tuple[None, int] = (None, 0)
