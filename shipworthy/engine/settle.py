"""Finding out whether an effect in doubt happened: `verify=` asks the world, otherwise a person has to."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from shipworthy.domain.effects import DidNotHappen, Happened, Settlement, Unknown, Verdict
from shipworthy.domain.events import RunParked, ToolReturned, ToolSettled
from shipworthy.domain.messages import RUNTIME, USER, Text
from shipworthy.engine.execute import settled_content
from shipworthy.engine.live import LiveRun, idempotency_key
from shipworthy.errors import InvalidArguments, SettlementRefused, UnserialisableResult
from shipworthy.rules.calls import Call
from shipworthy.rules.decide import Settle
from shipworthy.rules.state import RunState

STARTS = 3
"""Starts of a `once` body after which it is not started again by itself, though nothing happened."""


async def settle(run: LiveRun, step: Settle) -> None:
    """Ask the world about each call in doubt; park the run if it does not know."""
    for call in step.calls:
        verdict = await _verify(run, call)
        if isinstance(verdict, Unknown):
            run.record(RunParked(detail=call.call.name))
            return
        _record(run, call, verdict, "verify")
        if isinstance(verdict, DidNotHappen) and call.attempts >= STARTS:
            _give_up(run, call)
    await run.commit()


def _give_up(run: LiveRun, call: Call) -> None:
    """A service that fails each time is not to be hammered: the model is told, which is safe, for nothing happened."""
    words = f"Not done: it was started {call.attempts} times, failed each time, and did not happen."
    said = (Text(words, RUNTIME, "untrusted"),)
    run.record(ToolReturned(call_id=call.call.call_id, content=said, outcome="not_done"))


async def _verify(run: LiveRun, call: Call) -> Verdict:
    tool = run.blueprint.tools.get(call.call.name)
    if tool is None or not tool.verifies:
        return Unknown()
    await run.commit()
    if wait := still_possible_for(run, call):
        await asyncio.sleep(wait / 1000)
    raw = await run.arguments_of(call.wanted)
    key = idempotency_key(run.scope, run.run_id, call.call.call_id, raw)
    context = run.context(call.wanted, key, call.attempts)
    if tool.threaded and tool.still_running(context):
        return Unknown()
    try:
        async with asyncio.timeout(tool.timeout or run.blueprint.limits.tool_timeout):
            verdict = await tool.verify(context, tool.parse(raw))
        if isinstance(verdict, Happened):
            settled_content(run, call, verdict.result)
    except (TimeoutError, InvalidArguments, UnserialisableResult):
        return Unknown()
    return verdict


def still_possible_for(run: LiveRun, call: Call) -> int:
    """Milliseconds during which a stopped worker's attempt could still have its effect: until then, "it did not happen"
    is not believed."""
    return max(0, call.not_before - run.store.clock()) if call.not_before else 0


def settle_by_person(run: LiveRun, settlements: Mapping[str, Settlement]) -> None:
    """Record what a person found out. Raises SettlementRefused before anything is recorded."""
    check(run, settlements)
    for address, settlement in settlements.items():
        if not is_nested(run.state, address):
            _record(run, run.state.calls[address.removeprefix(run.state.prefix)], settlement, "person")


def is_nested(state: RunState, address: str) -> bool:
    """Whether a call is one of a nested run, which settles it itself."""
    return "/" in address.removeprefix(state.prefix)


def check(run: LiveRun, settlements: Mapping[str, Settlement]) -> None:
    """Record nothing. Raises SettlementRefused for what could not be recorded."""
    for address, settlement in settlements.items():
        head, _, rest = address.removeprefix(run.state.prefix).partition("/")
        call = run.state.calls.get(head)
        if not rest or call is None or not call.children:
            _check(run, head if not rest else address, settlement)


def _check(run: LiveRun, call_id: str, settlement: Settlement) -> None:
    call = run.state.calls.get(call_id)
    if call is None or call.status != "in_doubt":
        known = ", ".join([i for i, c in run.state.calls.items() if c.status == "in_doubt"]) or "none"
        raise SettlementRefused(
            f"Call {call_id!r} of run {run.run_id!r} is not in doubt.", fix=f"Calls in doubt: {known}."
        )
    if not isinstance(settlement, (Happened, DidNotHappen)):
        raise SettlementRefused(
            f"{settlement!r} settles nothing.", fix="Pass Happened(result) or DidNotHappen() for each call."
        )
    if isinstance(settlement, Happened):
        try:
            settled_content(run, call, settlement.result)
        except (UnserialisableResult, TypeError, ValueError) as problem:
            what = problem.what if isinstance(problem, UnserialisableResult) else str(problem)
            raise SettlementRefused(
                f"The result cannot be recorded: {what}", fix="Pass plain data."
            ) from problem
        return
    if wait := still_possible_for(run, call):
        raise SettlementRefused(
            f"The stopped worker that made call {call_id!r} could still carry it out.",
            fix=f"Settle it again in {wait / 1000:.1f} seconds, or say Happened(result).",
        )
    tool = run.blueprint.tools.get(call.call.name)
    if tool is not None and tool.threaded and tool.still_running(run.context(call.call)):
        raise SettlementRefused(
            f"The thread of call {call_id!r} still runs in this process.",
            fix="Wait until it has ended; a thread cannot be killed.",
        )


def _record(run: LiveRun, call: Call, verdict: Happened | DidNotHappen, by: Any) -> None:
    content: tuple[Any, ...] = ()
    whole = None
    if isinstance(verdict, Happened):
        content, whole = settled_content(run, call, verdict.result)
    happened = isinstance(verdict, Happened)
    run.record(
        ToolSettled(
            call_id=call.call.call_id,
            happened=happened,
            by=by,
            content=content,
            whole=whole,
            origin=USER if by == "person" else f"tool:{call.call.name}",
        )
    )
    run.urgent = True
