"""Span ids that follow from what a span is of, so that a span which is told twice is one span.

Knows nothing of the SDK: what a TracerProvider asks of an `id_generator` is two methods.
"""

from __future__ import annotations

import hashlib
import os
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what a type checker wants an `id_generator` to be; nothing of it is there when it runs
    from opentelemetry.sdk.trace.id_generator import IdGenerator
else:
    IdGenerator = object


class StableIds(IdGenerator):
    """An `id_generator` for a TracerProvider: spans of runs get ids that follow from the run's journal, all others
    random ones. A sitting that a crash took is then told of again, in full and under the same ids, by the one that goes
    on: none of its spans is lost with the process, and a backend that keeps one span of an id keeps one."""

    def __init__(self) -> None:
        self._next = threading.local()

    def give(self, span: int, trace: int = 0) -> None:
        """The ids of the span that this thread begins next; 0 for random ones."""
        self._next.span, self._next.trace = span, trace

    def generate_span_id(self) -> int:
        """The id that was given, or a random one."""
        return getattr(self._next, "span", 0) or _random(8)

    def generate_trace_id(self) -> int:
        """The id that was given, or a random one."""
        return getattr(self._next, "trace", 0) or _random(16)

    def is_trace_id_random(self) -> bool:
        """Every trace id is random where it is made."""
        return True


def span_id(trace: int, key: str) -> int:
    """The id of the span of this key in this trace; a run of the same id in another store has other traces."""
    return int.from_bytes(hashlib.sha256(f"{trace:032x}{key}".encode()).digest()[:8], "big") or 1


def _random(size: int) -> int:
    return int.from_bytes(os.urandom(size), "big") or 1
