"""What happens in the demo, on the public surface of shipworthy: one agent, two tenants, workers that are killed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from shipworthy import Agent, RunResult, ShipworthyError
from shipworthy.app.demo import audited, script, world
from shipworthy.app.demo.checks import Evidence, Probe
from shipworthy.app.demo.support import Desk, support_agent
from shipworthy.app.demo.worker import STREAMING, Task, model_of
from shipworthy.app.demo.workers import DemoBroken, Sitting, work

_SITTINGS = 8
USER, SESSION = "sam", "today"
"""The same names at both tenants, on purpose."""


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """How the demo is to be played."""

    folder: Path
    model: str | None = None
    base_url: str | None = None
    mutant: str | None = None

    @property
    def scripted(self) -> bool:
        return self.model is None

    @property
    def no_tools(self) -> bool:
        """The small local model calls none: its runs are killed while it speaks."""
        return self.base_url is not None


class Case(msgspec.Struct, frozen=True):
    """One tenant's conversation; the second question is the one whose workers die, at these stops."""

    tenant: str
    questions: tuple[str, str, str]
    run_id: str
    stops: tuple[str, ...]
    mark: str


CASES = (
    Case("harbor", script.HARBOR, "refund-1017", ("refund:after", "save_note:after"), "invoice 1017"),
    Case("northwind", script.NORTHWIND, "ticket-7731", ("open_ticket:before",), "orders-7731"),
)


class Teller(Protocol):
    """Who tells the user what happens."""

    def scene(self, title: str) -> None: ...

    def say(self, who: str, what: str, *, style: str = "") -> None: ...


class Story:
    """The demo while it is played."""

    def __init__(self, setting: Setting, teller: Teller) -> None:
        self._setting = setting
        self._teller = teller
        self._desk = world.build(setting.folder)
        model = model_of(setting.model, setting.base_url)
        self._database = world.database_in(setting.folder)
        log = audited.log_in(setting.folder, self._database)
        self._agent: Agent[Desk, str] = support_agent(model, self._database, self._desk, log)
        self._sittings: list[Sitting] = []
        self._run_ids: dict[str, list[str]] = {case.tenant: [] for case in CASES}
        self._last: dict[str, RunResult[str]] = {}

    async def play(self) -> Evidence:
        """Everything, and what was seen of it."""
        scene = self._teller.scene
        try:
            scene("Two tenants ask one agent, at the same time")
            await asyncio.gather(*[self._ask(case, case.questions[0]) for case in CASES])
            scene("Workers take the next questions, and are killed with SIGKILL where it hurts most")
            await asyncio.gather(*[self._through_crashes(case) for case in CASES])
            scene("The sessions go on, and each tenant asks for the other's run")
            await asyncio.gather(*[self._ask(case, case.questions[2]) for case in CASES])
            probes = [await self._probe(case, other) for case, other in (CASES, CASES[::-1])]
            return await self._evidence(probes)
        finally:
            await self._agent.runtime.close()

    async def _ask(self, case: Case, question: str) -> None:
        """A question in this process."""
        result = await self._agent.run(question, tenant_id=case.tenant, user_id=USER, session_id=SESSION)
        result.raise_for_status()
        self._teller.say(case.tenant, f"asks: {question}")
        self._teller.say(case.tenant, f"is told: {result.output}", style="green")
        self._run_ids[case.tenant].append(result.run_id)
        self._last[case.tenant] = result

    async def _through_crashes(self, case: Case) -> None:
        """The second question: a new worker after each death, until the run has ended."""
        stops = [STREAMING] if self._setting.no_tools else list(case.stops)
        self._teller.say(case.tenant, f"asks: {case.questions[1]}")
        sitting = await self._work(case, stops, prompt=case.questions[1], user=USER, session=SESSION)
        for _ in range(_SITTINGS):
            if sitting.status == "failed":
                raise DemoBroken(f"Run {case.run_id} failed: {sitting.error}")
            if sitting.status not in (None, "paused"):
                self._run_ids[case.tenant].append(case.run_id)
                if stops:
                    missed = ", ".join([_place(stop).removeprefix("is ") for stop in stops])
                    self._teller.say(case.tenant, f"the model never came to where it was to die: {missed}")
                return
            settle = self._by_a_person(case, sitting) if sitting.status == "paused" else {}
            sitting = await self._work(case, stops, settle=settle)
        raise DemoBroken(f"Run {case.run_id} did not end after {_SITTINGS} workers.")

    async def _work(self, case: Case, stops: list[str], **what: Any) -> Sitting:
        setting = self._setting
        stop = stops[0] if stops else None
        sitting = await work(
            Task(
                folder=str(setting.folder),
                tenant=case.tenant,
                run_id=case.run_id,
                model=setting.model,
                base_url=setting.base_url,
                mutant=setting.mutant,
                stop=stop,
                **what,
            )
        )
        self._sittings.append(sitting)
        if sitting.killed_at is not None:
            stops.pop(0)
        self._tell(case, sitting, resumed="prompt" not in what)
        return sitting

    def _tell(self, case: Case, sitting: Sitting, *, resumed: bool) -> None:
        say, worker = self._teller.say, f"worker {sitting.pid}"
        say(case.tenant, f"{worker} {'resumes' if resumed else 'starts'} run {case.run_id}")
        for happened in self._verified(sitting):
            said = "happened" if happened else "did not happen"
            say(case.tenant, f"verify= asked the ledger: it {said}", style="yellow")
        if sitting.killed_at is not None:
            say(case.tenant, f"{worker} {_place(sitting.killed_at)}: killed with SIGKILL", style="red")
        elif sitting.status == "paused":
            say(
                case.tenant,
                "the outcome is unknown and no verify= can tell: the run waits for a person",
                style="yellow",
            )
        else:
            say(case.tenant, f"run {case.run_id} {sitting.status}", style="green")

    def _verified(self, sitting: Sitting) -> list[bool]:
        """What verify= found in this sitting."""
        before = {seen for s in self._sittings if s is not sitting for seen in s.seen}
        new = [msgspec.json.decode(seen) for seen in sitting.seen if seen not in before]
        return [x["happened"] for x in new if x["kind"] == "tool_settled" and x["by"] == "verify"]

    def _by_a_person(self, case: Case, sitting: Sitting) -> dict[str, bool]:
        """What somebody finds who looks into the ledger."""
        done = {entry["call"] for entry in self._desk.ledger.entries()}
        settle = {call: call in done for call in sitting.pending}
        for call, happened in settle.items():
            verdict = "happened" if happened else "did_not_happen"
            self._teller.say(
                case.tenant, f"a person looks into the ledger and settles: {call}={verdict}", style="yellow"
            )
        return settle

    async def _probe(self, case: Case, other: Case) -> Probe:
        """One tenant asks for the other's run, and for one that nobody has."""
        unknown = f"{other.run_id}-x"
        answers = [await self._asked_for(case.tenant, run_id) for run_id in (other.run_id, unknown)]
        self._teller.say(case.tenant, f"asks for {other.run_id}, a run of {other.tenant}: {answers[0]}")
        return Probe(case.tenant, other.run_id, answers[0], unknown, answers[1])

    async def _asked_for(self, tenant: str, run_id: str) -> str:
        try:
            result = await self._agent.resume(run_id, tenant_id=tenant)
        except ShipworthyError as error:
            return error.what
        return f"{result.status}: {result.messages}"

    async def _evidence(self, probes: Sequence[Probe]) -> Evidence:
        journals = {}
        for tenant, run_ids in self._run_ids.items():
            for run_id in run_ids:
                async with self._agent.stream(run_id=run_id, tenant_id=tenant) as stream:
                    journals[tenant, run_id] = [_plain(event) async for event in stream]
        no_tools = self._setting.no_tools
        return Evidence(
            sittings=self._sittings,
            journals=journals,
            ledger=self._desk.ledger.entries(),
            notes=self._desk.notes.all(),
            conversations={tenant: list(result.messages) for tenant, result in self._last.items()},
            asked={case.tenant: list(case.questions) for case in CASES},
            marks={case.tenant: case.mark for case in CASES},
            probes=list(probes),
            planned=[STREAMING] * len(CASES) if no_tools else [stop for case in CASES for stop in case.stops],
            scripted=self._setting.scripted,
            audit=audited.copy_of(self._setting.folder, self._database),
        )


def _place(stop: str) -> str:
    """Where a worker was when it died, in words."""
    if stop == STREAMING:
        return "is in the middle of the model's answer"
    tool, _, side = stop.partition(":")
    return f"is inside {tool}, just {side} its effect"


def _plain(event: Any) -> dict[str, Any]:
    """An event as JSON has it, to be compared with what workers streamed."""
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(event))
    return plain
