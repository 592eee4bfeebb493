"""`shipworthy policy check` and `explain`: what a policy document says of a call that somebody has in mind."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple, get_args

import msgspec
import typer

from shipworthy.app.commands.printing import OK, PAUSED, STOPPED, Printer, note
from shipworthy.app.commands.runs import moment_of, whose
from shipworthy.app.commands.target import load_agent
from shipworthy.app.policy_documents import PolicyDocument
from shipworthy.domain.effects import Effect
from shipworthy.domain.policy import Action, ActionKind, Ruling
from shipworthy.domain.scope import ANONYMOUS, Scope
from shipworthy.errors import IdentityMissing, InputError
from shipworthy.rules.policies.statements import Explanation

CODES: dict[Ruling, int] = {"allow": OK, "ask": PAUSED, "deny": STOPPED}
"""Exit codes of an explanation."""


class Question(NamedTuple):
    """A call as the options describe it."""

    tool: str
    kind: str | None
    effect: str | None
    arguments: str
    tenant: str | None
    user: str | None
    session: str | None
    path: str
    labels: Sequence[str]
    source: str | None
    returned: Sequence[str]
    allowed: Sequence[str]
    at: str | None
    agent: str | None


def check(file: str, *, as_json: bool) -> int:
    """Whether a file is a policy document; raises ConfigurationError if it is none."""
    document = PolicyDocument.load(file)
    printer = Printer(as_json=as_json)
    if as_json:
        printer.emit({"policy": {"file": file, "version": document.version, "statements": len(document)}})
    else:
        printer.say(f"{file}: {len(document)} statements, version {document.version}.")
    return OK


def explain(file: str, question: Question, *, as_json: bool) -> int:
    """Which statement decides a call. Exit code 0 for an allow, 3 for an ask, 4 for a deny."""
    printer = Printer(as_json=as_json)
    document = PolicyDocument.load(file)
    with printer.user_code():
        action = action_of(question)
    found = document.explain(scope_of(question), action)
    if as_json:
        printer.emit({"explanation": explanation_data(found), "policy": document.version})
    else:
        _say(printer, found, document)
    return CODES[found.decision.ruling]


def explanation_data(found: Explanation) -> dict[str, Any]:
    """An explanation, as JSON has it."""
    decision = found.decision
    return {
        "action": found.action,
        "ruling": decision.ruling,
        "rule": decision.rule,
        "reason": decision.reason,
        "decided_by": list(found.decided_by),
        "considered": [msgspec.to_builtins(each) for each in found.considered],
    }


def _say(printer: Printer, found: Explanation, document: PolicyDocument) -> None:
    decision = found.decision
    printer.say(f"{found.action}: {decision.ruling}, {decision.rule}")
    printer.say(f"  {decision.reason}")
    if decision.ruling == "ask":
        among = f", of {', '.join(decision.among)}" if decision.among else ""
        printer.say(f"  approvers: {decision.approvers}{among}")
    if found.considered:
        printer.say()
    for each in found.considered:
        mark = "decides" if each.id in found.decided_by else "matches" if each.matched else "no match"
        printer.say(f"  {mark:9} {each.effect:6} {each.id}")
        if each.because:
            printer.say(f"            {each.because}")
    others = len(document) - len(found.considered)
    printer.say(f"\n{others} of {len(document)} statements are about other actions.")


# what people write, as values


def scope_of(question: Question) -> Scope:
    """Whose call it is. Raises IdentityMissing."""
    if question.tenant is None and (question.user or question.session) is not None:
        raise IdentityMissing("--user and --session are a tenant's.", fix="Pass --tenant as well.")
    return whose(question.tenant or ANONYMOUS, question.user, question.session)


def action_of(question: Question) -> Action:
    """The call. What is not said is taken from the agent's tool. Raises InputError, typer.BadParameter."""
    tool = None
    path = tuple(question.path.split("/"))
    if question.agent is not None:
        agent = load_agent(question.agent)
        path = (agent.name,) if not question.path else path
        tool = agent.tools.get(question.tool)
        if tool is None:
            known = ", ".join(agent.tools) or "none"
            raise InputError(f"{question.agent} has no tool {question.tool!r}.", fix=f"It has: {known}.")
    kind: ActionKind = _one_of(
        "--kind", question.kind or (tool.kind if tool else "tool"), get_args(ActionKind)
    )
    effect: Effect = _one_of(
        "--effect", question.effect or (tool.effect if tool else "once"), get_args(Effect)
    )
    return Action(
        kind=kind,
        name=question.tool,
        effect=effect,
        arguments=_arguments(question.arguments),
        path=path,
        run_id="explained",
        call_id="explained",
        labels=frozenset(question.labels) if question.labels or tool is None else tool.labels,
        source=question.source or (tool.source if tool else "code"),
        returned=dict([_count("--returned", each) for each in question.returned]),
        allowed=dict([_count("--allowed", each) for each in question.allowed]),
        at=time.time_ns() // 1_000_000 if question.at is None else moment_of(question.at),
    )


def _one_of(option: str, value: str, known: Sequence[Any]) -> Any:
    if value not in known:
        raise typer.BadParameter(f"{option} {value!r} is none of {', '.join(known)}")
    return value


def _arguments(text: str) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(text.encode())
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InputError(f"--args {text!r} is no JSON object.", fix="Write --args '{\"amount\": 50}'.")
    return found


def _count(option: str, text: str) -> tuple[str, int]:
    name, equals, count = text.rpartition("=")
    if not equals or not name or not count.isascii() or not count.isdigit():
        raise InputError(f"{option} {text!r} counts nothing.", fix=f"Write {option} lookup_order=1.")
    return name, int(count)


def warn_of_guesses(guessed: Sequence[str]) -> None:
    """Say of which tools the journals do not tell what repeating them means."""
    if guessed:
        note(
            f"note: nothing says which effect these tools have, so `once` was taken: {', '.join(sorted(guessed))}. "
            "--agent module:agent tells."
        )
