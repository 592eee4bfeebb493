"""`shipworthy run`: one run, streamed or not."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import msgspec

from shipworthy.app.commands import results
from shipworthy.app.commands.printing import Printer
from shipworthy.app.commands.target import closing, load_agent
from shipworthy.app.commands.timeline import one_line
from shipworthy.app.stream import AgentStream
from shipworthy.domain.events import Event, ModelAnswered, ModelFailed, ToolAttempted
from shipworthy.domain.messages import ToolCall
from shipworthy.domain.model import TextDelta
from shipworthy.domain.results import RunResult
from shipworthy.errors import InvalidPrompt


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What `run` was asked for."""

    agent: str
    prompt: str
    tenant: str | None
    user: str | None
    session: str | None
    run_id: str | None
    timeout: float | None
    stream: bool | None
    as_json: bool


def run(request: Request) -> int:
    """Run to an end or a pause; gives the exit code."""
    printer = Printer(as_json=request.as_json)
    prompt = _from_stdin() if request.prompt == "-" else request.prompt
    with printer.user_code():
        return asyncio.run(_run(printer, request, prompt))


def _from_stdin() -> str:
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise InvalidPrompt(f"stdin is not valid {error.encoding}: {error.reason}.") from None


async def _run(printer: Printer, request: Request, prompt: str) -> int:
    async with closing(load_agent(request.agent)) as agent:
        identity: dict[str, Any] = {
            "tenant_id": request.tenant,
            "user_id": request.user,
            "session_id": request.session,
            "run_id": request.run_id,
            "timeout": request.timeout,
        }
        if request.stream if request.stream is not None else printer.interactive:
            async with agent.stream(prompt, **identity) as stream:
                return await follow(printer, stream, request.agent)
        result = await agent.run(prompt, **identity)
        return results.show(printer, result, agent=request.agent)


async def follow(printer: Printer, stream: AgentStream[Any], agent: str) -> int:
    """Show a stream to its end; gives the exit code."""
    if printer.as_json:
        async for item in stream:
            printer.emit({"event" if isinstance(item, Event) else "delta": item})
        printer.emit({"result": results.as_data(stream.result)})
        return results.code_of(stream.result)
    shown = await _show(printer, stream)
    return results.show(printer, stream.result, agent=agent, shown=shown and _is_text(stream.result))


async def _show(printer: Printer, stream: AgentStream[Any]) -> bool:
    """Text as it comes, and beside it which tools run; says whether the last answer's text was shown."""
    calls: dict[str, ToolCall] = {}
    open_line = shown = False
    async for item in stream:
        if isinstance(item, TextDelta):
            printer.say(item.text, end="")
            open_line = shown = True
            continue
        if not isinstance(item, (ModelAnswered, ModelFailed, ToolAttempted)):
            continue
        if open_line:
            printer.say()
            open_line = False
        shown = shown and isinstance(item, ModelAnswered)
        if isinstance(item, ModelAnswered):
            calls.update({part.call_id: part for part in item.parts if isinstance(part, ToolCall)})
        elif isinstance(item, ModelFailed):
            _aside(printer, f"the attempt failed, its text does not count: {item.error}: {item.message}")
        else:
            call = calls.get(item.call_id)
            if call is not None:
                _aside(printer, f"{call.name} {call.raw_arguments}")
    return shown


def _aside(printer: Printer, text: str) -> None:
    if printer.interactive:
        printer.say(f"· {one_line(text)}", style="dim")


def _is_text(result: RunResult[Any]) -> bool:
    return result.has_output and isinstance(result.output, str)
