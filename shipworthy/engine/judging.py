"""Whether a call may run that somebody may object to, or that has to be asked about. Whatever goes wrong is a no.

Whoever wants to know what the guarantee is reads the order of the lines in `rule`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec

from shipworthy.domain.events import ArgumentsReplaced, Judged
from shipworthy.domain.policy import Action, Decision, Replace
from shipworthy.engine import approving
from shipworthy.engine.governance import name_of
from shipworthy.engine.live import LiveRun
from shipworthy.engine.objecting import UNDECIDED, decided, decided_at_once
from shipworthy.engine.refusing import deny, refuse
from shipworthy.engine.reviewing import action_of, asked_about
from shipworthy.errors import InvalidArguments
from shipworthy.ports.policy import Policy
from shipworthy.ports.tools import Tool
from shipworthy.rules.approvals import canonical, digest_of, same_call
from shipworthy.rules.calls import Call
from shipworthy.rules.policies.combine import strictest
from shipworthy.rules.text import clean

ROUNDS = 8
"""How often a call is judged anew because its arguments were replaced, or a handler said something."""


class Made(msgspec.Struct):
    """A call's arguments: the text that is judged and executed, as plain data, and as the tool takes them."""

    text: str
    data: Mapping[str, Any]
    parsed: Any

    @property
    def digest(self) -> str:
        return digest_of(self.text)


async def rule(run: LiveRun, call: Call, tool: Tool) -> Judged | None:
    """That the call may run; None where something else is recorded of it."""
    if approving.conclude(run, call):
        return None
    for _ in range(ROUNDS):
        made = await _made(run, call, tool)
        if made is None:
            return None
        decision = await _decide(run, call, tool, made)
        if isinstance(decision, Replace):
            continue
        if decision.ruling == "deny":
            deny(run, call, decision)
            return None
        used: tuple[str, ...] | None = ()
        if decision.ruling == "ask":
            used = await approving.standing(run, call, tool, decision, made.digest)
            if used is None and await approving.ask(run, call, tool, decision, made.text, made.data):
                continue
        if used is None:
            return None
        if call.question is not None and not approving.is_answered(run, call):
            run.wait_on(call)
            return None
        run.arguments[call.call.call_id] = made.parsed
        return Judged(call.call.call_id, tool.effect, decision.rule, run.governance.version, used)
    deny(run, call, Decision.deny_(f"It was judged {ROUNDS} times, and each time anew.", rule="rounds"))
    return None


async def _made(run: LiveRun, call: Call, tool: Tool) -> Made | None:
    """The arguments as they are to be judged; None where the model is told that they are none."""
    if call.grants and (edit := await approving.edit_of(run, call)) is not None:
        by, event = edit
        text = await run.arguments_of(event)
        made = _parsed(text, tool)
        if isinstance(made, Made):
            run.record(ArgumentsReplaced(call_id=call.call.call_id, call=event, by=by))
            return made
        approving.reject(run, call, by)
    made = _parsed(await run.arguments_of(call.wanted), tool)
    if isinstance(made, Made):
        return made
    refuse(run, call, f"Invalid arguments for {call.call.name}: {made}")
    return None


def _parsed(raw: str, tool: Tool) -> Made | str:
    """The arguments, or what is wrong with them. What is parsed is the text that is judged: a tool that reads the
    model's own spelling could see other ones."""
    found = canonical(raw)
    try:
        if found is None:
            tool.parse(raw)
            return "they are not a JSON object."
        data, text = found
        return Made(text, MappingProxyType(data), tool.parse(text))
    except InvalidArguments as problem:
        return problem.what


async def _decide(run: LiveRun, call: Call, tool: Tool, made: Made) -> Decision | Replace:
    """What everybody who may object says of the call, the strictest of it; a replacement that was recorded comes before
    everything else."""
    action = action_of(run, call, tool, made.data)
    patience = run.governance.patience
    said: list[Decision] = []
    for hook in run.governance.hooks.before_tool:
        answer = await decided(
            lambda h=hook: h(run.context(call.wanted), action.copied()),  # type: ignore[misc]
            patience,
            hook.name,
        )
        if isinstance(answer, Replace):
            answer = _replaced(run, call, tool, made, answer, f"hook:{hook.name}")
            if isinstance(answer, Replace):
                return answer
        if answer is not None:
            said.append(answer)
    said += await _permitted(run, asked_about(tool, action))
    if tool.asks:
        own = tool.parse(made.text)
        answer = await decided(lambda: tool.approval(run.context(call.wanted), own), patience, "tool")
        said.append(_only_decision(answer, "tool"))
    return strictest(said)


async def _permitted(run: LiveRun, actions: Sequence[Action]) -> list[Decision]:
    """What each policy says of each of these, once where it says the same."""
    said: list[Decision] = []
    for policy in run.governance.policies:
        own: list[Decision] = []
        for action in actions:
            given = decided_at_once(policy, run.scope, action.copied()) if policy.immediate else None
            made = given if type(given) is Decision else await _waited(run, policy, action.copied(), given)
            if made not in own:
                own.append(made)
        said += own
    return said


async def _waited(run: LiveRun, policy: Policy, action: Action, given: Any) -> Decision:
    """What a policy says, or what it *gave*, that has to be waited for."""
    name = name_of(policy)

    def ask() -> Any:
        return policy.decide(run.scope, action) if given is None else given

    return _only_decision(await decided(ask, run.governance.patience, name), name)


def _only_decision(answer: Decision | Replace | None, name: str) -> Decision:
    """A policy that says nothing denies."""
    if isinstance(answer, Decision):
        return answer
    return Decision.deny_(f"{name} gave no decision.", rule=f"{name}:error", tell=UNDECIDED)


def _replaced(
    run: LiveRun, call: Call, tool: Tool, made: Made, answer: Replace, by: str
) -> Decision | Replace | None:
    """Record other arguments, which are judged anew; the same ones are no objection, and impossible ones a no."""
    try:
        if type(answer.reason) is not str:
            raise TypeError("its reason is no text")
        other = _parsed(msgspec.json.encode(answer.arguments).decode(), tool)
    except (msgspec.EncodeError, TypeError, ValueError, RecursionError) as error:
        other = f"they cannot be written as JSON: {error}"
    if isinstance(other, str):
        why = f"{by} gave arguments that do not fit: {other}"
        return Decision.deny_(why, rule=f"{by}:error", tell=UNDECIDED)
    if other.text == made.text:
        return None
    event = run.pack(same_call(call.call, other.text))
    run.record(ArgumentsReplaced(call_id=call.call.call_id, call=event, by=by, reason=clean(answer.reason)))
    return answer
