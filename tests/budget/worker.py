"""What one process of the proof does: so many runs at once, one after the other, until the budget stops them."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from shipworthy import Agent, tool
from shipworthy.adapters.redis import RedisLedger
from shipworthy.app.budgets import BudgetConfig, StandardBudget
from shipworthy.app.configuration import Tuning
from shipworthy.app.prices import PriceTable
from shipworthy.app.runtimes import PostgresRuntime, SqliteRuntime
from shipworthy.domain.scope import Operator
from shipworthy.engine.runtime import Runtime
from shipworthy.errors import Fenced, ShipworthyError
from tests.budget import mutants
from tests.budget.model import LONGEST, NAME, PRICE, BillingModel, Sink

USERS, TENANTS = 7, 3
TENANT_USD = 1000.0
"""A second line for every attempt, that is never full."""


class Job(msgspec.Struct, kw_only=True):
    """What a worker is to do. `runs`: the database or the file of its runtime; `ledger`: a Redis server, or empty for
    the runtime's own. `sweeps`: charge what has expired, and nothing else. Times in seconds."""

    folder: str
    runs: str
    ledger: str
    name: str
    at_once: int
    cap: int
    ttl: float
    lease: float
    seed: str
    mutant: str = ""
    sweeps: bool = False
    log: str = ""


class Said(msgspec.Struct):
    """What a worker that came to its end has to say: how its runs ended, and what was raised instead."""

    ended: dict[str, int]
    raised: dict[str, int]


def preload() -> None:
    """Import what a job needs, in the process that is forked for each."""
    import shipworthy.adapters.postgres
    import shipworthy.engine.budgeting
    import shipworthy.engine.follow  # noqa: F401


def main(raw: dict[str, Any]) -> None:
    """Do a job to its end."""
    job = msgspec.convert(raw, Job)
    logging.basicConfig(level=logging.WARNING)
    if job.mutant:
        mutants.switch_on(job.mutant)
    worker = Worker(job)
    asyncio.run(worker.sweep() if job.sweeps else worker.work())


@tool(effect="read")
async def look(n: int) -> str:
    await asyncio.sleep(0)
    return f"fact {n}"


class Worker:
    """One process."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._ended: Counter[str] = Counter()
        self._raised: Counter[str] = Counter()
        self._runs = 0
        self._chance = random.Random(f"{job.seed} {job.name}")
        self._runtime = runtime = self._new_runtime()
        self._budget = self._new_budget(runtime)
        self._agent: Agent[Any, str] = Agent(
            name="spender",
            model=BillingModel(Sink(Path(job.folder) / "bills"), job.seed),
            tools=[look],
            runtime=runtime,
            budget=self._budget,
            tuning=Tuning(recover_every=0.5),
        )

    def _new_runtime(self) -> Runtime:
        job = self._job
        if job.runs.startswith("postgres"):
            return PostgresRuntime(job.runs, lease_ttl=job.lease, clock_skew=0.2)
        # Who is stopped may have the file's lock meanwhile.
        return SqliteRuntime(job.runs, lease_ttl=job.lease, clock_skew=0.2, busy_timeout=60.0)

    def _new_budget(self, runtime: Runtime) -> StandardBudget:
        job = self._job
        config = BudgetConfig(
            global_max_tokens=job.cap,
            per_tenant_max_cost_usd=TENANT_USD,
            window="total",
            max_output_tokens_per_call=LONGEST,
            hold_ttl=job.ttl,
        )
        ledger: Any = None
        if job.ledger:  # so many runs on so few processors are not to be told that a busy server is away
            ledger = RedisLedger(job.ledger)
        if job.mutant == "check_then_act":
            ledger = mutants.CheckThenAct(ledger or runtime.store.ledger)
        return StandardBudget(config, ledger=ledger, prices=PriceTable({NAME: PRICE}, then=None))

    async def work(self) -> None:
        """Recover what is left, and run until nothing is affordable."""
        async with self._agent:
            await self._agent.recover()
            await asyncio.gather(*[self._keep_running() for _ in range(self._job.at_once)])
            await self._agent.recover()
        self._say()

    async def sweep(self) -> None:
        """Charge what has expired."""
        await self._runtime.open()
        ledger = self._budget.ledger_on(self._runtime.store)
        await ledger.open()
        await ledger.sweep(Operator("the proof of budgets"))
        await ledger.close()
        await self._runtime.close()
        self._say()

    def _say(self) -> None:
        said = Said(dict(self._ended), dict(self._raised))
        (Path(self._job.folder) / f"said-{self._job.name}").write_bytes(msgspec.json.encode(said))

    async def _keep_running(self) -> None:
        while True:
            self._runs += 1
            run_id = f"{self._job.name}-{self._runs}"
            try:
                end = await self._run(run_id)
            except Fenced:  # this process was stopped for longer than its lease
                end = "fenced"
            except ShipworthyError as error:
                logging.exception("run %s", run_id)
                self._raised[type(error).__name__] += 1
                return
            self._ended[end] += 1
            if end.startswith("budget:"):
                return

    async def _run(self, run_id: str) -> str:
        number, chance = self._runs, self._chance
        call: dict[str, Any] = {
            "run_id": run_id,
            "tenant_id": f"tenant{number % TENANTS}",
            "user_id": f"user{number % USERS}",
            "timeout": chance.uniform(0.01, 0.3) if chance.random() < 0.05 else None,
        }
        prompt = f"Spend what you can, run {run_id}."
        if chance.random() < 0.7:
            result = await self._agent.run(prompt, **call)
        else:
            async with self._agent.stream(prompt, **call) as stream:
                async for _ in stream:
                    pass
            result = stream.result
        return result.stop_reason or result.status
