"""Calls that need a yes: whether there is one that stands, and asking for it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from msgspec.structs import replace

from shipworthy.domain.approvals import ApprovalRequest
from shipworthy.domain.events import (
    AnswerRejected,
    ApprovalDenied,
    ApprovalGranted,
    ApprovalRequested,
    HumanAnswered,
    ToolReturned,
)
from shipworthy.domain.messages import RUNTIME, Message, Text, ToolCall
from shipworthy.domain.pausing import PendingCall
from shipworthy.domain.policy import Approve, Decision, Deny
from shipworthy.domain.scope import Scope
from shipworthy.engine.live import LiveRun
from shipworthy.engine.objecting import answered, log
from shipworthy.engine.refusing import deny
from shipworthy.engine.signing import Refusal, event_of, grant_of, token_of, verified
from shipworthy.errors import StoreError
from shipworthy.ports.tools import Tool
from shipworthy.rules import approvals as rules
from shipworthy.rules.approvals import address_of, agrees, canonical, digest_of, holds, root_of, tool_key
from shipworthy.rules.calls import Call
from shipworthy.rules.policies.check import sound
from shipworthy.rules.text import described

_NOBODY = "It needs the approval of a person, and there is nobody to ask."
_LATE = "Nobody approved of it in time."


def conclude(run: LiveRun, call: Call) -> bool:
    """Record what becomes of a call that people said no to, or whose body's question nobody answered in time; whether
    that was its end, so that it is not judged."""
    if call.denied is not None:
        no = call.denied
        told = f"a person said no. {no.reason}".rstrip()
        deny(run, call, Decision.deny_(no.reason, rule="person", tell=told))
        return True
    question = call.question
    if question is None or is_answered(run, call) or not _is_past(question.expires_at):
        return False
    if question.default is None:
        words = "Not done: nobody answered its question in time."
        said = (Text(words, RUNTIME, "untrusted"),)
        run.record(ToolReturned(call_id=call.call.call_id, content=said, outcome="not_done"))
        return True
    address = address_of(run.state.started.parent, call.call.call_id)
    run.record(
        HumanAnswered(
            address=address,
            ordinal=question.ordinal,
            digest=question.digest,
            answer=question.default,
            origin=RUNTIME,
        )
    )
    return False


def is_answered(run: LiveRun, call: Call) -> bool:
    """Whether the body's question has its answer."""
    return call.question is None or len(call.answers) > call.question.ordinal


async def edit_of(run: LiveRun, call: Call) -> tuple[str, ToolCall] | None:
    """Other arguments that an approver signed, if they are not those of the call already, and who that was."""
    for grant in reversed(call.grants):
        if grant.call is None:
            continue
        if await run.arguments_of(call.wanted) == await run.arguments_of(grant.call):
            return None
        said = await _signed(run, grant)
        text = await run.arguments_of(grant.call)
        if said is not None and digest_of(text) == said.digest and not _is_over(call, grant):
            return f"approver:{said.approver}", grant.call
    return None


def reject(run: LiveRun, call: Call, by: str) -> None:
    """Arguments that an approver gave do not fit the tool: that yes does not count."""
    address = address_of(run.state.started.parent, call.call.call_id)
    run.record(AnswerRejected(reason="arguments", address=address, by=by))


async def standing(
    run: LiveRun, call: Call, tool: Tool, decision: Decision, digest: str
) -> tuple[str, ...] | None:
    """The approvals that the call uses up, if there are enough for exactly these arguments under exactly this rule: of
    this call, or remembered ones. Raises StoreError."""
    approved: dict[str, str] = {}
    for grant in call.grants:
        if (grant.rule, grant.digest, grant.tool) != (decision.rule, digest, tool.spec.name):
            continue
        if decision.among and grant.approver not in decision.among:
            continue
        if not _is_over(call, grant) and await _signed(run, grant) is not None:
            approved.setdefault(grant.approver, grant.id)
    if len(approved) >= decision.approvers:
        return tuple(approved.values())
    if decision.approvers == 1:
        return await _remembered(run, tool, decision, digest)
    return None


async def _remembered(run: LiveRun, tool: Tool, decision: Decision, digest: str) -> tuple[str, ...] | None:
    started, now = run.state.started, time.time_ns() // 1_000_000
    here: LiveRun | None = run
    kept = [*run.remembered]
    while here is not None:  # what was said of a call of this tree of runs
        kept += here.state.remembered
        here = here.parent
    tokens = [(grant.token, root_of(started)) for grant in kept]
    if run.scope.user is not None:
        key = tool_key(run.agents, tool.spec.name)
        users = await run.store.grants(run.scope)
        tokens += [(grant.token, "") for grant in users if grant.tool == key]
    for token, root in tokens:
        try:
            said = await verified(run.keyring, token)
        except Refusal:
            continue
        mine = (said.tenant, said.user, said.agents) == (run.scope.tenant, run.scope.user, run.agents)
        close = said.run == root if root else said.remember == "user"
        among = not decision.among or said.approver in decision.among
        if (
            mine
            and close
            and among
            and holds(said, tool=tool.spec.name, rule=decision.rule, digest=digest, now=now)
        ):
            return (said.id,)
    return None


async def _signed(run: LiveRun, grant: ApprovalGranted) -> rules.Approval | None:
    """What the approver signed, if the event says the same and the signature is one of ours."""
    try:
        said = await verified(run.keyring, grant.token)
    except Refusal:
        return None
    return said if agrees(grant, said, run.state.started) else None


# --------------------------------------------------------------------------------------------------- asking


async def ask(
    run: LiveRun, call: Call, tool: Tool, decision: Decision, text: str, data: Mapping[str, Any]
) -> bool:
    """Ask people; whether that brought an answer, so that the call is to be judged anew. Otherwise the call waits for
    one, or the no is recorded."""
    asked = call.ask
    digest = digest_of(text)
    same = asked is not None and (asked.rule, asked.digest) == (decision.rule, digest)
    if same and asked is not None and _is_past(asked.expires_at):
        deny(run, call, Decision.deny_(_LATE, rule="person"))
        return False
    handler, desk = run.governance.handler, run.governance.desk
    if handler is None and desk is None:
        deny(
            run,
            call,
            Decision.deny_(decision.reason or _NOBODY, rule=decision.rule, tell=decision.tell or _NOBODY),
        )
        return False
    expires = (
        asked.expires_at
        if same and asked is not None
        else _end(desk.expires_in if desk is not None else None)
    )
    await _drop_invalid(run, call)
    request = ApprovalRequested(
        call_id=call.call.call_id,
        tool=tool.spec.name,
        effect=tool.effect,
        digest=digest,
        rule=decision.rule,
        policy=run.governance.version,
        reason=decision.reason,
        approvers=decision.approvers,
        among=decision.among,
        expires_at=expires,
        key=(await run.keyring.newest()).id,
    )
    if handler is None and _is_asked(call, request):
        run.wait_on(call)
        return False
    run.record(request)
    if handler is None:
        if not same:
            run.asked.add(address_of(run.state.started.parent, call.call.call_id))
        return False
    return await _handled(run, call, tool, text, data)


def _is_asked(call: Call, request: ApprovalRequested) -> bool:
    """Whether people were asked exactly this last, and nothing that was said counts for anything else."""
    if call.ask is None or call.question is not None:
        return False
    said = {(grant.rule, grant.digest) for grant in call.grants} <= {(request.rule, request.digest)}
    return said and replace(request, seq=call.ask.seq, at=call.ask.at) == call.ask


async def _drop_invalid(run: LiveRun, call: Call) -> None:
    """Whoever said a yes that does not stand any more can say it again."""
    address = address_of(run.state.started.parent, call.call.call_id)
    for grant in call.grants:
        reason = "expired" if _is_over(call, grant) else "signature"
        if reason == "expired" or await _signed(run, grant) is None:
            run.record(AnswerRejected(reason=reason, address=address, by=f"approver:{grant.approver}"))


async def _handled(run: LiveRun, call: Call, tool: Tool, text: str, data: Mapping[str, Any]) -> bool:
    """Ask the handler now. Whatever it does wrong is a no."""
    handler = run.governance.handler
    assert handler is not None
    waiting = waiting_for(run, call, text)
    request = request_of(waiting, run.scope, root_of(run.state.started), data, await run.messages())
    try:
        await run.commit()
        answer = await answered(
            lambda: handler(run.context(call.wanted), request), run.governance.handler_patience
        )
        answer = _answer_of(answer, handler.name)
        token = await token_of(run.keyring, run.scope, root_of(run.state.started), waiting, answer)
        event = await event_of(run.keyring, run.scope, root_of(run.state.started), waiting, token, answer)
    except Refusal as no:
        return _unanswered(run, call, handler.name, no.what)
    except TimeoutError:
        patience = run.governance.handler_patience
        return _unanswered(run, call, handler.name, f"it gave no answer within {patience:g} seconds")
    except StoreError:
        raise
    except Exception as error:
        return _unanswered(run, call, handler.name, f"it raised {described(error)}")
    _record(run, event)
    await run.commit()  # what a person said is not asked again after a crash
    if isinstance(event, ApprovalDenied):
        conclude(run, call)
        return False
    return True


def _record(run: LiveRun, event: ApprovalGranted | ApprovalDenied) -> None:
    if isinstance(event, ApprovalGranted):
        if (grant := grant_of(event, run.scope, run.agents)) is not None:
            run.grants.append(grant)
        if event.call is not None:
            event = replace(event, call=run.pack(event.call))
        if event.remember == "run":
            run.remembered.append(event)
    run.record(event)


def _answer_of(answer: Any, name: str) -> Approve | Deny:
    """What a handler gave. Raises Refusal for what is no answer."""
    if type(answer) in (Approve, Deny):
        made: Approve | Deny = answer
        return made
    if type(answer) is Decision and sound(answer) is None and answer.ruling != "ask":
        by = f"handler:{name}"
        return Approve(by=by) if answer.ruling == "allow" else Deny(by=by, reason=answer.reason)
    raise Refusal(f"it gave a {type(answer).__name__}; it has to give Approve(by=...) or Deny(by=...)")


def _unanswered(run: LiveRun, call: Call, name: str, why: str) -> bool:
    log.warning("The approval handler %s did not decide, so the call is denied: %s", name, why)
    told = "nobody could be asked for approval."
    deny(run, call, Decision.deny_(f"{name} did not decide: {why}", rule="handler:error", tell=told))
    return False


def waiting_for(run: LiveRun, call: Call, text: str) -> PendingCall:
    """A call that people are asked about, as they see it."""
    assert call.ask is not None
    return pending_approval(
        call, address_of(run.state.started.parent, call.call.call_id), run.agents, run.run_id, text
    )


def pending_approval(
    call: Call, address: str, agents: tuple[str, ...], run_id: str, arguments: str
) -> PendingCall:
    """What is asked of people about *call*, with whoever has said yes so far. What they sign is what they are shown,
    and not what the journal says that they were asked."""
    asked = call.ask
    assert asked is not None
    found = canonical(arguments)
    text = arguments if found is None else found[1]
    digest = digest_of(text)
    now = (asked.rule, digest)
    counted = [g for g in call.grants if (g.rule, g.digest) == now and not _is_over(call, g)]
    yes = dict.fromkeys([g.approver for g in counted if not asked.among or g.approver in asked.among])
    return PendingCall(
        call_id=call.call.call_id,
        tool=asked.tool,
        arguments=text,
        reason=asked.reason,
        kind="approval",
        address=address,
        agents=agents,
        run_id=run_id,
        effect=asked.effect,
        rule=asked.rule,
        policy=asked.policy,
        digest=digest,
        approvers=asked.approvers,
        among=asked.among,
        approved_by=tuple(yes),
        expires_at=asked.expires_at,
        key=asked.key,
    )


def request_of(
    waiting: PendingCall, scope: Scope, root: str, data: Mapping[str, Any], seen: Sequence[Message]
) -> ApprovalRequest:
    """What people are shown."""
    return ApprovalRequest(
        scope=scope,
        run_id=root,
        address=waiting.address,
        agents=waiting.agents,
        tool=waiting.tool,
        effect=waiting.effect,  # type: ignore[arg-type]
        arguments=MappingProxyType(dict(data)),
        digest=waiting.digest,
        rule=waiting.rule,
        policy=waiting.policy,
        reason=waiting.reason,
        approvers=waiting.approvers,
        among=waiting.among,
        approved_by=waiting.approved_by,
        expires_at=waiting.expires_at,
        seen=seen,
    )


def _end(seconds: float | None) -> int | None:
    return None if seconds is None else time.time_ns() // 1_000_000 + int(seconds * 1000)


def _is_over(call: Call, grant: ApprovalGranted) -> bool:
    """Whether the time to begin the call by this yes has passed; one that it was begun by goes on covering it."""
    return _is_past(grant.expires_at) and grant.id not in call.used


def _is_past(at: int | None) -> bool:
    return at is not None and at <= time.time_ns() // 1_000_000
