"""The checker: from what was acknowledged, what the journal holds and what happened outside, to a list of violations.

Pure functions, written once: every proof of this folder uses them, and every mutant must be caught by them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from shipworthy.domain.events import AnyEvent, RunResumed, ToolAttempted, ToolInDoubt
from shipworthy.domain.messages import Message, Stored, Text, ToolCall, ToolResult
from shipworthy.rules.codec import encode_event
from shipworthy.rules.state import RunState, replay

Kind = Literal["lost", "repeated", "missing", "invalid", "different", "zombie"]
RunKey = tuple[str, str]
Label = tuple[str, str, str, str]
_CALL_ID = re.compile(r"call_[0-9a-f]{8}_\d+_\d+")


class Violation(msgspec.Struct, frozen=True):
    """One broken promise, and where."""

    kind: Kind
    words: str


class Run(msgspec.Struct):
    """A run as the file holds it."""

    events: list[AnyEvent]
    bodies: set[str]


class Effect(msgspec.Struct, frozen=True):
    """One thing that happened outside."""

    effect: str
    tenant: str
    run_id: str
    tool: str
    args: str
    key: str
    fence: int
    pid: int

    @property
    def label(self) -> Label:
        """Which intended effect it is: in the scenarios no run means the same one twice."""
        return (self.tenant, self.run_id, self.tool, self.args)


class Ack(msgspec.Struct, frozen=True):
    """What somebody outside was told: of an event, as JSON, or of a result, at the run's event `seq`."""

    tenant: str
    run_id: str
    seq: int
    how: Literal["committed", "streamed", "returned"]
    event: str = ""
    status: str = ""
    output: str | None = None
    pid: int = 0


class Request(msgspec.Struct, frozen=True):
    """What the model was asked: its ordinal, and a digest of all that it was shown."""

    tenant: str
    run_id: str
    ordinal: int
    digest: str
    valid: bool


class Asked(msgspec.Struct, frozen=True):
    """When the world was asked of an attempt that is in doubt, on the lease clock, and by whom."""

    tenant: str
    run_id: str
    call_id: str
    attempt: int
    clock: int
    pid: int


class Reference(msgspec.Struct):
    """The uncrashed run."""

    conversations: dict[RunKey, str]
    outputs: dict[RunKey, str | None]
    requests: dict[tuple[str, str, int], str]
    effects: set[tuple[str, Label]]


Journal = Mapping[RunKey, Run]


def reference(journal: Journal, sink: Sequence[Effect], requests: Sequence[Request]) -> Reference:
    """What every other run of the scenario is compared with."""
    states = {key: replay(run.events) for key, run in journal.items()}
    return Reference(
        conversations={key: normal(state.messages) for key, state in states.items()},
        outputs={key: output_of(state) for key, state in states.items()},
        requests={(r.tenant, r.run_id, r.ordinal): r.digest for r in requests},
        effects={(e.effect, e.label) for e in sink},
    )


def at_the_crash(acks: Iterable[Ack], journal: Journal, sink: Sequence[Effect]) -> list[Violation]:
    """What must hold at every moment, so also right after a kill."""
    return [*invalid(journal), *lost(acks, journal), *repeated(sink)]


def at_the_end(
    expected: Reference,
    acks: Iterable[Ack],
    journal: Journal,
    sink: Sequence[Effect],
    requests: Iterable[Request],
) -> list[Violation]:
    """What must hold once all runs have ended, whatever happened on the way."""
    return [
        *at_the_crash(acks, journal, sink),
        *missing(expected, sink),
        *different(expected, journal),
        *asked_otherwise(expected, requests),
    ]


def lost(acks: Iterable[Ack], journal: Journal) -> list[Violation]:
    """What was acknowledged is in the journal, with the same number and the same content."""
    found = []
    for ack in acks:
        run = journal.get((ack.tenant, ack.run_id))
        events = [] if run is None else run.events
        if ack.seq > len(events):
            found.append(Violation("lost", f"{ack.run_id}: event {ack.seq} was {ack.how} and is gone"))
        elif ack.how == "returned":
            state = replay(events[: ack.seq])
            if (status_of(state), output_of(state)) != (ack.status, ack.output):
                found.append(
                    Violation("lost", f"{ack.run_id}: the result returned at {ack.seq} is not the journal's")
                )
        elif encode_event(events[ack.seq - 1]).decode() != ack.event:
            found.append(Violation("lost", f"{ack.run_id}: event {ack.seq} was {ack.how} and is another now"))
    return found


def repeated(sink: Iterable[Effect]) -> list[Violation]:
    """A `once` effect happens at most once; an idempotent one always comes under one key."""
    sink = list(sink)
    found = []
    for label, times in Counter(e.label for e in sink if e.effect == "once").items():
        if times > 1:
            found.append(Violation("repeated", f"{label} happened {times} times"))
    keys: dict[Label, set[str]] = {}
    for effect in sink:
        keys.setdefault(effect.label, set()).add(effect.key)
    for label, used in keys.items():
        if len(used) > 1:
            found.append(Violation("repeated", f"{label} came under {len(used)} keys"))
    return found


def missing(expected: Reference, sink: Iterable[Effect]) -> list[Violation]:
    """Exactly the intended effects happened."""
    happened = {(e.effect, e.label) for e in sink}
    gone = [Violation("missing", f"{label} did not happen") for label in sorted(expected.effects - happened)]
    more = [
        Violation("repeated", f"{label} was never meant") for label in sorted(happened - expected.effects)
    ]
    return gone + more


def invalid(journal: Journal) -> list[Violation]:
    """The journal folds, its bodies are there, and every call has its one result (a last, open answer apart)."""
    found = []
    for (_, run_id), run in journal.items():
        try:
            state = replay(run.events)
        except Exception as error:
            found.append(Violation("invalid", f"{run_id}: the journal does not fold: {error!r}"))
            continue
        if problem := _unsound(state) or _without_body(run):
            found.append(Violation("invalid", f"{run_id}: {problem}"))
    return found


def different(expected: Reference, journal: Journal) -> list[Violation]:
    """Every run ended as the uncrashed one, with the same conversation and output."""
    found = []
    for key, conversation in expected.conversations.items():
        run = journal.get(key)
        if run is None:
            found.append(Violation("different", f"{key[1]}: there is no such run"))
            continue
        state = replay(run.events)
        if state.ended is None:
            found.append(Violation("different", f"{key[1]}: it has not ended"))
        if normal(state.messages) != conversation:
            found.append(Violation("different", f"{key[1]}: the conversation is another"))
        if output_of(state) != expected.outputs[key]:
            found.append(Violation("different", f"{key[1]}: the output is another"))
    return found


def asked_otherwise(expected: Reference, requests: Iterable[Request]) -> list[Violation]:
    """In every generation the model was shown a valid conversation: the one that the uncrashed run showed it."""
    found = []
    for asked in requests:
        where = f"{asked.run_id}: request {asked.ordinal}"
        if not asked.valid:
            found.append(Violation("invalid", f"{where} was no valid conversation"))
        if expected.requests.get((asked.tenant, asked.run_id, asked.ordinal)) != asked.digest:
            found.append(Violation("different", f"{where} was another"))
    return found


def believed_too_early(
    journal: Journal, asked: Iterable[Asked], acks: Iterable[Ack], skew: int
) -> list[Violation]:
    """Of a call of a worker that may live, another one asks the world only when it can no longer happen."""
    own = {(a.tenant, a.run_id, a.seq, a.pid) for a in acks}
    found = []
    for question in asked:
        events = journal[question.tenant, question.run_id].events
        made = _attempt(events, question)
        if (question.tenant, question.run_id, made.seq, question.pid) in own or _is_over(events, made):
            continue
        until = made.start_by + int((made.timeout or 0) * 1000) + skew
        if question.clock < until:
            early = until - question.clock
            found.append(Violation("zombie", f"{question.call_id}: asked {early} ms before it was safe"))
    return found


def _attempt(events: Sequence[AnyEvent], question: Asked) -> ToolAttempted:
    sought = (question.call_id, question.attempt)
    return next(e for e in events if isinstance(e, ToolAttempted) and (e.call_id, e.attempt) == sought)


def _is_over(events: Sequence[AnyEvent], made: ToolAttempted) -> bool:
    """Whether the sitting that made the attempt said itself that its body is at an end."""
    for event in events[made.seq :]:
        if isinstance(event, ToolInDoubt) and event.call_id == made.call_id:
            return not event.thread_running
        if isinstance(event, RunResumed):
            return False
    return False


# of one run


def status_of(state: RunState) -> str:
    if state.ended is not None:
        return state.ended.status
    return "paused" if state.parked else "running"


def output_of(state: RunState) -> str | None:
    """The output as JSON text; the digest of one that is stored."""
    output = None if state.ended is None else state.ended.output
    if output is None:
        return None
    return output.text if isinstance(output, Text) else output.digest


def valid(messages: Sequence[Message]) -> bool:
    """Every call has its one result, in the very next message, and no result is without its call."""
    calls: list[str] = []
    for message in messages:
        results = [p.call_id for p in message.parts if isinstance(p, ToolResult)]
        if results != calls:
            return False
        calls = [p.call_id for p in message.parts if isinstance(p, ToolCall)]
        if len(set(calls)) != len(calls):
            return False
    return not calls


def normal(messages: Sequence[Message]) -> str:
    """A conversation as text in which call ids are numbered in the order of their appearance."""
    names: dict[str, str] = {}
    text = msgspec.json.encode(list(messages)).decode()
    return _CALL_ID.sub(lambda found: names.setdefault(found[0], f"call {len(names) + 1}"), text)


def digest(instructions: str, messages: Sequence[Message]) -> str:
    """What a model was shown, in short."""
    return hashlib.sha256(json.dumps([instructions, normal(messages)]).encode()).hexdigest()[:16]


def _unsound(state: RunState) -> str:
    messages = state.messages
    if state.calls:
        last = messages[-1]
        if [p.call_id for p in last.parts if isinstance(p, ToolCall)] != list(state.calls):
            return "the open calls are not those of the last answer"
        messages = messages[:-1]
        if messages and any(isinstance(p, ToolCall) for p in messages[-1].parts):
            return "an answer follows one whose calls have no results"
    return "" if valid(messages) else "a call has no result, or a result no call"


def _without_body(run: Run) -> str:
    wanted = {s.digest for event in run.events for s in _stored(event)}
    gone = wanted - run.bodies
    return f"bodies are not there: {sorted(gone)}" if gone else ""


def _stored(value: Any) -> list[Stored]:
    if isinstance(value, Stored):
        return [value]
    if isinstance(value, tuple):
        return [s for each in value for s in _stored(each)]
    if isinstance(value, msgspec.Struct):
        return [s for name in value.__struct_fields__ for s in _stored(getattr(value, name))]
    return []
