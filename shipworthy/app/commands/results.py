"""How a run's result is shown: to a person, and as JSON."""

from __future__ import annotations

import shlex
from typing import Any

import msgspec

from shipworthy.app.commands.answering import waiting_words
from shipworthy.app.commands.printing import ERROR, OK, PAUSED, STOPPED, Printer, note
from shipworthy.app.commands.timeline import one_line
from shipworthy.app.results import to_parts
from shipworthy.domain.messages import Text
from shipworthy.domain.results import RunResult

_CODES = {"completed": OK, "paused": PAUSED, "failed": ERROR, "running": ERROR}


def code_of(result: RunResult[Any]) -> int:
    """The exit code that says how the run stands."""
    return _CODES.get(result.status, STOPPED)


def as_data(result: RunResult[Any]) -> dict[str, Any]:
    """A result as JSON has it."""
    return {
        "run_id": result.run_id,
        "tenant": result.scope.tenant,
        "user": result.scope.user,
        "session": result.scope.session,
        "status": result.status,
        "stop_reason": result.stop_reason,
        "error": result.error,
        "output": _plain(result.output) if result.has_output else None,
        "pending": result.pending,
        "turns": result.turns,
        "usage": result.usage,
        "cost_usd": result.cost_usd,
        "retry_after": result.retry_after,
        "finish_reason": result.finish_reason,
        "seq": result.seq,
        "changed": result.changed,
    }


def output_text(result: RunResult[Any]) -> str:
    """The output as text: a str as it is, everything else as JSON."""
    value = _plain(result.output)
    return value if isinstance(value, str) else bytes(value).decode()


def show(printer: Printer, result: RunResult[Any], *, agent: str, shown: bool = False) -> int:
    """Print the output, unless it was *shown* already, and what is to be done if there is none; gives the exit code."""
    if printer.as_json:
        printer.emit(as_data(result))
        return code_of(result)
    if result.has_output and not shown:
        printer.say(output_text(result))
    if result.changed:
        note(f"note: the agent is not what it was when the run began: {', '.join(result.changed)} changed.")
    if result.status == "paused":
        _show_paused(result, agent)
    elif result.status != "completed":
        why = f": {result.error}" if result.error else ""
        note(f"{result.status} ({result.stop_reason}){why}")
        note(f"  run {result.run_id} of tenant {result.scope.tenant}")
    return code_of(result)


def _show_paused(result: RunResult[Any], agent: str) -> None:
    note(f"paused: run {result.run_id} of tenant {result.scope.tenant} waits for a person.")
    doubtful = [call for call in result.pending if call.kind == "in_doubt"]
    for call in doubtful:
        note(f"  in doubt: {call.tool}({one_line(call.arguments)})")
        note(f"    {call.reason}")
    for call in result.pending:
        if call.kind != "in_doubt":
            for line in waiting_words(call, result.run_id, result.scope.tenant):
                note(f"  {line.strip()}")
    if not result.pending:
        note(f"  {result.error}")
    resume = settle_command(result, agent)
    note(f"  Find out whether it happened, then: {resume}" if doubtful else f"  Then: {resume}")


def settle_command(result: RunResult[Any], agent: str) -> str:
    """The command that goes on with a paused run."""
    words = ["shipworthy", "runs", "resume", result.run_id, "--tenant", result.scope.tenant, "--agent", agent]
    command = shlex.join(words)
    for call in [call for call in result.pending if call.kind == "in_doubt"]:
        command += f" --settle {call.address}=happened|did_not_happen"
    return command


def _plain(value: Any) -> Any:
    """Text as it is, everything else as JSON that is already written."""
    if isinstance(value, str):
        return value
    part = to_parts(value, "output")[0] if value is not None else Text("null")
    return msgspec.Raw(part.text.encode()) if isinstance(part, Text) else msgspec.Raw(b"null")
