"""`shipworthy policy replay`: a policy document over what recorded runs did, and what it would have changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec

from shipworthy.app.commands import timeline
from shipworthy.app.commands.policies import warn_of_guesses
from shipworthy.app.commands.printing import ERROR, OK, Printer, note
from shipworthy.app.commands.target import load_agent
from shipworthy.app.policy_documents import PolicyDocument
from shipworthy.domain.effects import Effect
from shipworthy.domain.events import RunStarted
from shipworthy.domain.journal import RunSummary
from shipworthy.domain.policy import Action, Decision
from shipworthy.domain.scope import Scope
from shipworthy.engine.bodies import Bodies
from shipworthy.engine.listing import listed
from shipworthy.errors import JournalDamaged, RunNotFound, UnknownEvent
from shipworthy.ports.store import Store
from shipworthy.ports.tools import Tool
from shipworthy.rules.approvals import canonical
from shipworthy.rules.policies.replay import Recorded, recorded
from shipworthy.rules.text import described


class Replay(msgspec.Struct, frozen=True):
    """Which runs, by which document. `since`: milliseconds since the epoch. `agent`: whose tools say what the journals
    do not: kinds, labels, sources, and effects of calls that were denied."""

    document: PolicyDocument
    since: int | None
    limit: int
    agent: str | None


class Judgement(msgspec.Struct, frozen=True):
    """One call, as it was judged and as it would be."""

    run_id: str
    call: Recorded
    would: Decision

    def data(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "run_id": self.run_id,
            "call_id": self.call.call_id,
            "tool": self.call.call.name,
            "at": self.call.at,
            "was": self.call.ruling,
            "was_rule": self.call.rule,
            "ran": self.call.ran,
            "would": self.would.ruling,
            "rule": self.would.rule,
            "reason": self.would.reason,
        }


class _Run(msgspec.Struct, frozen=True):
    """One run that was read."""

    scope: Scope
    path: tuple[str, ...]
    run_id: str
    calls: list[tuple[Recorded, dict[str, Any]]]


async def replay(printer: Printer, store: Store, scope: Scope, asked: Replay) -> int:
    """What the document would have changed; exit code 1 if that is anything, or a run could not be read."""
    tools, name = _tools_of(asked.agent)
    runs, unread = await _read(store, scope, asked)
    effects: dict[str, Effect] = {
        call.call.name: call.effect for run in runs for call, _ in run.calls if call.effect is not None
    }
    guessed: set[str] = set()
    judged: list[Judgement] = []
    for run in runs:
        known = tools if run.path[-1] == name else {}
        for call, arguments in run.calls:
            tool = known.get(call.call.name)
            effect: Effect | None = call.effect or (tool.effect if tool else effects.get(call.call.name))
            if effect is None:
                guessed.add(call.call.name)
            action = _action(run, call, arguments, effect or "once", tool)
            judged.append(Judgement(run.run_id, call, asked.document.decide(run.scope, action)))
    changed = [each for each in judged if each.call.ruling != each.would.ruling]
    if not tools:
        note("note: without --agent, calls are taken for those of tools in code, without labels.")
    warn_of_guesses([*guessed])
    _tell(printer, asked.document, len(runs), judged, changed, unread)
    return ERROR if changed or unread else OK


def _tools_of(target: str | None) -> tuple[dict[str, Tool], str]:
    if target is None:
        return {}, ""
    agent = load_agent(target)
    return dict(agent.tools), agent.name


async def _read(store: Store, scope: Scope, asked: Replay) -> tuple[list[_Run], list[dict[str, str]]]:
    runs: list[_Run] = []
    unread: list[dict[str, str]] = []
    async for summary in _summaries(store, scope, asked):
        try:
            runs.append(await _run(store, summary))
        except RunNotFound:  # it was pruned meanwhile
            continue
        except (JournalDamaged, UnknownEvent) as error:
            unread.append({"run_id": summary.run_id, "why": described(error)})
    return runs, unread


async def _summaries(store: Store, scope: Scope, asked: Replay) -> AsyncIterator[RunSummary]:
    """The newest runs, as many as are asked for."""
    count = 0
    async for each in listed(store, scope):
        if asked.since is not None and each.started_at < asked.since:
            return
        yield each
        count += 1
        if count == asked.limit:
            return


async def _run(store: Store, summary: RunSummary) -> _Run:
    events = await store.read(summary.scope, summary.run_id)
    calls = recorded(events)
    started = events[0]
    assert isinstance(started, RunStarted)
    bodies = Bodies(lambda digest: store.body(summary.scope, summary.run_id, digest), used=True)
    found = []
    for call in calls:
        arguments = canonical(await bodies.arguments(call.call))
        found.append((call, {} if arguments is None else arguments[0]))
    agents = () if started.parent is None else started.parent.agents
    return _Run(summary.scope, (*agents, started.agent), summary.run_id, found)


def _action(
    run: _Run, call: Recorded, arguments: dict[str, Any], effect: Effect, tool: Tool | None
) -> Action:
    return Action(
        kind="tool" if tool is None else tool.kind,
        name=call.call.name,
        effect=effect,
        arguments=arguments,
        path=run.path,
        run_id=run.run_id,
        call_id=call.call_id,
        labels=frozenset() if tool is None else tool.labels,
        source="code" if tool is None else tool.source,
        returned=call.returned,
        allowed=call.allowed,
        at=call.at,
    )


def _tell(
    printer: Printer,
    document: PolicyDocument,
    runs: int,
    judged: Sequence[Judgement],
    changed: Sequence[Judgement],
    unread: Sequence[dict[str, str]],
) -> None:
    if printer.as_json:
        printer.emit(
            {
                "policy": document.version,
                "runs": runs,
                "calls": len(judged),
                "changed": [each.data() for each in changed],
                "unread": list(unread),
            }
        )
        return
    if changed:
        printer.console.print(_table(changed))
        printer.say()
    for each in unread:
        note(f"{each['run_id']} could not be read: {each['why']}")
    ways = Counter([f"{each.call.ruling} -> {each.would.ruling}" for each in changed])
    said = ", ".join([f"{count} {way}" for way, count in sorted(ways.items())])
    printer.say(f"{runs} runs, {len(judged)} calls: {said or 'nothing would have changed'}.")


def _table(changed: Sequence[Judgement]) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("run", "when", "tool", "was", "would be", "rule"):
        table.add_column(column, overflow="fold")
    for each in changed:
        was = f"{each.call.ruling}{', and ran' if each.call.ran else ''}"
        cells = (each.run_id, timeline.moment(each.call.at), each.call.call.name, was, each.would.ruling)
        table.add_row(*[timeline.one_line(cell) for cell in (*cells, each.would.rule)])
    return table
