"""What live code would make of a run that is paused, as far as it can be told without running any of it."""

from __future__ import annotations

import inspect
import time
import warnings
from types import MappingProxyType
from typing import Any

import msgspec

from shipworthy.app.approvals import ToolApproval
from shipworthy.domain.events import ApprovalGranted
from shipworthy.domain.policy import Action, Decision
from shipworthy.domain.scope import Scope
from shipworthy.engine.blueprint import Blueprint
from shipworthy.engine.bodies import Bodies
from shipworthy.engine.going_on import misfit
from shipworthy.engine.governance import Governance, name_of
from shipworthy.engine.keyring import Keyring
from shipworthy.engine.objecting import decided
from shipworthy.engine.pending import has
from shipworthy.engine.recover import scope_of
from shipworthy.engine.reviewing import asked_about
from shipworthy.errors import InvalidArguments, JournalDamaged, RunNotFound, UnknownEvent
from shipworthy.ports.policy import Policy
from shipworthy.ports.store import Store
from shipworthy.ports.tools import Tool
from shipworthy.rules import approvals as rules
from shipworthy.rules.approvals import address_of, canonical, digest_of, tool_key
from shipworthy.rules.calls import Call
from shipworthy.rules.policies.combine import strictest
from shipworthy.rules.state import RunState, replay, take_answer
from shipworthy.rules.tallies import sums
from shipworthy.rules.text import described

_JUDGED_AGAIN = ("unjudged", "ready", "asked", "waiting")


class Problem(msgspec.Struct, frozen=True):
    """Something that would break. `kind`: journal, name, tool, agent, effect, arguments, policy, rule, approvers,
    handler, key or output."""

    kind: str
    what: str
    run_id: str
    address: str = ""
    tool: str = ""


class NotAsked(msgspec.Struct, frozen=True):
    """Code that would be asked about a call, and was not, for it may do more than compute."""

    run_id: str
    address: str
    who: str


class Whole(msgspec.Struct, frozen=True):
    """A run's agent as live code has it, and who may object: for a nested one, with all around it."""

    blueprint: Blueprint
    governance: Governance
    agents: tuple[str, ...]


class _Case(msgspec.Struct):
    """One run, and what was found of it so far."""

    state: RunState
    whole: Whole
    bodies: Bodies
    problems: list[Problem]
    not_asked: list[NotAsked]
    allowed: dict[str, int]
    returned: dict[str, int]

    def breaks(self, kind: str, what: str, call: Call | None = None) -> None:
        run_id = self.state.started.run_id
        if call is None:
            self.problems.append(Problem(kind, what, run_id))
        else:
            self.problems.append(Problem(kind, what, run_id, self.address(call), call.call.name))

    def address(self, call: Call) -> str:
        return address_of(self.state.started.parent, call.call.call_id)


class Foresight:
    """What would become of the paused runs of one store."""

    def __init__(self, store: Store, keyring: Keyring, patience: float) -> None:
        self._store, self._keyring, self._patience = store, keyring, patience

    async def of(
        self, state: RunState, whole: Whole, outer: _Case | None = None
    ) -> tuple[list[Problem], list[NotAsked]]:
        """What would break of a run, nested ones included, and who was not asked. Raises StoreError. *outer*: the run
        that it is nested in, which knows what all of them were allowed."""
        scope, run_id = scope_of(state), state.started.run_id
        bodies = Bodies(lambda digest: self._store.body(scope, run_id, digest), used=True)
        allowed, returned = sums(state) if outer is None else (outer.allowed, outer.returned)
        case = _Case(state, whole, bodies, [], [], allowed, returned)
        if state.started.fingerprint.output != whole.blueprint.fingerprint.output:
            case.breaks("output", "The agent's output is of another type than when the run began.")
        for call in state.calls.values():
            if call.allowed and call.status in _JUDGED_AGAIN:
                case.allowed[call.call.name] = case.allowed.get(call.call.name, 0) - 1
        for grant in state.remembered:
            await self._proven(case, grant, None)
        for call in state.calls.values():
            if call.status != "returned" and call.call.name not in whole.blueprint.output_tools:
                await self._call(case, call)
        return case.problems, case.not_asked

    async def _call(self, case: _Case, call: Call) -> None:
        tool = case.whole.blueprint.tools.get(call.call.name)
        if tool is None:
            kind = "agent" if call.children else "tool"
            return case.breaks(kind, "The agent no longer has it; the run stops there until it does.", call)
        if why := await misfit(self._store, case.state.started, call, tool):
            return case.breaks("agent", why, call)
        if call.effect is not None and call.effect != tool.effect:
            case.breaks("effect", f"Its effect was {call.effect} and is {tool.effect} now.", call)
        if call.status in _JUDGED_AGAIN and call.denied is None:
            for grant in call.grants:
                await self._proven(case, grant, call)
            if (data := await self._fitting(case, call, tool)) is not None:
                await self._judged(case, call, tool, data)
        for run_id in call.children:
            await self._nested(case, call, tool, run_id)
        return None

    async def _fitting(self, case: _Case, call: Call, tool: Tool) -> tuple[dict[str, Any], str] | None:
        """The arguments that the call is to be made with; None if they do not fit the tool."""
        edits = [grant.call for grant in call.grants if grant.call is not None]
        raw = await case.bodies.arguments(edits[-1] if edits else call.wanted)
        found = canonical(raw)
        try:
            tool.parse(raw if found is None else found[1])
        except InvalidArguments as problem:
            case.breaks("arguments", f"They do not fit the tool any more: {problem.what}", call)
            return None
        return found

    async def _proven(self, case: _Case, grant: ApprovalGranted, call: Call | None) -> None:
        """See that an approval is signed with a key that is known."""
        name = rules.key_of(grant.token)
        keys = await self._keyring.all(name)
        if name not in [key.id for key in keys]:
            what = f"{grant.approver} approved with the key {name}, which is not known here."
            return case.breaks("key", what, call)
        try:
            rules.read(grant.token, keys)
        except rules.Forged:
            case.breaks("key", f"The approval of {grant.approver} is not signed as it says.", call)
        return None

    async def _nested(self, case: _Case, call: Call, tool: Tool, run_id: str) -> None:
        """The same of a nested run that a call waits for."""
        try:
            state = replay(await self._store.read(Scope(case.state.started.tenant), run_id))
        except RunNotFound:
            return
        except (UnknownEvent, JournalDamaged) as error:
            return case.breaks("journal", f"Its run {run_id} cannot be read: {described(error)}", call)
        members = [each for each in getattr(tool, "members", ()) if each.name == state.started.agent]
        if not members:
            return case.breaks("agent", f"It no longer has the agent {state.started.agent!r}.", call)
        for answer in call.down:
            if answer.address.startswith(state.prefix) and not has(state, answer):
                take_answer(state, answer)
        blueprint, outer = members[0].plan().blueprint, case.whole
        governance = outer.governance.around(blueprint.governance)
        inner = Whole(blueprint, governance, (*outer.agents, blueprint.name))
        problems, not_asked = await self.of(state, inner, case)
        case.problems += problems
        case.not_asked += not_asked
        return None

    # what would be judged

    async def _judged(self, case: _Case, call: Call, tool: Tool, found: tuple[dict[str, Any], str]) -> None:
        decision, is_all = await self._decided(case, call, tool, found[0])
        if decision.ruling == "deny":
            return case.breaks(
                "policy", f"It would be denied by {decision.rule}: {decision.reason}".rstrip(": "), call
            )
        if decision.ruling == "allow":
            case.allowed[call.call.name] = case.allowed.get(call.call.name, 0) + 1
            if call.status == "asked" and is_all:
                case.breaks("rule", "People are asked about it, and it would run without an answer.", call)
            return None
        await self._asked(case, call, decision, digest_of(found[1]), is_all=is_all)
        return None

    async def _asked(self, case: _Case, call: Call, decision: Decision, digest: str, *, is_all: bool) -> None:
        """What becomes of a call that people have to approve of, or have."""
        before = call.ask.rule if call.ask is not None else ""
        if call.status == "asked" and before != decision.rule:
            if is_all:
                what = (
                    f"It was asked for by {before} and would be by {decision.rule}: no approval of it stands."
                )
                case.breaks("rule", what, call)
            return
        yes = [
            grant.approver for grant in call.grants if (grant.rule, grant.digest) == (decision.rule, digest)
        ]
        counted = {who for who in yes if not decision.among or who in decision.among}
        is_enough = len(counted) >= decision.approvers or await self._remembered(case, call, decision, digest)
        governance = case.whole.governance
        if is_enough:
            case.allowed[call.call.name] = case.allowed.get(call.call.name, 0) + 1
        elif governance.handler is None and governance.desk is None:
            case.breaks(
                "handler", "Nobody is asked any more, and it needs an approval: it would be denied.", call
            )
        elif call.status != "asked":
            case.breaks("rule", f"It was allowed, and would need an approval by {decision.rule}.", call)
        elif call.ask is not None and len(set(yes)) >= call.ask.approvers:
            case.breaks("approvers", f"{', '.join(yes)} approved, and that is not enough any more.", call)

    async def _remembered(self, case: _Case, call: Call, decision: Decision, digest: str) -> bool:
        """Whether an earlier yes covers it."""
        name, scope = call.call.name, scope_of(case.state)
        for grant in case.state.remembered:
            if (grant.tool, grant.rule) == (name, decision.rule) and (
                grant.covers == "tool" or grant.digest == digest
            ):
                return True
        if scope.user is None or decision.approvers > 1:
            return False
        key = tool_key(case.whole.agents, name)
        return any(
            [
                (kept.tool, kept.rule) == (key, decision.rule) and kept.digest in ("", digest)
                for kept in await self._store.grants(scope)
            ]
        )

    async def _decided(
        self, case: _Case, call: Call, tool: Tool, data: dict[str, Any]
    ) -> tuple[Decision, bool]:
        """The strictest of what those say who only compute; whether that is everybody."""
        said: list[Decision] = []
        unasked: list[str] = [f"before_tool hook {h.name}" for h in case.whole.governance.hooks.before_tool]
        action = _action(case, call, tool, data)
        for policy in case.whole.governance.policies:
            own: list[Decision] = []
            for each in asked_about(tool, action):
                answer = await self._policy(policy, scope_of(case.state), each)
                if answer is None:
                    unasked.append(f"policy {name_of(policy)}")
                    break
                if answer not in own:
                    own.append(answer)
            said += own
        if tool.asks:
            approval = getattr(tool, "_approval", None)
            if isinstance(approval, ToolApproval) and approval.predicate is None:
                said.append(await approval.decide(None))
            else:
                unasked.append(f"requires_approval= of tool {tool.spec.name}")
        run_id, address = case.state.started.run_id, case.address(call)
        case.not_asked += [NotAsked(run_id, address, who) for who in unasked]
        return strictest(said), not unasked

    async def _policy(self, policy: Policy, scope: Scope, action: Action) -> Decision | None:
        """A policy's decision; None from one that may do more than compute."""
        if getattr(policy, "immediate", False) is not True:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of coroutines that are not awaited
            try:
                answer: Any = policy.decide(scope, action)
                if inspect.isawaitable(answer):
                    _dropped(answer)
                    return None
            except Exception as error:
                answer = error
        made = await decided(lambda: _given(answer), self._patience, name_of(policy))
        if isinstance(made, Decision):
            return made
        return Decision.deny_(f"{name_of(policy)} gave no decision.", rule=f"{name_of(policy)}:error")


def _given(answer: Any) -> Any:
    if isinstance(answer, Exception):
        raise answer
    return answer


def _dropped(answer: Any) -> None:
    """Of a coroutine nothing has run yet."""
    if inspect.iscoroutine(answer):
        answer.close()


def _action(case: _Case, call: Call, tool: Tool, data: dict[str, Any]) -> Action:
    return Action(
        kind=tool.kind,
        name=call.call.name,
        effect=tool.effect,
        arguments=MappingProxyType(data),
        path=case.whole.agents,
        run_id=case.state.started.run_id,
        call_id=call.call.call_id,
        labels=tool.labels,
        source=tool.source,
        returned=MappingProxyType(case.returned),
        allowed=MappingProxyType(dict(case.allowed)),
        at=time.time_ns() // 1_000_000,
    )
