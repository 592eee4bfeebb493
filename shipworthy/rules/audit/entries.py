"""Entries made from events. What a fact says is never erased, so it is names, counts and decisions; what people, models
and tools said is in the body, which is the event itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, assert_never

from shipworthy.domain.audit import Draft
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
from shipworthy.domain.scope import Scope
from shipworthy.domain.usage import Charge, Usage
from shipworthy.rules.calls import Call
from shipworthy.rules.codec import encode_event

Said = tuple[str, str, dict[str, Any]]
"""An action, its actor, and facts."""
_RUNTIME = "runtime"

_OfModel = ModelRequested | ModelAnswered | ModelFailed | ModelAbandoned
_OfBudget = BudgetReached | BudgetWarned | BudgetUnchecked
_OfApproval = ToolsJudged | ArgumentsReplaced | ApprovalRequested | ApprovalGranted | ApprovalDenied
_OfPeople = HumanAsked | HumanAnswered | AgentPaused | AnswerRejected | AnswerDropped
_OfTool = ToolAttempted | ToolReturned | ToolInDoubt | ToolSettled
_OfMemory = MemoryRecalled | MemoryWritten | FactsLearned
_OfRun = RunStarted | RunResumed | RunParked | OutputRejected | StopRequested | RunEnded


UNKNOWN = "(unknown)"
"""In the place of a tool's name that a model made up: what models say can be erased, and facts cannot."""


class Narrator:
    """Tells of one run's events. `known`: the names of its agent's tools, as far as they are known here."""

    def __init__(self, scope: Scope, run_id: str, agent: str, known: Collection[str]) -> None:
        self._scope, self._run, self._agent = scope, run_id, agent
        self._known = known
        self._tools: dict[str, str] = {}

    def recall(self, calls: Mapping[str, Call]) -> None:
        """The run goes on with these calls open; one that was judged is of a tool."""
        self._tools = {
            call_id: call.call.name if call.effect is not None else self._named(call.call.name)
            for call_id, call in calls.items()
        }

    def _named(self, name: str) -> str:
        return name if name in self._known else UNKNOWN

    def draft(self, event: AnyEvent, fence: int) -> Draft:
        """The entry of an event that is in the journal under this fence."""
        if type(event) is ModelAnswered:
            self._tools = {p.call_id: self._named(p.name) for p in event.parts if type(p) is ToolCall}
        action, actor, facts = self._said(event)
        scope = self._scope
        return Draft(
            action=action,
            actor=actor,
            at=event.at,
            tenant=scope.tenant,
            user=scope.user,
            session=scope.session,
            run=self._run,
            n=event.seq,
            fence=fence,
            facts=facts,
            body=encode_event(event),
        )

    def _said(self, event: AnyEvent) -> Said:
        if isinstance(event, _OfModel):
            return _of_model(event, self._agent, list(self._tools.values()))
        if isinstance(event, _OfTool):
            return self._of_tool(event)
        if isinstance(event, _OfApproval):
            return self._of_approval(event)
        if isinstance(event, _OfBudget):
            return _of_budget(event)
        if isinstance(event, _OfPeople):
            return self._of_people(event)
        if isinstance(event, _OfMemory):
            return _of_memory(event)
        return _of_run(event)

    def _tool(self, call_id: str) -> str:
        return self._tools.get(call_id, "")

    def _of_tool(self, event: _OfTool) -> Said:
        name = self._tool(event.call_id)
        facts: dict[str, Any] = {"call": event.call_id, "tool": name}
        match event:
            case ToolAttempted():
                return "tool.attempted", f"agent:{self._agent}", facts | {"attempt": event.attempt}
            case ToolReturned(outcome="denied"):
                return (
                    "tool.denied",
                    f"policy:{event.rule}",
                    facts | {"policy": event.policy, "rule": event.rule},
                )
            case ToolReturned():
                return "tool.returned", f"tool:{name}", facts | {"outcome": event.outcome}
            case ToolInDoubt():
                return "tool.in_doubt", f"tool:{name}", facts
            case ToolSettled():
                return "tool.settled", event.by, facts | {"happened": event.happened}
            case _:
                assert_never(event)

    def _of_approval(self, event: _OfApproval) -> Said:
        match event:
            case ToolsJudged():
                calls = [
                    {
                        "approvals": list(call.approvals),
                        "call": call.call_id,
                        "effect": call.effect,
                        "policy": call.policy,
                        "rule": call.rule,
                        "tool": self._tool(call.call_id),
                    }
                    for call in event.calls
                ]
                return "tools.allowed", "policy", {"calls": calls, "waiting": list(event.waiting)}
            case ArgumentsReplaced():
                return (
                    "arguments.replaced",
                    event.by,
                    {"call": event.call_id, "tool": self._tool(event.call_id)},
                )
            case ApprovalRequested():
                facts = {
                    "among": list(event.among),
                    "approvers": event.approvers,
                    "call": event.call_id,
                    "effect": event.effect,
                    "expires_at": event.expires_at,
                    "policy": event.policy,
                    "rule": event.rule,
                    "tool": event.tool,
                }
                return "approval.requested", f"policy:{event.rule}", facts
            case ApprovalGranted():
                facts = {
                    "address": event.address,
                    "covers": event.covers,
                    "edited": event.call is not None,
                    "expires_at": event.expires_at,
                    "id": event.id,
                    "remembered": event.remember is not None,
                    "rule": event.rule,
                    "tool": event.tool,
                }
                return "approval.granted", f"approver:{event.approver}", facts
            case ApprovalDenied():
                return (
                    "approval.denied",
                    f"approver:{event.approver}",
                    {"address": event.address, "id": event.id},
                )
            case _:
                assert_never(event)

    def _of_people(self, event: _OfPeople) -> Said:
        match event:
            case HumanAsked():
                return "human.asked", f"tool:{self._tool(event.call_id)}", {"call": event.call_id}
            case HumanAnswered():
                by = "nobody" if event.by is None else f"person:{event.by}"
                return "human.answered", by, {"address": event.address, "id": event.id}
            case AgentPaused():
                return "agent.paused", _RUNTIME, {"call": event.call_id, "runs": list(event.runs)}
            case AnswerRejected():
                return "answer.rejected", _RUNTIME, {"address": event.address, "by": event.by}
            case AnswerDropped():
                return "answer.dropped", _RUNTIME, {"call": event.call_id}
            case _:
                assert_never(event)


def beside(action: str, actor: str, scope: Scope, now: int, **facts: Any) -> Draft:
    """What was done about a session, a user or a tenant, and is no run's."""
    return Draft(
        action=action,
        actor=actor,
        at=now,
        tenant=scope.tenant,
        user=scope.user,
        session=scope.session,
        facts=facts,
    )


def done(action: str, who: str, now: int, tenant: str | None, facts: dict[str, Any]) -> Draft:
    """What somebody did who operates the service, beside any run."""
    return Draft(action=action, actor=f"operator:{who}", at=now, tenant=tenant, facts=facts)


def _of_model(event: _OfModel, agent: str, tools: list[str]) -> Said:
    facts: dict[str, Any]
    match event:
        case ModelRequested():
            facts = {"model": event.model, "ordinal": event.ordinal, "purpose": event.purpose}
            if event.reserved is not None:
                facts["hold"] = event.reserved.id
            return "model.requested", f"agent:{agent}", facts
        case ModelAnswered():
            facts = {"finish_reason": event.finish_reason, "ordinal": event.ordinal}
            facts["calls"] = tools
            facts |= _used(event.usage, event.charged)
            return "model.answered", f"model:{event.model}", facts
        case ModelFailed():
            facts = {"error": event.error, "ordinal": event.ordinal} | _used(event.usage, event.charged)
            return "model.failed", "model", facts
        case ModelAbandoned():
            return "model.abandoned", _RUNTIME, {"reason": event.reason} | _used(Usage(), event.charged)
        case _:
            assert_never(event)


def _used(usage: Usage, charged: Charge | None) -> dict[str, Any]:
    """Tokens as the provider counted them, and what was charged, in billionths of a US dollar; null: not known."""
    return {
        "charged_input_tokens": None if charged is None else charged.input_tokens,
        "charged_output_tokens": None if charged is None else charged.output_tokens,
        "cost": None if charged is None else charged.cost,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
    }


def _of_budget(event: _OfBudget) -> Said:
    match event:
        case BudgetReached():
            facts = {
                "cap": event.cap,
                "held": event.held,
                "limit": event.limit,
                "needed": event.needed,
                "spent": event.spent,
                "unit": event.unit,
            }
            return "budget.refused", "budget", facts
        case BudgetWarned():
            facts = {"cap": event.cap, "limit": event.limit, "soft": event.soft, "unit": event.unit}
            return "budget.warned", "budget", facts
        case BudgetUnchecked():
            return "budget.unchecked", "budget", {}
        case _:
            assert_never(event)


def _of_memory(event: _OfMemory) -> Said:
    match event:
        case MemoryRecalled():
            return "memory.recalled", "memory", {"items": [item.id for item in event.items]}
        case MemoryWritten():
            return "memory.written", "memory", {"ids": list(event.ids), "learning": event.learning}
        case FactsLearned():
            facts = {
                "added": list(event.added),
                "confirmed": list(event.confirmed),
                "quarantined": list(event.quarantined),
                "superseded": list(event.superseded),
            }
            return "facts.learned", "memory", facts
        case _:
            assert_never(event)


def _of_run(event: _OfRun) -> Said:
    match event:
        case RunStarted():
            made_of = event.fingerprint
            facts: dict[str, Any] = {
                "agent": event.agent,
                "configuration": {name: getattr(made_of, name) for name in made_of.__struct_fields__},
                "parent": None if event.parent is None else event.parent.run_id,
                "root": None if event.parent is None else event.parent.root,
            }
            asker = "caller" if event.user is None else f"user:{event.user}"
            return "run.started", asker if event.parent is None else f"agent:{event.parent.agents[-1]}", facts
        case RunResumed():
            return "run.resumed", _RUNTIME, {"changed": list(event.changed), "previous": event.previous}
        case RunParked():
            return "run.parked", _RUNTIME, {"reason": event.reason}
        case OutputRejected():
            return "output.rejected", _RUNTIME, {}
        case StopRequested():
            return "run.stopping", _RUNTIME, {"cause": event.cause}
        case RunEnded():
            return "run.ended", _RUNTIME, {"status": event.status, "stop_reason": event.stop_reason}
        case _:
            assert_never(event)
