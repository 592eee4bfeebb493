"""What a paused run waits for, in words; `shipworthy runs answer`."""

from __future__ import annotations

import shlex
from typing import Any

import msgspec

from shipworthy.app.commands.printing import OK, PAUSED, Printer
from shipworthy.app.commands.timeline import moment
from shipworthy.app.commands.visible import visible
from shipworthy.domain.pausing import PendingCall
from shipworthy.domain.scope import Scope
from shipworthy.engine.answering import Answering, shown_of
from shipworthy.engine.pending import pending_of
from shipworthy.engine.runtime import Runtime
from shipworthy.errors import InputError
from shipworthy.rules.state import replay


def command(*words: str) -> str:
    """A command to be typed in: no name in it means anything to a shell."""
    return visible(shlex.join(["shipworthy", *words]))


def waiting_words(call: PendingCall, run_id: str, tenant: str) -> list[str]:
    """What a paused run waits for, and the command that goes on with it."""
    name = f"{visible(call.tool)} ({call.address})"
    match call.kind:
        case "in_doubt":
            return [
                f"\nin doubt: {name}: {visible(call.reason)}",
                f"  {command('runs', 'resume', run_id, '--tenant', tenant)} --agent module:agent \\",
                f"    --settle {call.address}=happened|did_not_happen",
            ]
        case "approval":
            yes = f"{len(call.approved_by)} of {call.approvers}"
            return [
                f"\nneeds approval ({yes}): {name}, rule {visible(call.rule)}: {visible(call.reason)}",
                f"  {command('approvals', 'show', '--tenant', tenant, '--run', run_id, '--address', call.address)}",
            ]
        case "answer":
            asked = visible(msgspec.json.encode(call.data).decode())
            schema = "" if call.schema is None else visible(msgspec.json.encode(call.schema).decode())
            go = command("runs", "answer", run_id, "--tenant", tenant, "--address", call.address)
            until = "" if call.expires_at is None else f", until {moment(call.expires_at)}"
            return [
                f"\nasks{until}: {name}: {asked}",
                *([f"  the answer has to fit {schema}"] if schema else []),
                f"  {go} --json-value JSON",
            ]


async def answer(
    printer: Printer, runtime: Runtime, scope: Scope, run_id: str, address: str | None, value: Any
) -> int:
    """Answer what the body of a tool asks."""
    store = runtime.store
    waiting = await pending_of(store, replay(await store.read(scope, run_id)))
    asks = {call.address: call for call in waiting if call.kind == "answer"}
    known = ", ".join(asks)
    if not asks:
        raise InputError(
            f"Run {run_id!r} asks for no answer.",
            fix=f"`{command('runs', 'show', run_id, '--tenant', scope.tenant)}` says what it waits for.",
        )
    if address is None and len(asks) > 1:
        raise InputError(f"{len(asks)} calls of run {run_id!r} ask.", fix=f"Pass --address, one of: {known}.")
    if address is not None and address not in asks:
        raise InputError(
            f"No call {address!r} of run {run_id!r} asks for an answer.", fix=f"These do: {known}."
        )
    asked = next(iter(asks.values())) if address is None else asks[address]
    await Answering(runtime, scope, run_id, shown=shown_of(asked), address=asked.address).take(value)
    left = [
        call
        for call in await pending_of(store, replay(await store.read(scope, run_id)))
        if call.kind != "in_doubt"
    ]
    if printer.as_json:
        printer.emit({"answered": {"run_id": run_id, "address": asked.address}, "waiting": left})
    else:
        printer.say(f"Answered: {visible(asked.tool)} ({asked.address}).")
        for call in left:
            for line in waiting_words(call, run_id, scope.tenant):
                printer.say(line)
        if not left:
            printer.say(on_it_goes(run_id, scope.tenant))
    return PAUSED if left else OK


def on_it_goes(run_id: str, tenant: str) -> str:
    """How a run that waits for nobody any more goes on."""
    return (
        "The run can go on: a process that entered the agent (`async with agent`) takes it up by itself. Or now:\n"
        f"  {command('runs', 'resume', run_id, '--tenant', tenant)} --agent module:agent"
    )
