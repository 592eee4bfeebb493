"""Telemetry as lines of text: what a developer watches while an agent runs."""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO

from shipworthy.adapters.shared.telemetry import Telemetry, Watch
from shipworthy.rules.telemetry import names
from shipworthy.rules.telemetry.records import Measured, Record, SpanClosed, SpanOpened, Value

_SHOWN = {
    names.INPUT_TOKENS: "in",
    names.OUTPUT_TOKENS: "out",
    names.COST: "$",
    names.FINISH_REASONS: "",
    names.OUTCOME: "",
    names.STATUS: "",
    names.STOP_REASON: "",
    names.MEMORY_ITEMS: "items",
}
"""What a span's line shows of its attributes, and how it calls them."""


class ConsoleTelemetry(Telemetry):
    """Writes a line for every span that ends, and with `measurements` for every measurement, to *file* (the standard
    error). Lines are coloured where that is a terminal, unless *colour* says otherwise."""

    def __init__(
        self,
        file: TextIO | None = None,
        *,
        measurements: bool = False,
        colour: bool | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._file, self._measurements, self._colour = file, measurements, colour

    def told(self, watch: Watch, records: list[Record]) -> None:
        lines: list[str] = []
        for record in records:
            if type(record) is SpanOpened:
                watch.open[record.key] = (record, "")
            elif type(record) is SpanClosed:
                lines.append(self._of_span(watch, watch.open.pop(record.key)[0], record))
            elif self._measurements and type(record) is Measured:
                lines.append(self._of_measurement(record))
        if lines:
            file = self._file or sys.stderr
            file.write("\n".join(lines) + "\n")
            file.flush()

    def _of_span(self, watch: Watch, opened: SpanOpened, closed: SpanClosed) -> str:
        scope = watch.sight.scope
        whose = scope.tenant if scope.user is None else f"{scope.tenant}/{scope.user}"
        indent = "  " if opened.parent else ""
        said = [
            _shown(label, closed.attributes[name])
            for name, label in _SHOWN.items()
            if name in closed.attributes
        ]
        error = self._styled("31", closed.error) if closed.error else ""
        text = " ".join([each for each in (*said, error, closed.detail) if each])
        when = time.strftime("%H:%M:%S", time.localtime(closed.at / 1000))
        name = self._styled("1", f"{indent}{opened.name}".ljust(34))
        lasted = f"{closed.at - opened.at:,} ms"
        run = self._styled("2", f"{whose} {watch.sight.run_id}")
        return f"{when}.{closed.at % 1000:03} {name} {lasted:>10}  {text}  {run}"

    def _of_measurement(self, record: Measured) -> str:
        of = " ".join([f"{name}={value}" for name, value in record.attributes.items()])
        name = names.prefixed(record.metric, self.metric_prefix)
        return f"{name} {record.value:g}  {self._styled('2', of)}"

    def _styled(self, style: str, text: str) -> str:
        colour = self._colour
        if colour is None:
            colour = (self._file or sys.stderr).isatty()
        return f"\x1b[{style}m{text}\x1b[0m" if colour else text


def _shown(label: str, value: Value) -> str:
    if label == "$":
        return f"${value:.6g}" if isinstance(value, float) else ""
    text = ",".join(value) if isinstance(value, tuple) else str(value)
    return f"{label} {text}".strip()
