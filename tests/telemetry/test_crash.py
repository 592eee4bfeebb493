"""A process is killed while an agent runs. Whoever goes on tells what the dead one could not: no span is told twice
under two ids, and with `StableIds` none is lost."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from shipworthy import OTelTelemetry, Scope, SqliteRuntime
from shipworthy.adapters.otel.telemetry import OTelWatch
from shipworthy.adapters.shared.telemetry import told_of
from shipworthy.domain.events import AnyEvent, RunResumed, RunStarted
from shipworthy.ports.readers import Sight
from shipworthy.rules.telemetry import names
from shipworthy.rules.telemetry.records import SpanClosed
from shipworthy.rules.telemetry.spans import Fold
from shipworthy.rules.telemetry.whose import Told
from tests.telemetry.dying import RUN, ToFile, agent, telemetry

ACME = Scope("acme", "alice")
DEATHS = [("tool", 1, "stable"), ("model", 99, "stable"), ("tool", 99, "plain"), ("model", 1, "plain")]
"""Where the process dies, how many spans it had exported by then at most, and whose ids its spans have."""


@pytest.fixture(scope="module")
def dead(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int, str], Path]:
    """What dead processes left behind; all of them die at once."""
    folders = {death: tmp_path_factory.mktemp("dead") for death in DEATHS}
    children = {}
    for (where, most, stable), folder in folders.items():
        command = [sys.executable, "-m", "tests.telemetry.dying", str(folder), where, str(most), stable]
        children[where, most, stable] = subprocess.Popen(command, stderr=subprocess.PIPE)
    for death, child in children.items():
        _, errors = child.communicate(timeout=60)
        assert child.returncode == -9, (death, errors.decode())
    return folders


def resumed(folder: Path, reader: Any) -> list[AnyEvent]:
    """The journal, once the run was resumed and ended."""

    async def go() -> list[AnyEvent]:
        async with agent(folder, reader) as payer:
            result = await payer.resume(RUN, tenant_id="acme")
            assert result.status == "completed"
        runtime = SqliteRuntime(folder / "runs.db")
        await runtime.open()
        try:
            return list(await runtime.store.read(ACME, RUN))
        finally:
            await runtime.close()

    events = asyncio.run(go())
    assert reader.flush(10)
    return events


def exported(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "spans.jsonl").read_text().splitlines()]


def key_of(span: dict[str, Any]) -> str:
    return str(span["attributes"][names.KEY])


def expected(events: list[AnyEvent]) -> set[str]:
    """The keys of all spans of a journal, as one who had seen all of it would tell them."""
    fold = Fold(Told(ACME, RUN, ("payer",), "scripted"))
    return {record.key for record in fold.feed(events) if isinstance(record, SpanClosed)}


def doubled(spans: list[dict[str, Any]]) -> list[str]:
    """Keys that have more than one id: a backend would count them twice."""
    ids = {(key_of(span), span["trace"], span["span"]) for span in spans}
    return [key for key, times in Counter(key for key, _, _ in ids).items() if times > 1]


def copy_of(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


@pytest.mark.crash
@pytest.mark.parametrize("death", [death for death in DEATHS if death[2] == "stable"], ids=str)
def test_with_stable_ids_no_span_is_lost_and_none_has_two_ids(
    dead: dict[tuple[str, int, str], Path], death: tuple[str, int, str], tmp_path: Path
) -> None:
    folder = copy_of(dead[death], tmp_path)
    before = exported(folder)
    events = resumed(folder, telemetry(folder, stable=True))
    spans = exported(folder)
    assert {key_of(span) for span in spans} == expected(events)
    assert doubled(spans) == []
    again = {span["span"] for span in before} & {span["span"] for span in spans[len(before) :]}
    assert len(again) == len(before), "what was exported before is told again under its id"


@pytest.mark.crash
@pytest.mark.parametrize("death", [death for death in DEATHS if death[2] == "plain"], ids=str)
def test_without_them_no_span_is_told_twice_and_what_was_open_is_told_once(
    dead: dict[tuple[str, int, str], Path], death: tuple[str, int, str], tmp_path: Path
) -> None:
    folder = copy_of(dead[death], tmp_path)
    events = resumed(folder, telemetry(folder, stable=False))
    spans = exported(folder)
    assert [key for key, times in Counter(map(key_of, spans)).items() if times > 1] == []
    interrupted = {span["name"] for span in spans if span["error"] == "interrupted"}
    body = "execute_tool pay" if death[0] == "tool" else "chat scripted"
    assert interrupted == {"invoke_agent payer", body}
    if death[1] == 99:  # the dead process had exported what had ended
        assert {key_of(span) for span in spans} == expected(events)


@pytest.mark.crash
def test_what_was_left_open_has_its_first_start_and_the_trace_that_it_began_in(
    dead: dict[tuple[str, int, str], Path], tmp_path: Path
) -> None:
    folder = copy_of(dead["tool", 99, "plain"], tmp_path)
    events = resumed(folder, telemetry(folder, stable=False))
    started, again = events[0], next(event for event in events if isinstance(event, RunResumed))
    assert isinstance(started, RunStarted)
    by_key = {key_of(span).rpartition("-")[2]: span for span in exported(folder)}
    first, second = by_key["1"], by_key[str(again.seq)]
    assert first["start"] == started.at * 1_000_000
    assert first["trace"] == started.trace.split("-")[1] != second["trace"] == again.trace.split("-")[1]
    assert second["links"] == [first["trace"]], "the sitting that goes on is linked to the run's first trace"
    assert by_key["m1"]["trace"] == first["trace"]
    attempts = [span for span in by_key.values() if span["name"] == "execute_tool pay"]
    assert [(span["error"], span["trace"]) for span in attempts] == [
        ("interrupted", first["trace"]),
        ("", second["trace"]),
    ]


@pytest.mark.crash
def test_tokens_and_money_add_up_over_the_spans_of_dead_and_living(
    dead: dict[tuple[str, int, str], Path], tmp_path: Path
) -> None:
    folder = copy_of(dead["model", 99, "stable"], tmp_path)
    events = resumed(folder, telemetry(folder, stable=True))
    unique = {key_of(span): span for span in exported(folder)}.values()
    charged = [event.charged for event in events if getattr(event, "charged", None) and event.charged.cost]  # type: ignore[union-attr]
    for attribute, total in (
        (names.COST, sum([each.cost for each in charged]) / 1e9),
        (names.CHARGED_INPUT, sum([each.input_tokens for each in charged])),
        (names.CHARGED_OUTPUT, sum([each.output_tokens for each in charged])),
    ):
        told = sum([span["attributes"].get(attribute, 0) for span in unique])
        assert told == pytest.approx(total, abs=1e-12)
    assert len(charged) == 4, "the attempt that died is charged, too"


# --- mutants ----------------------------------------------------------------------------------


class TellsAllAgain(OTelTelemetry):
    """Tells a dead sitting again although the ids are random."""

    def sitting(self, sight: Sight) -> OTelWatch:
        return OTelWatch(self, sight, self.fold(told_of(sight), sight, again=True))


class LeavesOpen(Fold):
    """Forgets what a dead sitting left open."""

    def _was_left(self, root: Any) -> None:
        self._chat, self._tools = None, {}


class Forgetful(OTelTelemetry):
    def sitting(self, sight: Sight) -> OTelWatch:
        return OTelWatch(self, sight, LeavesOpen(told_of(sight), sight.past))


def mutated(kind: type[OTelTelemetry], folder: Path) -> OTelTelemetry:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(ToFile(folder / "spans.jsonl")))
    return kind(provider, MeterProvider(shutdown_on_exit=False))


@pytest.mark.crash
def test_mutant_a_span_that_is_told_twice_after_a_crash_is_found(
    dead: dict[tuple[str, int, str], Path], tmp_path: Path
) -> None:
    folder = copy_of(dead["tool", 99, "plain"], tmp_path)
    resumed(folder, mutated(TellsAllAgain, folder))
    assert doubled(exported(folder)) != []


@pytest.mark.crash
def test_mutant_a_span_that_is_left_open_is_found(
    dead: dict[tuple[str, int, str], Path], tmp_path: Path
) -> None:
    folder = copy_of(dead["tool", 99, "plain"], tmp_path)
    events = resumed(folder, mutated(Forgetful, folder))
    assert {key_of(span) for span in exported(folder)} < expected(events)
