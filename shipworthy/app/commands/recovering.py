"""`shipworthy runs recover`: resume an agent's orphaned runs, and say of each how it stands."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from shipworthy.app.agent import Agent
from shipworthy.app.commands.printing import ERROR, OK, PAUSED, Printer, console
from shipworthy.app.commands.target import closing, load_agent
from shipworthy.domain.events import RunStarted
from shipworthy.domain.journal import RunSummary
from shipworthy.domain.scope import Operator
from shipworthy.errors import Fenced, RunBusy

_AT_ONCE = 16
_OPERATOR = Operator("shipworthy runs recover")


def recover(target: str, *, as_json: bool) -> int:
    """Resume every orphan of the agent; gives the exit code."""
    printer = Printer(as_json=as_json)
    with printer.user_code():
        outcomes = asyncio.run(_recover(printer, target))
    if as_json:
        printer.emit({"recovered": outcomes})
    elif not outcomes:
        printer.say("No orphaned runs.")
    for outcome in outcomes if not as_json else []:
        why = f": {outcome['error']}" if outcome["error"] else ""
        printer.say(f"{outcome['tenant']}  {outcome['run_id']}  {outcome['status']}{why}")
    stati = {outcome["status"] for outcome in outcomes}
    return ERROR if stati & {"not recovered", "failed"} else PAUSED if "paused" in stati else OK


async def _recover(printer: Printer, target: str) -> list[dict[str, Any]]:
    async with closing(load_agent(target)) as agent:
        await agent.runtime.open()
        store = agent.runtime.store
        orphans = []
        for run in await store.orphans(_OPERATOR):
            first = (await store.read(run.scope, run.run_id))[0]
            if isinstance(first, RunStarted) and first.agent == agent.name:
                orphans.append(run)
        slots = asyncio.Semaphore(_AT_ONCE)
        with _progress(printer, len(orphans)) as advance:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(_one(agent, run, slots, advance)) for run in orphans]
        return [task.result() for task in tasks]


async def _one(
    agent: Agent[Any, Any], run: RunSummary, slots: asyncio.Semaphore, advance: Callable[[], None]
) -> dict[str, Any]:
    outcome: dict[str, Any] = {"tenant": run.scope.tenant, "run_id": run.run_id, "error": None}
    async with slots:
        try:
            result = await agent.resume(run.run_id, tenant_id=run.scope.tenant)
        except (RunBusy, Fenced) as error:
            outcome |= {"status": "taken over by another worker", "error": error.what}
        except Exception as error:
            outcome |= {"status": "not recovered", "error": f"{type(error).__name__}: {error}"}
        else:
            outcome |= {"status": result.status, "error": result.error}
        advance()
    return outcome


@contextlib.contextmanager
def _progress(printer: Printer, total: int) -> Iterator[Callable[[], None]]:
    """A bar on stderr, where somebody looks at it."""
    if printer.as_json or not sys.stderr.isatty() or not total:
        yield lambda: None
        return
    from rich.progress import Progress

    with Progress(console=console(sys.stderr), transient=True) as progress:
        task = progress.add_task("recovering", total=total)
        yield lambda: progress.advance(task)
