"""A process that runs an agent, exports its spans to a file, and dies in the middle; or goes on with such a run.

    python -m tests.telemetry.dying FOLDER WHERE EXPORTS STABLE

WHERE: in which body it kills itself ("model" or "tool"). EXPORTS: after so many spans its exporter keeps what comes to
itself, as one that sends in batches would have it when it dies.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

from shipworthy import (
    Agent,
    BudgetConfig,
    OTelTelemetry,
    PriceTable,
    ScriptedModel,
    ScriptedTurn,
    SqliteRuntime,
    StableIds,
    StandardBudget,
    ToolCall,
    Usage,
    price_usd,
    tool,
)

RUN = "the-run"
PRICES = PriceTable({"scripted": price_usd(input=3, output=15)}, then=None)


class ToFile(SpanExporter):
    """Appends each span to a file, and waits until it is there; after `most` spans it keeps them."""

    def __init__(self, path: Path, most: int = sys.maxsize) -> None:
        self.path, self.most = path, most

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with self.path.open("ab") as file:
            for span in spans:
                if self.most > 0:
                    self.most -= 1
                    file.write(json.dumps(_as_line(span)).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        return SpanExportResult.SUCCESS


def _as_line(span: ReadableSpan) -> dict[str, Any]:
    return {
        "name": span.name,
        "trace": f"{span.context.trace_id:032x}",
        "span": f"{span.context.span_id:016x}",
        "parent": "" if span.parent is None else f"{span.parent.span_id:016x}",
        "links": [f"{link.context.trace_id:032x}" for link in span.links],
        "start": span.start_time,
        "end": span.end_time,
        "error": (span.attributes or {}).get("error.type", ""),
        "attributes": dict(span.attributes or {}),
    }


def telemetry(folder: Path, *, stable: bool, most: int = sys.maxsize) -> OTelTelemetry:
    """Telemetry that exports into the folder, one span at a time."""
    ids = {"id_generator": StableIds()} if stable else {}
    provider = TracerProvider(shutdown_on_exit=False, **ids)  # type: ignore[arg-type]
    provider.add_span_processor(SimpleSpanProcessor(ToFile(folder / "spans.jsonl", most)))
    if url := os.environ.get("OTLP_TRACES"):
        provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(url)))
    return OTelTelemetry(provider, MeterProvider(shutdown_on_exit=False))


def agent(folder: Path, reader: Any, die: Any = None) -> Agent[Any, Any]:
    """Two calls of tools, with a turn before, between and after them. *die* is called in the second body, and before
    the third answer."""

    @tool(effect="read")
    async def look(at: str) -> str:
        """Look."""
        return f"{at} seen"

    @tool(effect="idempotent")
    async def pay(amount: int) -> str:
        """Pay."""
        if die is not None:
            die("tool")
        return "paid"

    def last(request: Any) -> ScriptedTurn:
        if die is not None:
            die("model")
        return ScriptedTurn("done", usage=Usage(input_tokens=30, output_tokens=3))

    model = ScriptedModel(
        [
            ScriptedTurn(ToolCall("look", {"at": "sea"}), usage=Usage(input_tokens=10, output_tokens=1)),
            ScriptedTurn(ToolCall("pay", {"amount": 5}), usage=Usage(input_tokens=20, output_tokens=2)),
            last,
        ]
    )
    return Agent(
        "Be brief.",
        model=model,
        tools=[look, pay],
        runtime=SqliteRuntime(folder / "runs.db"),
        telemetry=reader,
        budget=StandardBudget(BudgetConfig(max_cost_usd=10), prices=PRICES),
        name="payer",
    )


async def live(folder: Path, where: str, most: int, stable: bool) -> None:
    reader = telemetry(folder, stable=stable, most=most)

    def die(here: str) -> None:
        if here == where:
            reader.flush(5)
            os.kill(os.getpid(), signal.SIGKILL)

    await agent(folder, reader, die).run("Pay", tenant_id="acme", user_id="alice", run_id=RUN)


if __name__ == "__main__":
    asyncio.run(live(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4] == "stable"))
