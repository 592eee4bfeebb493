"""What one process of these proofs does: it begins runs, resumes them with answers, tells of it, and may die."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path
from typing import Any, Literal

import msgspec

from shipworthy import Approve, Deny, Inbox, SqliteRuntime
from shipworthy.domain.effects import DidNotHappen, Happened, Settlement
from shipworthy.domain.pausing import PendingCall
from shipworthy.domain.results import RunResult
from shipworthy.engine import settle
from shipworthy.errors import AnswerRefused, ShipworthyError
from shipworthy.testing.faults import Point, Points
from tests.control import mutants, scenario
from tests.crash.scenario import Sink, append, receipt

MOST = 40
"""Answers after which a run that still waits is given up."""


class Step(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One thing to do. "run": begin; "resume": with the answer and the checkpoint, if they are there; "inbox": answer
    what waits at `address` (or the one call that waits) through the inbox, and resume nothing; "drive": resume, and
    answer as the scenario's people do, until the run has ended; "together": all of `steps` at once."""

    do: Literal["run", "resume", "inbox", "drive", "together"]
    run: str = ""
    tenant: str | None = "acme"
    user: str | None = "alice"
    checkpoint: Any = None
    answer: Any = None
    address: str = ""
    steps: list[Step] = []


class Said(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What came of a step: a result, or an error and its words."""

    status: str = ""
    output: str | None = None
    checkpoint: Any = None
    pending: list[PendingCall] = []
    error: str = ""
    words: str = ""
    each: list[Said] = []

    @property
    def pays(self) -> bool:
        """Whether it came to the end."""
        return self.status == "completed"


class Told(msgspec.Struct, omit_defaults=True):
    """What people saw of a run, in the order of this file: that they were "asked", with who had said yes already, or
    that their answer was taken ("taken")."""

    how: Literal["asked", "taken"]
    run: str
    address: str
    kind: str
    ordinal: int = 0
    by: str = ""
    approved_by: tuple[str, ...] = ()
    digest: str = ""


class Job(msgspec.Struct, kw_only=True):
    """What a child is to do, one step after the other. `people`: how those of "drive" answer."""

    folder: str
    generation: int
    steps: list[Step]
    setting: scenario.Setting = scenario.Setting()
    people: str = "plain"
    at: Point | None = None
    mutant: str | None = None
    log: str = ""


class Outcome(msgspec.Struct):
    """What a child that came to its end has to say, step by step, and the points that it reached."""

    said: list[Said]
    points: list[Point]


def preload() -> None:
    """Import what a job needs, in the process that is forked for each."""
    import jsonschema  # noqa: F401

    import shipworthy.adapters.sqlite
    import shipworthy.engine.answering
    import shipworthy.engine.follow  # noqa: F401


def main(raw: dict[str, Any]) -> None:
    """Do a job to its end, or to its point."""
    job = msgspec.convert(raw, Job)
    random.uniform = lambda low, high: low  # type: ignore[assignment]  # backing off costs a proof only time
    settle.STARTS = 1000  # however often a body is killed, it is not given up
    if job.mutant is not None:
        mutants.switch_on(job.mutant)
    asyncio.run(Process(job).work())


class Process:
    """One that does a job."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._folder = Path(job.folder)
        self._points = Points(job.at, self._die)
        self._runtime = SqliteRuntime(self._folder / "runs.db")
        self._points.watch(self._runtime)
        self._agent = scenario.agent(self._folder, self._runtime, self._points, job.setting)
        self._inbox = Inbox(runtime=self._runtime)

    def _die(self, point: Point) -> None:
        append(self._folder / "died", str(point))
        os.kill(os.getpid(), 9)

    async def work(self) -> None:
        """Every step, and word of it."""
        await self._runtime.open()
        said = [await self._said(step) for step in self._job.steps]
        await self._agent.close()
        outcome = msgspec.json.encode(Outcome(said, self._points.reached))
        (self._folder / f"outcome-{self._job.generation}").write_bytes(outcome)

    async def _said(self, step: Step) -> Said:
        if step.do == "together":
            return Said(each=list(await asyncio.gather(*[self._said(each) for each in step.steps])))
        try:
            result = await self._do(step)
        except ShipworthyError as error:
            return Said(error=type(error).__name__, words=str(error))
        if result is None:
            return Said()
        output = result.output if result.has_output else None
        return Said(
            status=result.status,
            output=output,
            checkpoint=result.checkpoint,
            pending=list(result.pending),
        )

    async def _do(self, step: Step) -> RunResult[str] | None:
        answer = scenario.decoded(step.answer)
        match step.do:
            case "run":
                return await self._agent.run("Go.", run_id=step.run, tenant_id=step.tenant, user_id=step.user)
            case "inbox":
                await self._answer_in_inbox(step, answer)
                return None
            case "drive":
                return await self._drive(step)
        run = step.run if step.checkpoint is None else step.checkpoint
        return await self._agent.resume(run, tenant_id=step.tenant, answer=answer)

    async def _answer_in_inbox(self, step: Step, answer: Any) -> None:
        assert step.tenant is not None
        waiting = await self._inbox.requests(step.tenant, run_id=step.run)
        found = [each for each in waiting if step.address in ("", each.address)]
        if not found:
            raise AnswerRefused("Nothing waits any more.")
        [request] = found
        if isinstance(answer, Deny):
            await self._inbox.deny(request, answer)
        else:
            await self._inbox.approve(request, answer)

    # people

    async def _drive(self, step: Step) -> RunResult[str]:
        """Resume by the run's id, and answer what is asked, until there is nothing to answer."""
        result = await self._agent.resume(step.run, tenant_id=step.tenant)
        for _ in range(MOST):
            if result.status != "paused":
                return result
            settle = {c.address: self._settlement(c) for c in result.pending if c.kind == "in_doubt"}
            waiting = [c for c in result.pending if c.kind != "in_doubt"]
            for call in waiting:
                self._tell("asked", step, call, approved_by=call.approved_by)
            if waiting:
                await self._answer(step, waiting)
            result = await self._agent.resume(step.run, tenant_id=step.tenant, settle=settle)
        raise AssertionError(f"The run still waits after {MOST} answers: {result.pending}")

    async def _answer(self, step: Step, waiting: list[PendingCall]) -> None:
        """Take an answer without resuming, as an inbox does; once it is taken, that is told."""
        from shipworthy.domain.scope import Scope
        from shipworthy.engine.answering import Answering

        call = waiting[0]
        who, answer = self._people(call)
        if isinstance(answer, Approve):
            await self._answer_in_inbox(msgspec.structs.replace(step, address=call.address), answer)
        else:
            assert step.tenant is not None
            given = answer if len(waiting) == 1 else {call.address: answer}
            await Answering(self._runtime, Scope(step.tenant), step.run).take(given)
        self._tell("taken", step, call, by=who)

    def _people(self, call: PendingCall) -> tuple[str, Any]:
        """Who answers, and what."""
        if call.kind == "answer":
            return "somebody", ["blue", 3][call.ordinal]
        [who, *_] = [each for each in scenario.BOTH if each not in call.approved_by]
        match self._job.people:
            case "edit":
                if msgspec.json.decode(call.arguments).get("amount") == scenario.AMOUNT:
                    return who, Approve(by=who, arguments={"amount": scenario.EDITED})
            case "remember run":
                return who, Approve(by=who, remember="run")
            case "remember user":
                return who, Approve(by=who, remember="user")
        return who, Approve(by=who)

    def _tell(self, how: Any, step: Step, call: PendingCall, **more: Any) -> None:
        append(
            self._folder / "told",
            Told(how, step.run, call.address, call.kind, call.ordinal, digest=call.digest, **more),
        )

    def _settlement(self, call: PendingCall) -> Settlement:
        """What a person finds out who looks at the world."""
        made = Sink(self._folder).read()
        args = msgspec.json.decode(call.arguments)
        for effect in made:
            same = (effect.run_id, effect.tool) == (call.run_id, call.tool)
            if same and args.items() <= msgspec.json.decode(effect.args).items():
                return Happened(receipt(effect.tool, effect.args))
        return DidNotHappen()
