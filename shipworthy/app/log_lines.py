"""What each event says in a log: whose, which, how much and how long; nothing that was said, asked or given."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any, NamedTuple, assert_never

from shipworthy.domain.events import (
    AgentPaused,
    AnswerDropped,
    AnswerRejected,
    AnyEvent,
    ApprovalDenied,
    ApprovalGranted,
    ApprovalRequested,
    ArgumentsReplaced,
    BudgetReached,
    BudgetUnchecked,
    BudgetWarned,
    FactsLearned,
    HumanAnswered,
    HumanAsked,
    MemoryRecalled,
    MemoryWritten,
    ModelAbandoned,
    ModelAnswered,
    ModelFailed,
    ModelRequested,
    OutputRejected,
    RunEnded,
    RunParked,
    RunResumed,
    RunStarted,
    StopRequested,
    ToolAttempted,
    ToolInDoubt,
    ToolReturned,
    ToolSettled,
    ToolsJudged,
)
from shipworthy.domain.messages import ToolCall
from shipworthy.domain.usage import Charge

DEBUG, INFO, WARNING, ERROR = logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR
RUNS, MODEL, TOOLS, BUDGET, APPROVALS, MEMORY = "runs", "model", "tools", "budget", "approvals", "memory"

DOMAINS: dict[type, tuple[str, int]] = {
    RunStarted: (RUNS, INFO),
    RunResumed: (RUNS, INFO),
    RunParked: (RUNS, WARNING),
    StopRequested: (RUNS, INFO),
    RunEnded: (RUNS, ERROR),
    ModelRequested: (MODEL, DEBUG),
    ModelAnswered: (MODEL, INFO),
    ModelFailed: (MODEL, WARNING),
    ModelAbandoned: (MODEL, WARNING),
    OutputRejected: (MODEL, WARNING),
    ToolsJudged: (TOOLS, DEBUG),
    ToolAttempted: (TOOLS, DEBUG),
    ToolReturned: (TOOLS, WARNING),
    ToolInDoubt: (TOOLS, WARNING),
    ToolSettled: (TOOLS, INFO),
    ArgumentsReplaced: (TOOLS, INFO),
    BudgetReached: (BUDGET, WARNING),
    BudgetWarned: (BUDGET, WARNING),
    BudgetUnchecked: (BUDGET, ERROR),
    ApprovalRequested: (APPROVALS, INFO),
    ApprovalGranted: (APPROVALS, INFO),
    ApprovalDenied: (APPROVALS, INFO),
    HumanAsked: (APPROVALS, INFO),
    HumanAnswered: (APPROVALS, INFO),
    AgentPaused: (APPROVALS, INFO),
    AnswerRejected: (APPROVALS, WARNING),
    AnswerDropped: (APPROVALS, INFO),
    MemoryRecalled: (MEMORY, WARNING),
    MemoryWritten: (MEMORY, WARNING),
    FactsLearned: (MEMORY, INFO),
}
"""Which logger an event goes to, and the highest level that it may have there."""

UNKNOWN = "unknown tool"
"""What a call is called whose name is that of no tool."""


class Said(NamedTuple):
    """One event as a log has it."""

    level: int
    words: str
    fields: dict[str, Any]


class Clues(NamedTuple):
    """What an event does not say itself. `took`: milliseconds from the call to its result, or of the run so far."""

    tool: str = ""
    took: int | None = None


def said(event: AnyEvent, clues: Clues) -> Said:
    """What a log says of *event*."""
    level = DOMAINS[type(event)][1]
    match event:
        case RunStarted() | RunResumed() | RunParked() | StopRequested() | RunEnded():
            return _of_run(event, level, clues)
        case ModelRequested() | ModelAnswered() | ModelFailed() | ModelAbandoned() | OutputRejected():
            return _of_model(event, level, clues)
        case ToolsJudged():
            calls = [judged.call_id for judged in event.calls]
            return Said(level, f"{len(calls)} calls may run", {"calls": calls})
        case ToolAttempted() | ToolReturned() | ToolInDoubt() | ToolSettled() | ArgumentsReplaced():
            return _of_tool(event, level, clues)
        case BudgetReached() | BudgetWarned() | BudgetUnchecked():
            return _of_budget(event, level)
        case ApprovalRequested() | ApprovalGranted() | ApprovalDenied():
            return _of_approval(event, level)
        case HumanAsked() | HumanAnswered() | AgentPaused() | AnswerRejected() | AnswerDropped():
            return _of_people(event, level, clues)
        case MemoryRecalled() | MemoryWritten() | FactsLearned():
            return _of_memory(event, level)
        case _:
            assert_never(event)


def named(tool: str, known: Collection[str]) -> str:
    """A tool's name, if it is one of these; what a model made up may say anything, and is not repeated."""
    return tool if not tool or tool in known else UNKNOWN


def _of_run(
    event: RunStarted | RunResumed | RunParked | StopRequested | RunEnded, level: int, clues: Clues
) -> Said:
    match event:
        case RunStarted():
            parent = (
                {} if event.parent is None else {"parent": event.parent.run_id, "root": event.parent.root}
            )
            return Said(level, "started", parent)
        case RunResumed():
            what = {"previous": event.previous, "fence": event.fence, "changed": list(event.changed)}
            return Said(level, f"resumed, was {event.previous}", what)
        case RunParked():
            expected = event.reason in ("approval", "answer", "agent")
            return Said(INFO if expected else level, f"paused: {event.reason}", {"reason": event.reason})
        case StopRequested():
            return Said(level, f"is to stop: {event.cause}", {"cause": event.cause})
        case RunEnded():
            level = {"failed": ERROR, "stopped": WARNING}.get(event.status, INFO)
            fields = {"status": event.status, "stop_reason": event.stop_reason, "took_ms": clues.took}
            words = f"{event.status}{f' ({event.stop_reason})' if event.stop_reason else ''}{_in(clues)}"
            return Said(level, words, fields)


def _of_model(
    event: ModelRequested | ModelAnswered | ModelFailed | ModelAbandoned | OutputRejected,
    level: int,
    clues: Clues,
) -> Said:
    match event:
        case ModelRequested():
            return Said(level, f"asks {event.model}", {"model": event.model, "purpose": event.purpose})
        case ModelAnswered():
            tokens_in, tokens_out = event.usage.input_tokens, event.usage.output_tokens
            calls = sum([isinstance(part, ToolCall) for part in event.parts])
            fields = {
                "model": event.model,
                "finish_reason": event.finish_reason,
                "calls": calls,
                "input_tokens": tokens_in,
                "output_tokens": tokens_out,
                "took_ms": clues.took,
                **_charged(event.charged),
            }
            known = tokens_in is not None or tokens_out is not None
            used = f", {tokens_in or 0} + {tokens_out or 0} tokens" if known else ""
            asks = f", {calls} calls" if calls else ""
            return Said(level, f"{event.model or 'the model'} answered{_in(clues)}{used}{asks}", fields)
        case ModelFailed():
            fields = {"error": event.error, "retry_after": event.retry_after, **_charged(event.charged)}
            return Said(level, f"an attempt failed: {event.error}", fields)
        case ModelAbandoned():
            fields = {"reason": event.reason, **_charged(event.charged)}
            return Said(level, f"an attempt was left: {event.reason}", fields)
        case OutputRejected():
            return Said(level, "the answer is no valid output", {"call": event.call_id})


def _of_tool(
    event: ToolAttempted | ToolReturned | ToolInDoubt | ToolSettled | ArgumentsReplaced,
    level: int,
    clues: Clues,
) -> Said:
    fields: dict[str, Any] = {"tool": clues.tool, "call": event.call_id}
    name = clues.tool or event.call_id
    match event:
        case ToolAttempted():
            return Said(level, f"{name}: attempt {event.attempt}", fields | {"attempt": event.attempt})
        case ToolReturned():
            fields |= {"outcome": event.outcome, "took_ms": clues.took}
            if event.rule:
                fields |= {"rule": event.rule, "policy": event.policy}
            return Said(
                INFO if event.outcome == "ok" else level, f"{name}: {event.outcome}{_in(clues)}", fields
            )
        case ToolInDoubt():
            return Said(level, f"{name}: in doubt{_in(clues)}", fields | {"took_ms": clues.took})
        case ToolSettled():
            happened = "happened" if event.happened else "did not happen"
            fields |= {"happened": event.happened, "by": event.by}
            return Said(level, f"{name}: {happened}, says {event.by}", fields)
        case ArgumentsReplaced():
            return Said(level, f"{name}: other arguments, by {event.by}", fields | {"by": event.by})


def _of_budget(event: BudgetReached | BudgetWarned | BudgetUnchecked, level: int) -> Said:
    match event:
        case BudgetReached():
            fields: dict[str, Any] = {"limit": event.limit, "unit": event.unit, "cap": event.cap}
            fields |= {"spent": event.spent, "held": event.held, "needed": event.needed, "of": event.of}
            return Said(level, f"{event.limit} is reached", fields | {"reopens_at": event.reopens_at})
        case BudgetWarned():
            fields = {"limit": event.limit, "unit": event.unit, "cap": event.cap, "soft": event.soft}
            return Said(level, f"{event.limit} is nearly reached", fields)
        case BudgetUnchecked():
            return Said(level, "the ledger could not be asked; the attempt is made all the same", {})


def _of_approval(event: ApprovalRequested | ApprovalGranted | ApprovalDenied, level: int) -> Said:
    match event:
        case ApprovalRequested():
            fields: dict[str, Any] = {"tool": event.tool, "call": event.call_id, "effect": event.effect}
            fields |= {"rule": event.rule, "policy": event.policy, "approvers": event.approvers}
            return Said(level, f"{event.tool}: approval is asked for by {event.rule}", fields)
        case ApprovalGranted():
            fields = {"tool": event.tool, "address": event.address, "approver": event.approver}
            fields |= {"rule": event.rule, "approval": event.id, "covers": event.covers}
            return Said(level, f"{event.tool}: approved by {event.approver}", fields)
        case ApprovalDenied():
            fields = {"address": event.address, "approver": event.approver, "approval": event.id}
            return Said(level, f"{event.address}: denied by {event.approver}", fields)


def _of_people(
    event: HumanAsked | HumanAnswered | AgentPaused | AnswerRejected | AnswerDropped, level: int, clues: Clues
) -> Said:
    match event:
        case HumanAsked():
            fields: dict[str, Any] = {"tool": clues.tool, "call": event.call_id, "question": event.ordinal}
            return Said(level, f"{clues.tool or event.call_id}: asks a person", fields)
        case HumanAnswered():
            fields = {"address": event.address, "question": event.ordinal, "by": event.by}
            return Said(level, f"{event.address}: answered by {event.by or 'nobody in time'}", fields)
        case AgentPaused():
            fields = {"tool": clues.tool, "call": event.call_id, "waits_for": list(event.runs)}
            return Said(level, f"{clues.tool or event.call_id}: waits for {len(event.runs)} runs", fields)
        case AnswerRejected():
            return Said(level, "an answer was not accepted", {"address": event.address, "by": event.by})
        case AnswerDropped():
            fields = {"tool": clues.tool, "call": event.call_id, "question": event.ordinal}
            return Said(level, f"{clues.tool or event.call_id}: an answer does not count any more", fields)


def _of_memory(event: MemoryRecalled | MemoryWritten | FactsLearned, level: int) -> Said:
    match event:
        case MemoryRecalled():
            fields: dict[str, Any] = {"recalled": len(event.items), "whole": not event.problem}
            less = ", and less than there is" if event.problem else ""
            return Said(level if event.problem else INFO, f"{len(event.items)} recalled{less}", fields)
        case MemoryWritten():
            fields = {"kept": len(event.ids), "whole": not event.problem, "learning": event.learning}
            less = ", and not all" if event.problem else ""
            return Said(level if event.problem else INFO, f"{len(event.ids)} kept{less}", fields)
        case FactsLearned():
            fields = {
                name: len(getattr(event, name))
                for name in ("added", "confirmed", "superseded", "quarantined")
            }
            return Said(level, f"{fields['added']} facts learned", fields | {"left_out": event.left_out})


def _charged(charge: Charge | None) -> dict[str, Any]:
    return {} if charge is None or charge.cost is None else {"cost_usd": charge.cost / 1_000_000_000}


def _in(clues: Clues) -> str:
    return "" if clues.took is None else f" in {clues.took} ms"
