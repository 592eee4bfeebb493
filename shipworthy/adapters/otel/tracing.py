"""Traces as OpenTelemetry has them and as a journal has them: contexts, and texts of traceparents."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from opentelemetry import context as contexts
from opentelemetry import trace as trace_api
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, TraceFlags

from shipworthy.domain.events import AnyEvent, ModelAnswered
from shipworthy.domain.messages import ToolCall


class Current:
    """Makes a span the current one, and leaves everything else of it to others."""

    __slots__ = ("_span", "_token")

    def __init__(self, span: Span) -> None:
        self._span = span

    def __enter__(self) -> None:
        self._token = contexts.attach(trace_api.set_span_in_context(self._span))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        contexts.detach(self._token)


def within(of: SpanContext) -> Context:
    """The context of what is in a span that somebody else began."""
    return trace_api.set_span_in_context(NonRecordingSpan(of), Context())


def context_of(trace: str) -> SpanContext | None:
    """The span of a traceparent; None for "", and for what is none."""
    parts = trace.split("-")
    if len(parts) != 4:
        return None
    try:
        numbers = [int(part, 16) for part in parts]
    except ValueError:
        return None
    found = SpanContext(numbers[1], numbers[2], is_remote=True, trace_flags=TraceFlags(numbers[3]))
    return found if found.is_valid else None


def names_in(past: Sequence[AnyEvent]) -> dict[str, str]:
    """The tools of the last answer's calls."""
    for event in reversed(past):
        if type(event) is ModelAnswered:
            return {part.call_id: part.name for part in event.parts if type(part) is ToolCall}
    return {}
