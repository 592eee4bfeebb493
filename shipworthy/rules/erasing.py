"""What is left of a journal when those whose it was are forgotten: tombstones, which fold as the events did.

Kept is what folding, budgets and statistics need: which kinds of events there were, in which order and when; names of
agents, models, limits and rules, which are the developer's; effects, outcomes, usage, charges and counts. Everything
else goes: what was said, asked, called with, answered and returned, why, by whom and for whom; digests too, for those
of short personal values can be guessed; the ids of users, sessions and runs, which are often a name or the number of an
invoice, and those of calls, which are made of a run's. The tenant's id stays, without which no row could be read. A
tool's name stays if one of the run's tools was called by it: a model may say anything in the place of a name.

Nothing is kept that is not named here: of a field that somebody adds, only numbers and words of a fixed few stay.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar, assert_never

import msgspec
from msgspec import inspect
from msgspec.structs import replace

from shipworthy.domain.audit import Entry
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
    Judged,
    MemoryRecalled,
    MemoryWritten,
    ModelAbandoned,
    ModelAnswered,
    ModelFailed,
    ModelRequested,
    OutputRejected,
    Parent,
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
from shipworthy.domain.journal import Tombstones
from shipworthy.domain.messages import DEVELOPER, MEMORY, MODEL, RUNTIME, USER, Text, Thinking, ToolCall
from shipworthy.domain.scope import Scope
from shipworthy.domain.usage import Spent, Tally
from shipworthy.rules.ledger import account

S = TypeVar("S", bound=msgspec.Struct)
ERASED = "[erased]"
"""What stands in the place of a text."""
_TOOL = "erased"
_ORIGINS = frozenset((DEVELOPER, USER, MODEL, MEMORY, RUNTIME, "tool", "agent", "approver"))
_REFUSALS = frozenset(("arguments", "expired", "signature"))
_PLAIN = (inspect.IntType, inspect.FloatType, inspect.BoolType, inspect.NoneType, inspect.LiteralType)
_MISSING = object()
_json = msgspec.json.Encoder()


class Names:
    """Other names for the runs and calls of a tree: the same wherever they are said in it, and nowhere else. `tools`:
    names that are tools'."""

    def __init__(self, runs: Mapping[str, str], tools: Iterable[str]) -> None:
        self._runs = dict(runs)
        self._calls: dict[str, str] = {}
        self._tools = frozenset(tools)

    def run(self, run_id: str) -> str:
        """A run's; of one that is not in the tree, none that says which it was."""
        return self._runs.get(run_id, _TOOL)

    def call(self, call_id: str) -> str:
        """A call's."""
        return self._calls.setdefault(call_id, f"call_{len(self._calls) + 1}")

    def address(self, address: str) -> str:
        """That of a call in a nested run: the ids from the outermost one on."""
        return "/".join([self.call(each) for each in address.split("/")]) if address else ""

    def tool(self, name: str) -> str:
        """A tool's own, which the developer gave it."""
        return name if name in self._tools else _TOOL


def tombstones(journals: Sequence[Sequence[AnyEvent]], alias: str) -> list[Tombstones]:
    """What is left of a run, and of those nested in it, each given as its whole journal, the outermost first. *alias*
    is the run's name from now on, and those of the nested ones begin with it."""
    ids = [_started(events).run_id for events in journals]
    runs = {run_id: f"{alias}.{n}" if n else alias for n, run_id in enumerate(ids)}
    names = Names(runs, {tool for events in journals for tool in _tools(events)})
    return [
        Tombstones(run_id, runs[run_id], [erased(event, names) for event in events])
        for run_id, events in zip(ids, journals, strict=True)
    ]


def _started(events: Sequence[AnyEvent]) -> RunStarted:
    started = events[0]
    assert type(started) is RunStarted, "a journal begins with it"
    return started


def _tools(events: Sequence[AnyEvent]) -> set[str]:
    """Names by which tools were called that the agent has: those of calls that were judged."""
    names: dict[str, str] = {}
    found: set[str] = set()
    for event in events:
        match event:
            case ModelAnswered():
                names |= {part.call_id: part.name for part in event.parts if type(part) is ToolCall}
            case ToolsJudged():
                found |= {names[call.call_id] for call in event.calls if call.call_id in names}
            case ApprovalRequested():
                found.add(event.tool)
            case ToolReturned(outcome="denied") if event.call_id in names:
                found.add(names[event.call_id])
    return found


def erased(event: AnyEvent, names: Names) -> AnyEvent:  # noqa: C901 - an exhaustive match
    """What is left of an event."""
    match event:
        case RunStarted():
            run_id, prompt = names.run(event.run_id), (Text(ERASED),)
            parent = None if event.parent is None else _parent(event.parent, names)
            return _left(
                event,
                run_id=run_id,
                tenant=event.tenant,
                prompt=prompt,
                agent=event.agent,
                parent=parent,
                session_head=0,
            )
        case RunResumed():
            return _left(event, changed=event.changed)
        case ModelRequested():
            reserved = None if event.reserved is None else _left(event.reserved)
            return _left(event, model=event.model, reserved=reserved)
        case ModelAnswered():
            return _left(event, parts=_parts(event, names), model=event.model)
        case ModelFailed():
            return _left(event, error=event.error, message=ERASED)
        case ToolAttempted() | ToolInDoubt() | ToolReturned() | ToolSettled() | ToolsJudged():
            return _of_work(event, names)
        case BudgetReached() | BudgetWarned():
            return _left(event, limit=event.limit, unit=event.unit)
        case BudgetUnchecked():
            return _left(event, error=ERASED)
        case ArgumentsReplaced() | ApprovalRequested() | ApprovalGranted() | ApprovalDenied():
            return _of_approval(event, names)
        case HumanAsked() | HumanAnswered() | AnswerRejected() | AnswerDropped() | AgentPaused():
            return _of_people(event, names)
        case ModelAbandoned() | RunParked() | StopRequested() | FactsLearned():
            return _left(event)
        case MemoryRecalled():
            items = tuple([_left(item, origin=_origin(item.origin)) for item in event.items])
            return _left(event, items=items, problem=event.problem and ERASED)
        case MemoryWritten():
            return _left(event, problem=event.problem and ERASED)
        case OutputRejected():
            call_id = None if event.call_id is None else names.call(event.call_id)
            return _left(event, problem=ERASED, call_id=call_id)
        case RunEnded():
            call_id = None if event.output_call is None else names.call(event.output_call)
            error = None if event.error is None else ERASED
            return _left(event, stop_reason=event.stop_reason, output_call=call_id, error=error)
        case _:
            assert_never(event)


def _of_work(
    event: ToolAttempted | ToolInDoubt | ToolReturned | ToolSettled | ToolsJudged, names: Names
) -> AnyEvent:
    match event:
        case ToolsJudged():
            waiting = tuple([names.call(each) for each in event.waiting])
            return _left(event, calls=tuple([_judged(each, names) for each in event.calls]), waiting=waiting)
        case ToolAttempted():
            return _left(event, call_id=names.call(event.call_id))
        case ToolInDoubt():
            return _left(event, call_id=names.call(event.call_id), reason=ERASED)
        case ToolSettled():
            return _left(event, call_id=names.call(event.call_id), content=_content(event.content))
        case ToolReturned():
            return _left(
                event,
                call_id=names.call(event.call_id),
                content=_content(event.content),
                rule=event.rule,
                policy=event.policy,
                nested=_spent(event.nested, names),
            )
        case _:
            assert_never(event)


def _of_approval(
    event: ArgumentsReplaced | ApprovalRequested | ApprovalGranted | ApprovalDenied, names: Names
) -> AnyEvent:
    match event:
        case ArgumentsReplaced():
            by = "approver:" if event.by.startswith("approver:") else "hook"
            return _left(event, call_id=names.call(event.call_id), call=_call(event.call, names), by=by)
        case ApprovalRequested():
            rules = {"rule": event.rule, "policy": event.policy}
            return _left(event, call_id=names.call(event.call_id), tool=names.tool(event.tool), **rules)
        case ApprovalGranted():
            call = None if event.call is None else _call(event.call, names)
            address, tool = names.address(event.address), names.tool(event.tool)
            return _left(event, address=address, tool=tool, rule=event.rule, call=call)
        case ApprovalDenied():
            return _left(event, address=names.address(event.address))
        case _:
            assert_never(event)


def _of_people(
    event: HumanAsked | HumanAnswered | AnswerRejected | AnswerDropped | AgentPaused, names: Names
) -> AnyEvent:
    said = Text(_json.encode(ERASED).decode())  # questions and answers are JSON
    match event:
        case HumanAsked():
            return _left(event, call_id=names.call(event.call_id), data=said)
        case HumanAnswered():
            by = None if event.by is None else ERASED
            return _left(event, address=names.address(event.address), answer=said, by=by)
        case AnswerRejected():
            reason = event.reason if event.reason in _REFUSALS else ERASED
            return _left(event, reason=reason, address=names.address(event.address))
        case AnswerDropped():
            return _left(event, call_id=names.call(event.call_id), reason=ERASED)
        case AgentPaused():
            runs = tuple([names.run(run_id) for run_id in event.runs])
            return _left(
                event, call_id=names.call(event.call_id), runs=runs, nested=_spent(event.nested, names)
            )
        case _:
            assert_never(event)


# parts of events


def _parent(parent: Parent, names: Names) -> Parent:
    path = tuple([names.call(each) for each in parent.path])
    return Parent(names.run(parent.run_id), names.run(parent.root), path, parent.agents)


def _parts(event: ModelAnswered, names: Names) -> tuple[Text | ToolCall, ...]:
    """The calls, and that something was said. Thinking goes: no provider takes it back without its signature."""
    left: list[Text | ToolCall] = []
    for part in event.parts:
        if type(part) is ToolCall:
            left.append(_call(part, names))
        elif type(part) is not Thinking:
            left.append(Text(ERASED, origin=MODEL, trust=part.trust))
    if event.parts and not left:
        left.append(Text(ERASED, origin=MODEL, trust="untrusted"))
    return tuple(left)


def _judged(call: Judged, names: Names) -> Judged:
    return _left(call, call_id=names.call(call.call_id), rule=call.rule, policy=call.policy)


def _call(call: ToolCall, names: Names) -> ToolCall:
    return ToolCall(names.tool(call.name), "{}", names.call(call.call_id), trust=call.trust)


def _content(content: Sequence[Any]) -> tuple[Text, ...]:
    """One text, where there was anything."""
    return (Text(ERASED, origin=RUNTIME),) if content else ()


def _spent(spent: Spent | None, names: Names) -> Spent | None:
    return None if spent is None else replace(spent, tallies=tuple([_tally(t, names) for t in spent.tallies]))


def _tally(tally: Tally, names: Names) -> Tally:
    return Tally(names.run(tally.run), _counts(tally.allowed, names), _counts(tally.returned, names))


def _counts(counts: Mapping[str, int], names: Names) -> dict[str, int]:
    left: dict[str, int] = {}
    for tool, count in counts.items():
        left[names.tool(tool)] = left.get(names.tool(tool), 0) + count
    return left


def _origin(origin: str) -> str:
    """What kind of thing something came from, without its name."""
    kind = origin.partition(":")[0]
    return kind if kind in _ORIGINS else RUNTIME


# whatever is not named


def _left(value: S, **kept: Any) -> S:
    """*value* with nothing but numbers, words of a fixed few, and what is *kept*."""
    changes = {name: nothing for name, nothing in _nothings(type(value)).items() if name not in kept}
    assert _MISSING not in changes.values(), f"{type(value).__name__} needs a word on {changes}"
    if "origin" in changes:
        changes["origin"] = _origin(getattr(value, "origin", RUNTIME))
    return replace(value, **changes, **kept)


@cache
def _nothings(kind: type[Any]) -> dict[str, Any]:
    """What stands in the place of each field that can say something."""
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    return {field.name: _nothing(field) for field in info.fields if not _is_plain(field.type)}


def _nothing(field: inspect.Field) -> Any:
    if field.default is not msgspec.NODEFAULT:
        return field.default
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    kinds = field.type.types if isinstance(field.type, inspect.UnionType) else (field.type,)
    if any([isinstance(each, inspect.NoneType) for each in kinds]):
        return None
    of = {inspect.StrType: "", inspect.VarTupleType: (), inspect.DictType: {}}
    return of.get(type(kinds[0]), _MISSING)


def _is_plain(declared: inspect.Type) -> bool:
    """Whether values of a type say nothing: numbers, and one of a few words."""
    if isinstance(declared, inspect.UnionType):
        return all([_is_plain(each) for each in declared.types])
    if isinstance(declared, inspect.StructType):
        return all([_is_plain(field.type) for field in declared.fields])
    return isinstance(declared, _PLAIN)


# what a ledger keeps under somebody's name


def accounts_of(scope: Scope) -> tuple[str, ...]:
    """How the keys of counters, caps and rates begin that count for a user of the scope, or for a session of theirs.
    The tenant's own are not among them: what they limit goes on."""
    tenant = scope.tenant
    if scope.session is not None:
        return (head_of("session", tenant, account("session", tenant, scope.user, scope.session).name),)
    if scope.user is not None:
        user = head_of("user", tenant, account("user", tenant, scope.user).name)
        return user, _json.encode(["session", tenant, head_of(scope.user)]).decode()[:-2]
    return head_of("user", tenant), head_of("session", tenant)


def accounts_of_run(tenant: str, run_id: str) -> tuple[str, ...]:
    """How the keys of counters begin that count for one run alone."""
    alone = account("session", tenant, None, run_id).name
    return head_of("run", tenant, account("run", tenant, run_id).name), head_of("session", tenant, alone)


def holds_of_run(tenant: str, run_id: str) -> tuple[str, ...]:
    """How the names of a run's holds begin."""
    return head_of(tenant, run_id), head_of("calls", tenant, run_id)


def head_of(*parts: str) -> str:
    """How a JSON array begins that goes on after these: the keys of an account's counters and rates, for one, after its
    level, tenant and name."""
    return _json.encode(parts).decode()[:-1] + ","


def concerns(scope: Scope, run_ids: Collection[str], entry: Entry) -> bool:
    """Whether an entry of an audit log is of the scope's user, of its session or, as those that learned from it are in
    none, of one of these runs of the user; or of anybody of the tenant."""
    return (
        entry.tenant == scope.tenant
        and scope.user in (None, entry.user)
        and (scope.session in (None, entry.session) or entry.run in run_ids)
    )
