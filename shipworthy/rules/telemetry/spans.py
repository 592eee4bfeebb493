"""A fold from a sitting's events to what telemetry says of them. Pure: times and names come from the events.

Tokens and money are on the spans of model calls and nowhere else, so that no sum counts them twice. What a sitting left
open, for its process died or lost its journal, is closed by the one that goes on: nobody else can know that it is over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from shipworthy.domain.events import (
    AgentPaused,
    AnyEvent,
    BudgetReached,
    FactsLearned,
    HumanAsked,
    MemoryRecalled,
    MemoryWritten,
    ModelAbandoned,
    ModelAnswered,
    ModelFailed,
    ModelRequested,
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
from shipworthy.rules.learning import SUFFIX
from shipworthy.rules.telemetry import content as said
from shipworthy.rules.telemetry import names
from shipworthy.rules.telemetry.measuring import NOTHING, Measuring
from shipworthy.rules.telemetry.past import left_from
from shipworthy.rules.telemetry.records import Attributes, Record, SpanOpened, Value
from shipworthy.rules.telemetry.saying import Saying
from shipworthy.rules.telemetry.whose import Known, Open, Told, of_usage

INTERRUPTED, SUPERSEDED, LEFT = "interrupted", "superseded", "left"
"""Errors of spans: the sitting ended in between; another attempt was made; the run ended without its outcome."""


class Fold(Saying):
    """One sitting's records. `past`: the events of the sittings before. `whose`: attributes that measurements have
    besides their own. `again`: whoever is told keeps one span of a key, so a sitting that was left, and may have taken
    finished spans with it, is told again in full."""

    def __init__(
        self,
        told: Told,
        past: Sequence[AnyEvent] = (),
        *,
        whose: Mapping[str, str] = {},
        measures: bool = True,
        content: bool = False,
        again: bool = False,
    ) -> None:
        self._measured = Measuring(whose, told, off=not measures)
        super().__init__(told, self._measured.out, content=content)
        self._past, self._again = past, again
        self._seq = self._at = 0
        self._began: int | None = None
        self._not_driven = self._parked_at = 0
        self._asked = 0
        self._link = ""
        self._under: tuple[str, str] | None = None
        self._chat: Open | None = None
        self._orphan: Open | None = None
        self._given_up: tuple[Open, int, Charge] | None = None
        self._cause = ""
        self._tools: dict[str, Open] = {}
        self._calls: dict[str, Known] = {}

    def feed(self, events: Sequence[AnyEvent], asked: int | None = None) -> list[Record]:
        """What these events say. *asked*: how many attempts on the wire came before them, where events may be missing
        in between: what a missing one may have ended is not told of at all."""
        if self._past:
            past, self._past = self._past, ()
            self._read_back(past)
            if type(events[0]) is not RunResumed:  # what began the sitting was dropped
                self._root = None
        if self._seq and events[0].seq != self._seq + 1:
            self._lost()
        if asked is not None:
            self._asked = asked
        for event in events:
            self._follow(event)
        out, self._out = self._out, []
        self._measured.out = self._out
        return out

    def _follow(self, event: AnyEvent) -> None:
        if self._given_up is not None:
            self._give_up(*self._given_up, event)
        tell = TELLS.get(type(event))
        if tell is not None:
            tell(self, event)
        self._seq, self._at = event.seq, event.at

    def _read_back(self, past: Sequence[AnyEvent]) -> None:
        """Know what the sittings before left open, and tell those again that may have taken spans with them."""
        tell_from = left_from(past) if self._again else len(past)
        off, self._measured.off = self._measured.off, True
        self._of_past = True
        for i, event in enumerate(past):
            self._mute = i < tell_from
            self._follow(event)
        self._mute, self._of_past, self._measured.off = False, False, off

    def _lost(self) -> None:
        """Events are missing: what is open may have ended in them."""
        self._chat = self._orphan = self._given_up = None
        self._tools = {}

    # spans

    def _close_all(self, at: int, error: str) -> None:
        """Everything but the sitting's own span."""
        for span in (self._chat, self._orphan):
            if span is not None:
                self._close(span, at, {names.PURPOSE: span.purpose}, error)
        for call_id, span in self._tools.items():
            if error != INTERRUPTED:
                self._lasted(call_id, span, at, error)
            self._close(span, at, self._of_attempt(call_id, span, error), error)
        self._lost()

    # a sitting

    def started(self, event: RunStarted) -> None:
        self.told.began(event)
        self._began, self._link = event.at, event.trace
        name, attributes = self.told.of_sitting(resumed=False)
        if event.parent is not None:
            attributes[names.ROOT_RUN] = event.parent.root
            self._under = (event.parent.run_id, event.parent.path[-1])
        if self._content:
            attributes[names.INPUT_MESSAGES] = said.message("user", event.prompt)
            if event.instructions is not None:
                attributes[names.SYSTEM_INSTRUCTIONS] = said.instructions(event.instructions)
        self._sit(event, name, attributes, event.trace)
        if self.told.agent.endswith(SUFFIX):
            self._measured.count(names.EXTRACT_INVOCATIONS, 1)

    def resumed(self, event: RunResumed) -> None:
        for call_id in self._tools:
            self._doubt(call_id)
        if self._root is not None:
            self._was_left(self._root)
            self._not_driven += max(event.at - self._at, 0)
        self._not_driven += max(event.at - self._parked_at, 0) if self._parked_at else 0
        self._parked_at = 0
        name, attributes = self.told.of_sitting(resumed=True)
        self._sit(event, name, attributes, event.trace, self._link)

    def _sit(self, event: AnyEvent, name: str, attributes: Attributes, trace: str, link: str = "") -> None:
        self._root = self._say(
            SpanOpened(
                self.told.key_of(event.seq),
                names.INVOKE_AGENT,
                name,
                event.at,
                attributes,
                under=self._under,
                trace=trace,
                link=link,
                past=self._of_past,
            )
        )

    def _was_left(self, root: Open) -> None:
        """The sitting before ended with its last event. What its attempt of a model is charged is still to come. One
        that only began, as where others drive the run, was handed over."""
        if not root.told and not self._mute:
            root.opened, root.told = replace(root.opened, past=True), True
            self._out.append(root.opened)
        orphan = self._chat if self._chat is not None and self._chat.metered else None
        self._chat = None if orphan is not None else self._chat
        self._close_all(self._at, INTERRUPTED)
        self._orphan = orphan
        self._close(root, self._at, {names.STATUS: "running"}, "" if self._seq == 1 else INTERRUPTED)

    def parked(self, event: RunParked) -> None:
        self._parked_at = event.at
        self._measured.count(names.RUNS_PARKED, 1, names.REASON, event.reason)
        self._leave(event.at, {names.STATUS: "paused", names.REASON: event.reason})

    def ended(self, event: RunEnded) -> None:
        attributes: dict[str, Value] = {names.STATUS: event.status}
        if event.stop_reason:
            attributes[names.STOP_REASON] = event.stop_reason
        if self._content and event.output is not None:
            attributes[names.OUTPUT_MESSAGES] = said.message("assistant", (event.output,))
        if self._began is not None:
            lasted = max(event.at - self._began - self._not_driven, 0)
            self._measured.count(names.SESSION_DURATION, lasted, names.STATUS, event.status)
            if self.told.agent.endswith(SUFFIX):
                self._measured.count(names.EXTRACT_DURATION, lasted, names.STATUS, event.status)
        error = (event.stop_reason or "failed") if event.status == "failed" else ""
        self._leave(event.at, attributes, error, event.error or "")

    def _leave(self, at: int, attributes: dict[str, Value], error: str = "", detail: str = "") -> None:
        self._close_all(at, self._cause or LEFT)
        if self._root is not None:
            self._close(self._root, at, attributes, error, detail)
            self._root = None

    # a model

    def requested(self, event: ModelRequested) -> None:
        self._asked += 1
        for before in (self._chat, self._orphan):
            if before is not None:
                self._close(before, before.at, {names.PURPOSE: before.purpose}, SUPERSEDED)
        name, attributes = self.told.of_model(event.model)
        key = self.told.key_of_model(self._asked)
        self._chat = span = self._open(key, names.CHAT, name, event.at, attributes)
        self._orphan = None
        span.model, span.purpose, span.metered = event.model, event.purpose, event.reserved is not None

    def answered(self, event: ModelAnswered) -> None:
        span, self._chat = self._chat, None
        self._calls = {part.call_id: Known(part) for part in event.parts if type(part) is ToolCall}
        if self._tools:  # their results are missing
            self._tools = {}
        self._measured.spent(span, event.usage, event.charged)
        if span is None or self._mute:
            return
        self._measured.operated(span, event.at, event.usage, event.model)
        attributes = of_usage(event.usage, event.charged, span.purpose)
        attributes[names.FINISH_REASONS] = (event.finish_reason,)
        if event.model:
            attributes[names.RESPONSE_MODEL] = event.model
        if self._content:
            attributes[names.OUTPUT_MESSAGES] = said.message("assistant", event.parts, event.finish_reason)
        self._close(span, event.at, attributes)

    def failed(self, event: ModelFailed) -> None:
        span, self._chat = self._chat, None
        self._measured.spent(span, event.usage, event.charged)
        if span is not None:
            self._measured.operated(span, event.at, event.usage, error=event.error)
            attributes = of_usage(event.usage, event.charged, span.purpose)
            self._close(span, event.at, attributes, event.error, event.message)

    def abandoned(self, event: ModelAbandoned) -> None:
        """An attempt that a crash left ended when it began, as far as anybody knows. Why another one was given up is
        what comes next."""
        left, span = self._orphan, self._orphan or self._chat
        self._measured.spent(span, NOTHING, event.charged)
        if left is not None:
            self._close(left, left.at, of_usage(NOTHING, event.charged, left.purpose), INTERRUPTED)
        elif span is not None:
            self._given_up = (span, event.at, event.charged)
        self._orphan = self._chat = None

    def _give_up(self, span: Open, at: int, charged: Charge, then: AnyEvent) -> None:
        self._given_up = None
        error = then.cause if type(then) is StopRequested else "cancelled"
        self._measured.operated(span, at, error=error)
        self._close(span, at, of_usage(NOTHING, charged, span.purpose), error)

    def stopping(self, event: StopRequested) -> None:
        self._cause = event.cause
        if (span := self._chat) is not None:
            self._measured.operated(span, event.at, error=event.cause)
            self._close(span, event.at, {names.PURPOSE: span.purpose}, event.cause)
            self._chat = None

    # tools

    def judged(self, event: ToolsJudged) -> None:
        for judged in event.calls:
            if (known := self._calls.get(judged.call_id)) is not None:
                known.effect = judged.effect

    def attempted(self, event: ToolAttempted) -> None:
        call_id = event.call_id
        if (before := self._tools.pop(call_id, None)) is not None:
            self._close(before, event.at, self._of_attempt(call_id, before, SUPERSEDED), SUPERSEDED)
        if (known := self._calls.get(call_id)) is None:
            return
        name, attributes = self.told.of_tool(known.call.name)
        span = self._open(
            self.told.key_of(event.seq), names.EXECUTE_TOOL, name, event.at, attributes, call_id
        )
        span.attempt = event.attempt
        self._tools[call_id] = span

    def returned(self, event: ToolReturned) -> None:
        span = self._tools.pop(event.call_id, None)
        if span is None or self._mute:
            return
        self._lasted(event.call_id, span, event.at, event.outcome)
        attributes = self._of_attempt(event.call_id, span, event.outcome)
        if event.retries:
            attributes[names.RETRIES] = event.retries
        if self._content:
            attributes[names.TOOL_RESULT] = said.result(event.content)
        self._close(span, event.at, attributes, "" if event.outcome == "ok" else event.outcome)

    def in_doubt(self, event: ToolInDoubt) -> None:
        self._doubt(event.call_id, surely=True)
        if (span := self._tools.pop(event.call_id, None)) is not None:
            self._lasted(event.call_id, span, event.at, "in_doubt")
            attributes = self._of_attempt(event.call_id, span, "in_doubt")
            self._close(span, event.at, attributes, "in_doubt", event.reason)

    def _lasted(self, call_id: str, span: Open, at: int, outcome: str) -> None:
        tool, lasted = self._calls[call_id].call.name, max(at - span.at, 0)
        self._measured.count(names.TOOL_DURATION, lasted, names.TOOL, tool, names.OUTCOME, outcome)

    def _doubt(self, call_id: str, *, surely: bool = False) -> None:
        """Count the call once, until it is settled."""
        known = self._calls.get(call_id)
        if known is not None and not known.doubted and (surely or known.effect == "once"):
            known.doubted = True
            self._measured.count(names.IN_DOUBT, 1, names.TOOL, known.call.name)

    def settled(self, event: ToolSettled) -> None:
        if (known := self._calls.get(event.call_id)) is not None:
            known.doubted = False

    def waiting(self, event: HumanAsked | AgentPaused) -> None:
        if (span := self._tools.pop(event.call_id, None)) is not None:
            self._close(span, event.at, self._of_attempt(event.call_id, span, "waiting"))

    def _of_attempt(self, call_id: str, span: Open, outcome: str) -> dict[str, Value]:
        known = self._calls[call_id]
        attributes: dict[str, Value] = {
            names.TOOL_CALL: call_id,
            names.ATTEMPT: span.attempt,
            names.OUTCOME: outcome,
        }
        if known.effect:
            attributes[names.EFFECT] = known.effect
        if self._content:
            attributes[names.TOOL_ARGUMENTS] = said.arguments(known.call)
        return attributes

    # memory and budgets

    def recalled(self, event: MemoryRecalled) -> None:
        self._memory(event, names.SEARCH_MEMORY, len(event.items), event.problem)

    def written(self, event: MemoryWritten) -> None:
        self._memory(event, names.UPSERT_MEMORY, len(event.ids), event.problem)

    def learned(self, event: FactsLearned) -> None:
        changed = (event.added, event.confirmed, event.superseded, event.quarantined)
        self._memory(event, names.UPSERT_MEMORY, sum([len(facts) for facts in changed]))

    def _memory(self, event: AnyEvent, operation: names.Operation, items: int, problem: str = "") -> None:
        """From the event before on: nothing else is done meanwhile."""
        attributes = {**self.told.base, names.OPERATION: operation}
        span = self._open(self.told.key_of(event.seq), operation, operation, self._at or event.at, attributes)
        self._close(span, event.at, {names.MEMORY_ITEMS: items}, "memory" if problem else "", problem)

    def reached(self, event: BudgetReached) -> None:
        self._measured.count(names.BUDGET_EXCEEDED, 1, names.LIMIT, event.limit, names.OF, event.of)


TELLS: dict[type, Callable[[Fold, Any], None]] = {
    RunStarted: Fold.started,
    RunResumed: Fold.resumed,
    RunParked: Fold.parked,
    RunEnded: Fold.ended,
    ModelRequested: Fold.requested,
    ModelAnswered: Fold.answered,
    ModelFailed: Fold.failed,
    ModelAbandoned: Fold.abandoned,
    StopRequested: Fold.stopping,
    ToolsJudged: Fold.judged,
    ToolAttempted: Fold.attempted,
    ToolReturned: Fold.returned,
    ToolInDoubt: Fold.in_doubt,
    ToolSettled: Fold.settled,
    HumanAsked: Fold.waiting,
    AgentPaused: Fold.waiting,
    MemoryRecalled: Fold.recalled,
    MemoryWritten: Fold.written,
    FactsLearned: Fold.learned,
    BudgetReached: Fold.reached,
}
"""Who tells of an event; of the others there is nothing to tell."""
