"""What telemetry costs: CPU time that a turn of a run takes more with it than without.

    python bench/telemetry.py [--quick] [--json FILE] [--rounds N] [--turns N] [--only WORD]

A turn is a model's answer with one call of a tool, and its result. *Raw* is a turn without telemetry; ours is what is
added to it, on the event loop and on the thread behind it together, until all is told. *Governed* is the SDK alone,
driven by hand with the same two spans and six measurements. The goal is the issue's: at most 25 us with providers that
do nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measure import Row, Side, as_json, interleave, machine, progress, table
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NoOpTracerProvider
from workloads import ARGUMENTS, DONE, OURS, PROMPT, USAGE

from shipworthy import (
    Agent,
    ConsoleTelemetry,
    InMemoryTelemetry,
    OTelTelemetry,
    Scope,
    ScriptedModel,
    ScriptedTurn,
    ToolCall,
)
from shipworthy.rules.telemetry import names
from shipworthy.rules.telemetry.whose import Told

TURNS, RUNS = 100, 20


def cpu(telemetry: Any, turns: int, runs: int) -> float:
    """Microseconds of CPU time of a turn, all threads together."""
    script = [ScriptedTurn(ToolCall("weather", ARGUMENTS), usage=USAGE)] * turns
    agent = Agent(
        "You are a travel assistant.",
        model=ScriptedModel([*script, ScriptedTurn(DONE, usage=USAGE)]),
        tools=[OURS["weather"]],
        max_turns=1_000_000,
        telemetry=telemetry,
    )

    async def work() -> None:
        for _ in range(runs):
            await agent.run(PROMPT, tenant_id="acme", user_id="alice")

    begun = time.process_time_ns()
    asyncio.run(work())
    if telemetry is not None:
        assert telemetry.flush(60)
        assert telemetry.dropped == 0
    return (time.process_time_ns() - begun) / 1000 / (turns * runs)


def noop() -> OTelTelemetry:
    return OTelTelemetry(NoOpTracerProvider(), NoOpMeterProvider())


def sampled_out() -> OTelTelemetry:
    return OTelTelemetry(TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False), NoOpMeterProvider())


def sdk() -> OTelTelemetry:
    """Spans are recorded and measurements added up, and nobody exports them."""
    meters = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
    return OTelTelemetry(TracerProvider(shutdown_on_exit=False), meters)


def by_hand(turns: int) -> float:
    """Microseconds of CPU time that the SDK takes for what a turn tells, and nothing else."""
    told = Told(Scope("acme", "alice"), "run", ("bench",), "scripted")
    traces = TracerProvider(shutdown_on_exit=False)
    tracer = traces.get_tracer(names.SCOPE)
    telemetry = OTelTelemetry(traces, MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False))
    measure = telemetry._add
    chat, tool = told.of_model("scripted"), told.of_tool("weather")
    ends = {
        names.INPUT_TOKENS: 90,
        names.OUTPUT_TOKENS: 7,
        names.PURPOSE: "turn",
        names.KEY: "k",
        names.RESPONSE_MODEL: "m",
    }
    returned = {
        names.TOOL_CALL: "c",
        names.ATTEMPT: 1,
        names.OUTCOME: "ok",
        names.EFFECT: "read",
        names.KEY: "k",
    }
    of = {names.AGENT: "bench", names.REQUEST_MODEL: "scripted"}
    operation = {
        names.OPERATION: "chat",
        names.PROVIDER: "s",
        names.REQUEST_MODEL: "s",
        names.RESPONSE_MODEL: "s",
    }
    begun = time.process_time_ns()
    for _ in range(turns):
        for (name, attributes), end in ((chat, ends), (tool, returned)):
            span = tracer.start_span(name, attributes=attributes)
            span.set_attributes(end)
            span.end()
        measure[names.TOKENS_INPUT](90, of)
        measure[names.TOKENS_OUTPUT](7, of)
        measure[names.OPERATION_DURATION](0.001, operation)
        measure[names.TOKEN_USAGE](90, {**operation, names.TOKEN_TYPE: "input"})
        measure[names.TOKEN_USAGE](7, {**operation, names.TOKEN_TYPE: "output"})
        measure[names.TOOL_DURATION](1, of)
    return (time.process_time_ns() - begun) / 1000 / turns


class Nowhere:
    """A file that keeps nothing."""

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return False


def rows(turns: int, runs: int) -> list[Row]:
    def row(
        name: str,
        make: Callable[[], Any],
        limit: float | None = None,
        floor: Callable[[], float] | None = None,
    ) -> Row:
        def ours() -> float:
            telemetry = make()
            try:
                return cpu(telemetry, turns, runs) - cpu(None, turns, runs)
            finally:
                if telemetry is not None:
                    telemetry.close()

        sides: dict[Side, Callable[[], float]] = {"raw": lambda: cpu(None, turns, runs), "ours": ours}
        if floor is not None:
            sides["governed"] = floor
        return Row(
            name=name,
            unit="us a turn",
            sides=sides,
            against="governed" if floor is not None else None,
            limit=limit,
        )

    return [
        row("off, against off", lambda: None),
        row("OTelTelemetry, no-op providers", noop, 25),
        row("OTelTelemetry, the SDK, nothing sampled", sampled_out),
        row("OTelTelemetry, the SDK, all recorded", sdk, floor=lambda: by_hand(turns * runs)),
        row("InMemoryTelemetry", InMemoryTelemetry),
        row("ConsoleTelemetry", lambda: ConsoleTelemetry(Nowhere())),  # type: ignore[arg-type]
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few turns: does it still run?")
    parser.add_argument("--json", type=Path, help="write everything that was measured there")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--only", default="", help="rows whose name has this word")
    options = parser.parse_args()
    turns, runs, rounds = (3, 2, 1) if options.quick else (options.turns, RUNS, options.rounds)
    chosen = [row for row in rows(turns, runs) if options.only in row.name]
    interleave(chosen, rounds, progress)
    print(machine())
    print(table(chosen))
    if options.json:
        options.json.write_text(as_json(chosen, {"turns": turns, "runs": runs}))


if __name__ == "__main__":
    main()
