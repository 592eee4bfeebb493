"""After chaos the books agree to the token and the cent: the audit log's, the journal's, the ledger's and telemetry's;
and every run that started has an end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from shipworthy import InMemoryMemory, InMemoryTelemetry, Scope, Usage
from shipworthy.domain.audit import Entry
from shipworthy.domain.events import ModelAbandoned, ModelFailed, RunStarted, StopRequested
from shipworthy.domain.messages import Text
from shipworthy.domain.model import Answer
from shipworthy.errors import Fenced
from shipworthy.rules.audit import reading
from shipworthy.rules.learning import SUFFIX
from shipworthy.rules.telemetry import names
from shipworthy.rules.telemetry.measuring import Measuring
from tests.audit import books
from tests.audit.evidence import LASTING, Kind, Place, agrees, journal_of
from tests.audit.spending import Moody, agent
from tests.audit.test_crashes import LONG, chaos

RUNS = 40
USERS = [("acme", "alice"), ("acme", "bob"), ("umbrella", "alice")]
METRICS = (names.TOKENS_INPUT, names.TOKENS_OUTPUT, names.COST_USD)


class Stalling(Moody):
    """Answers late where a run is left meanwhile."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__(chance)
        self.reached = asyncio.Event()

    async def stream(self, request: Any) -> Any:
        if request.run_id == "left" and not self.reached.is_set():
            self.reached.set()
            await asyncio.sleep(0.2)
            yield Answer(parts=(Text("Late."),), usage=Usage(input_tokens=11, output_tokens=7))
            return
        async for item in super().stream(request):
            yield item


async def lived(place: Place, runtime: Any, telemetry: InMemoryTelemetry, seed: int) -> None:
    """Runs of several users at once, some cancelled, one left in an attempt; they are remembered and learned from."""
    chance = random.Random(seed)
    memory = InMemoryMemory(embedder=None)
    made = agent(runtime, place.log(), chance, telemetry=telemetry, memory=memory, auto_extract=True)
    made._model = stalling = Stalling(chance)  # type: ignore[assignment]

    async def one(number: int) -> None:
        tenant, user = USERS[number % len(USERS)]
        who = {"tenant_id": tenant, "user_id": user, "run_id": f"r{number}"}
        await asyncio.sleep(chance.random() * 0.03)
        await made.run("I like tea.", timeout=chance.choice([None, None, 0.02]), **who)

    async def leave() -> None:
        left = asyncio.create_task(made.run("I like tea.", tenant_id="acme", user_id="carol", run_id="left"))
        await stalling.reached.wait()
        run = runtime.active(Scope("acme"), "left")
        runtime.leave(run)
        await runtime.store.release(run.fence)
        await made.resume("left", tenant_id="acme")
        assert isinstance((await asyncio.gather(left, return_exceptions=True))[0], Fenced)

    async with made:
        tasks = [asyncio.create_task(one(number)) for number in range(RUNS)]
        cancelling = [task for task in tasks if chance.random() < 0.25]
        await asyncio.sleep(0.03)
        for task in cancelling:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await leave()
        await made._memory._learning.settle(30)  # type: ignore[union-attr]


async def kept(kind: Kind, folder: Path, seed: int) -> dict[str, Any]:
    """The books after all that."""
    place = Place(kind, folder)
    runtime, telemetry = place.runtime(), InMemoryTelemetry()
    await runtime.acquire()
    try:
        await lived(place, runtime, telemetry, seed)
        await agrees(place, runtime.store)
        journal = await journal_of(runtime.store)
        users = [*USERS, ("acme", "carol")]
        return {
            "entries": [each.entry for each in place.told()],
            "journal": journal,
            "ledger": await books.of_ledger(runtime.store.ledger, users),
            "telemetry": [telemetry.sum(metric) for metric in METRICS],
        }
    finally:
        await runtime.release()


def wrong(found: dict[str, Any], sums: reading.Sums | None = None) -> list[str]:
    audit = books.of_audit(found["entries"], sums)
    return [*books.disagreements(audit, found["journal"], found["ledger"], found["telemetry"])]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return asyncio.run(kept("file", tmp_path_factory.mktemp("books"), 7))


def test_the_chaos_has_everything_that_is_to_be_added_up(found: dict[str, Any]) -> None:
    journal = found["journal"]
    kinds = {type(event) for events in journal.values() for event in events}
    assert {ModelFailed, ModelAbandoned, StopRequested} <= kinds
    abandoned = [e.reason for events in journal.values() for e in events if isinstance(e, ModelAbandoned)]
    assert "crashed" in abandoned
    begun = [events[0] for events in journal.values()]
    assert any(isinstance(e, RunStarted) and e.parent is not None for e in begun)
    assert any(isinstance(e, RunStarted) and e.agent.endswith(SUFFIX) for e in begun)


def test_the_four_books_agree_to_the_token_and_the_cent(found: dict[str, Any]) -> None:
    assert wrong(found) == []
    assert found["telemetry"] == pytest.approx(books.replayed(found["journal"]))


@pytest.mark.parametrize("kind", ["joined", "apart"])
def test_they_agree_wherever_the_log_is(kind: Kind, tmp_path: Path) -> None:
    for seed in range(20 if LONG else 1):
        folder = tmp_path / str(seed)
        folder.mkdir()
        assert wrong(asyncio.run(kept(kind, folder, seed))) == []


@pytest.mark.crash
@pytest.mark.parametrize("kind", LASTING)
def test_they_agree_after_processes_were_killed(kind: Kind, tmp_path: Path) -> None:
    """What telemetry says is what its fold makes of the journal: nobody can ask the processes that are dead."""
    for seed in range(3 if LONG else 1):
        folder = tmp_path / str(seed)
        folder.mkdir()
        runs, seconds = (600, 40.0) if LONG else (24, 1.0)
        [told] = chaos("spending", folder, kind, "", str(runs), str(seed), str(seconds))
        assert told["wrong"] == []
        assert told["kills"] > 3


# --- mutants ----------------------------------------------------------------------------------


def test_mutant_usage_that_is_counted_on_two_levels_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spent = Measuring.spent

    def twice(self: Measuring, span: Any, *what: Any) -> None:
        spent(self, span, *what)
        spent(self, None, *what)

    monkeypatch.setattr(Measuring, "spent", twice)
    assert any("telemetry" in each for each in wrong(asyncio.run(kept("memory", tmp_path, 7))))


def test_mutant_attempts_that_failed_and_are_left_out_are_noticed(
    found: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_SPENT", frozenset({"model.answered"}))
    assert any("audit" in each for each in wrong(found))


class Twice(reading.Sums):
    """Counts what nested runs spent with the run around them as well."""

    def __init__(self) -> None:
        super().__init__()
        self.around: dict[str, str] = {}

    def read(self, entry: Entry) -> None:
        super().read(entry)
        if entry.action == "run.started" and entry.facts["root"]:
            self.around[str(entry.run)] = str(entry.facts["root"])
        elif entry.run in self.around and entry.action != "run.ended":
            super().read(replace(entry, run=f"{self.around[entry.run]} again"))


def test_mutant_nested_runs_that_are_counted_twice_are_noticed(found: dict[str, Any]) -> None:
    assert any("audit" in each for each in wrong(found, Twice()))


def test_mutant_entries_that_were_made_void_and_count_all_the_same_are_noticed(
    found: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def all_hold(self: Any, n: int, fence: int, kept: Any = None) -> tuple[bool, Sequence[Any]]:
        return True, []

    holding = reading.Holding()
    for entry in found["entries"]:
        holding.read(entry)
    void = {entry.action for entry in found["entries"] if entry.seq in holding.void}
    assert void >= {
        "model.requested",
        "model.answered",
    }  # a hold that was refused, an answer that came too late
    monkeypatch.setattr(reading.Telling, "read", all_hold)
    assert any("audit" in each for each in wrong(found))
