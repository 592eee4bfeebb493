"""`shipworthy runs check`: which paused runs would break with the code as it is now. Journals are read, and policies
asked that compute; no tool, model or hook is called, and nothing is claimed or written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from shipworthy.adapters.inmemory.store import InMemoryStore
from shipworthy.app.agent import Agent
from shipworthy.app.commands.foresight import Foresight, NotAsked, Problem, Whole
from shipworthy.app.commands.printing import ERROR, OK, Printer, note
from shipworthy.app.commands.runs import existing
from shipworthy.app.commands.target import load_agent
from shipworthy.app.commands.visible import visible
from shipworthy.domain.journal import RunSummary
from shipworthy.domain.scope import Operator, Scope
from shipworthy.engine.blueprint import UNNAMED
from shipworthy.engine.keyring import Keyring
from shipworthy.engine.listing import listed
from shipworthy.errors import ConfigurationError, JournalDamaged, RunNotFound, UnknownEvent
from shipworthy.ports.store import Store
from shipworthy.rules.state import RunState, replay
from shipworthy.rules.text import described

_OPERATOR = Operator("shipworthy runs check")


class Checked(msgspec.Struct, frozen=True):
    """One paused run, and what of it would break."""

    scope: Scope
    run_id: str
    problems: list[Problem]
    not_asked: list[NotAsked]


def check(target: str, tenant: str | None, store: str | None, *, as_json: bool) -> int:
    """Say which paused runs would break; exit code 1 if there are any."""
    printer = Printer(as_json=as_json)
    with printer.user_code():
        checked = asyncio.run(_check(target, tenant, store))
    broken = [each for each in checked if each.problems]
    if as_json:
        printer.emit(_data(checked, broken))
    else:
        _say(printer, checked, broken)
    return ERROR if broken else OK


async def _check(target: str, tenant: str | None, address: str | None) -> list[Checked]:
    agent = load_agent(target)
    blueprint = agent._in_use().blueprint
    runtime = agent.runtime if address is None else existing(address)
    if isinstance(runtime.store, InMemoryStore):
        raise ConfigurationError(
            f"{target} keeps its runs in memory: none outlives its process.",
            fix="Pass --store sqlite:<path>.",
        )
    await runtime.store.open()
    try:
        keyring = Keyring(runtime.store, agent.runtime.keyring.given)
        foresight = Foresight(runtime.store, keyring, blueprint.governance.patience)
        return [
            each
            async for summary in _summaries(runtime.store, tenant)
            if (each := await _one(runtime.store, agent, foresight, summary)) is not None
        ]
    finally:
        await runtime.store.close()


async def _summaries(store: Store, tenant: str | None) -> AsyncIterator[RunSummary]:
    """The paused runs of a tenant, or of all."""
    if tenant is not None:
        async for each in listed(store, Scope(tenant), "paused"):
            yield each
        return
    after = 0
    while page := await store.everything(_OPERATOR, after):
        for _, each in page:
            if each.status == "paused":
                yield each
        after = page[-1][0]


async def _one(
    store: Store, agent: Agent[Any, Any], foresight: Foresight, summary: RunSummary
) -> Checked | None:
    """What would break of one run; None if it is another agent's, or is paused no longer."""
    try:
        state = replay(await store.read(Scope(summary.scope.tenant), summary.run_id))
    except RunNotFound:
        return None
    except (UnknownEvent, JournalDamaged) as error:
        unread = Problem("journal", f"It cannot be read: {described(error)}", summary.run_id)
        return Checked(summary.scope, summary.run_id, [unread], [])
    if state.started.parent is not None or state.started.agent != agent.name or not state.parked:
        return None
    blueprint = agent._in_use().blueprint
    whole = Whole(blueprint, blueprint.governance, (agent.name,))
    problems, not_asked = await foresight.of(state, whole)
    return Checked(summary.scope, summary.run_id, [*_unknown(agent, state), *problems], not_asked)


def _unknown(agent: Agent[Any, Any], state: RunState) -> list[Problem]:
    if agent.name != UNNAMED or state.started.fingerprint == agent._in_use().blueprint.fingerprint:
        return []
    what = (
        "The agent has no name and is another one now: no worker knows the run as its own. Give it a name=."
    )
    return [Problem("name", what, state.started.run_id)]


def _data(checked: list[Checked], broken: list[Checked]) -> dict[str, Any]:
    return {
        "runs": len(checked),
        "broken": [
            {
                "run_id": each.run_id,
                "tenant": each.scope.tenant,
                "user": each.scope.user,
                "problems": [msgspec.structs.asdict(problem) for problem in each.problems],
            }
            for each in broken
        ],
        "not_asked": [
            {"tenant": each.scope.tenant, **msgspec.structs.asdict(one)}
            for each in checked
            for one in each.not_asked
        ],
    }


def _say(printer: Printer, checked: list[Checked], broken: list[Checked]) -> None:
    for each in broken:
        who = " / ".join([part for part in (each.scope.tenant, each.scope.user) if part])
        printer.say(f"{visible(each.run_id)}, of {visible(who)}:")
        for problem in each.problems:
            call = f"{visible(problem.tool)} ({problem.address}): " if problem.address else ""
            printer.say(f"  [{problem.kind}] {call}{visible(problem.what)}")
    unasked = sorted({one.who for each in checked for one in each.not_asked})
    for who in unasked:
        note(f"not asked, since it may do more than compute: {visible(who)}")
    printer.say(f"{len(checked)} paused runs, {len(broken)} would break.")
