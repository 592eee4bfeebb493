"""Telemetry in lists: for tests, and for whoever looks at what would be exported."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import msgspec

from shipworthy.adapters.shared.telemetry import Telemetry, Watch
from shipworthy.rules.telemetry.names import KINDS, Kind, Operation, prefixed
from shipworthy.rules.telemetry.records import Attributes, Measured, Record, SpanClosed, SpanOpened, Value


class FinishedSpan(msgspec.Struct, frozen=True):
    """A span that ended. `parent` is the key of the span that it is in, "" for none; times are milliseconds since the
    Unix epoch; `error` is a class of errors, "" for none."""

    key: str
    operation: Operation
    name: str
    kind: Kind
    parent: str
    start: int
    end: int
    attributes: Mapping[str, Value]
    error: str = ""
    detail: str = ""


class Measurement(msgspec.Struct, frozen=True):
    """A value that was recorded for a metric."""

    metric: str
    value: int | float
    attributes: Attributes


class InMemoryTelemetry(Telemetry):
    """Keeps spans and measurements in lists, which are complete whenever they are looked at. What reads them waits for
    what was seen before; a run never waits.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._spans: list[FinishedSpan] = []
        self._measurements: list[Measurement] = []
        self._calls: dict[tuple[str, ...], str] = {}
        self._lock = threading.Lock()

    @property
    def spans(self) -> list[FinishedSpan]:
        """Every span that ended, in the order in which they ended."""
        self.flush()
        with self._lock:
            return list(self._spans)

    @property
    def measurements(self) -> list[Measurement]:
        """Every measurement, in their order."""
        self.flush()
        with self._lock:
            return list(self._measurements)

    def sum(self, metric: str, /, attributes: Attributes | None = None) -> int | float:
        """The sum of a metric's measurements that have all of these attributes."""
        wanted = (attributes or {}).items()
        return sum(
            [
                each.value
                for each in self.measurements
                if each.metric == metric and wanted <= each.attributes.items()
            ]
        )

    def clear(self) -> None:
        """Forget what was told so far."""
        self.flush()
        with self._lock:
            self._spans.clear()
            self._measurements.clear()

    def told(self, watch: Watch, records: list[Record]) -> None:
        with self._lock:
            for record in records:
                if isinstance(record, Measured):
                    name = prefixed(record.metric, self.metric_prefix)
                    self._measurements.append(Measurement(name, record.value, record.attributes))
                elif isinstance(record, SpanOpened):
                    self._opened(watch, record)
                else:
                    self._closed(watch, record)

    def _opened(self, watch: Watch, opened: SpanOpened) -> None:
        parent = opened.parent
        if opened.under is not None:
            parent = self._calls.get(_call(watch, *opened.under), "")
        if opened.call:
            self._calls[_call(watch, watch.sight.run_id, opened.call)] = opened.key
        watch.open[opened.key] = (opened, parent)

    def _closed(self, watch: Watch, closed: SpanClosed) -> None:
        opened, parent = watch.open.pop(closed.key)
        self._calls.pop(_call(watch, watch.sight.run_id, opened.call), None)
        self._spans.append(
            FinishedSpan(
                closed.key,
                opened.operation,
                opened.name,
                KINDS[opened.operation],
                parent,
                opened.at,
                closed.at,
                {**opened.attributes, **closed.attributes},
                closed.error,
                closed.detail,
            )
        )


def _call(watch: Watch, run_id: str, call_id: str) -> tuple[str, ...]:
    """A call of a run that is observed now. Another agent may have a run of the same id in another store."""
    return (watch.sight.scope.tenant, *watch.sight.agents[:1], run_id, call_id)
