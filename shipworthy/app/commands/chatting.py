"""`shipworthy chat`: a conversation in one session."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import msgspec

from shipworthy.app.agent import Agent
from shipworthy.app.commands import results
from shipworthy.app.commands.printing import OK, Printer, failed
from shipworthy.app.commands.running import follow
from shipworthy.app.commands.runs import settlement_of
from shipworthy.app.commands.target import closing, load_agent
from shipworthy.domain.results import RunResult
from shipworthy.errors import InputError

_SETTLE = "/settle "


class Chat(msgspec.Struct, kw_only=True):
    """One conversation. `paused` is the run that waits for a person, if the last one does."""

    agent: Agent[Any, Any]
    target: str
    tenant: str
    user: str
    session: str
    paused: RunResult[Any] | None = None


def chat(target: str, tenant: str, user: str, session: str, *, as_json: bool) -> int:
    """Talk until the end of the input; gives the exit code of the last answer."""
    printer = Printer(as_json=as_json)
    with printer.user_code(), asyncio.Runner() as runner:
        talk = Chat(agent=load_agent(target), target=target, tenant=tenant, user=user, session=session)
        if printer.interactive:
            printer.say(
                f"Session {session} of {user} at {tenant}. Ctrl-C stops an answer, Ctrl-D leaves.", "dim"
            )
        try:
            return _converse(printer, runner, talk)
        finally:
            runner.run(_close(talk.agent))


def _converse(printer: Printer, runner: asyncio.Runner, talk: Chat) -> int:
    code = OK
    while (said := _ask(printer)) is not None:
        if not said.strip():
            continue
        try:
            code = runner.run(
                _settle(printer, talk, said) if said.startswith(_SETTLE) else _say(printer, talk, said)
            )
        except KeyboardInterrupt:
            printer.emit({"cancelled": True}) if printer.as_json else printer.say("\n(cancelled)", "dim")
        except Exception as error:
            code = failed(error, printer)
    return code


def _ask(printer: Printer) -> str | None:
    """The next thing that the person says; None at the end."""
    while True:
        try:
            if printer.interactive and sys.stdin.isatty():
                return input("\n> ")
            line = sys.stdin.readline()
            return line.rstrip("\n") if line else None
        except EOFError:
            printer.say()
            return None
        except KeyboardInterrupt:
            if not printer.interactive:
                raise
            printer.say("\n(Ctrl-D leaves)", "dim")


async def _say(printer: Printer, talk: Chat, said: str) -> int:
    who: Any = {"tenant_id": talk.tenant, "user_id": talk.user, "session_id": talk.session}
    talk.paused = None
    if printer.as_json:
        result = await talk.agent.run(said, **who)
        code = results.show(printer, result, agent=talk.target)
    else:
        async with talk.agent.stream(said, **who) as stream:
            code = await follow(printer, stream, talk.target)
            result = stream.result
    if result.status == "paused":
        talk.paused = result
        if printer.interactive and any([call.kind == "in_doubt" for call in result.pending]):
            printer.say(f"  or here: {_SETTLE}CALL=happened|did_not_happen", "dim")
    return code


async def _settle(printer: Printer, talk: Chat, said: str) -> int:
    """What the person found out about calls in doubt, and the run goes on."""
    if talk.paused is None:
        raise InputError("No run waits in this conversation.", fix="Say something else.")
    settlements = dict([settlement_of(text) for text in said.removeprefix(_SETTLE).split()])
    result = await talk.agent.resume(talk.paused, settle=settlements)
    talk.paused = result if result.status == "paused" else None
    return results.show(printer, result, agent=talk.target)


async def _close(agent: Agent[Any, Any]) -> None:
    async with closing(agent):
        pass
