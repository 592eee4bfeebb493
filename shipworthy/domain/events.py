"""The facts of a run, in the past tense. A run is a fold over these and nothing else.

Every event has its sequence number `seq` (from 1, without gaps), the wall-clock time `at` (milliseconds since the
Unix epoch), its `origin` and `trust` (see `messages`). Fields may be added with a default; a change of meaning raises
FORMAT.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from shipworthy.domain.effects import Effect
from shipworthy.domain.memory import Kind, Level, Source, Why
from shipworthy.domain.messages import (
    MEMORY,
    MODEL,
    RUNTIME,
    USER,
    ContentPart,
    Stored,
    Text,
    Thinking,
    ToolCall,
    Trust,
)
from shipworthy.domain.model import FinishReason, ModelSettings, Purpose
from shipworthy.domain.policy import Covers, Remember
from shipworthy.domain.usage import Charge, Reserved, Spent, Usage

FORMAT = 1
"""Version of the journal's format, written in `RunStarted`."""

RunStatus = Literal["running", "paused", "completed", "stopped", "cancelled", "failed"]
EndStatus = Literal["completed", "stopped", "cancelled", "failed"]
StopCause = Literal["cancelled", "timeout", "budget:max_wall_clock", "denied"]
ReturnKind = Literal["ok", "error", "rejected", "not_done", "timeout", "denied"]
ParkReason = Literal["in_doubt", "missing_tool", "error", "approval", "answer", "agent"]
Previous = Literal["released", "dead", "expired"]


class Event(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, kw_only=True, tag_field="kind"):
    """What all events have in common."""

    seq: int = 0
    at: int = 0
    origin: str = RUNTIME
    trust: Trust = "trusted"


class Fingerprint(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Digests of what an agent is made of; a resumed run reports which of them changed. `permissions`: the policies'
    versions, and that there are hooks."""

    instructions: str = ""
    model: str = ""
    tools: str = ""
    output: str = ""
    permissions: str = ""


class Parent(msgspec.Struct, frozen=True, gc=False):
    """Whose call a nested run is made for. `root` is the outermost run; `path` has the ids of the calls from there to
    this run, and `agents` the names of the agents that made them."""

    run_id: str
    root: str
    path: tuple[str, ...]
    agents: tuple[str, ...]


class RunStarted(Event, frozen=True, gc=False, kw_only=True, omit_defaults=False, tag="run_started"):
    """A run began; what is here is pinned. `digest` is that of the input, for a repeated `run_id`.

    Every field is written, set or not: a later release may choose other defaults.
    `session_head`: how many ended runs of the session this run sees. `timeout` in seconds. `remembers`: it asks its
    agent's memory before its first turn. `trace`: the W3C `traceparent` that it began under; "" for none.
    """

    run_id: str
    tenant: str
    prompt: tuple[ContentPart, ...]
    user: str | None = None
    session: str | None = None
    format: int = FORMAT
    agent: str = ""
    instructions: Text | Stored | None = None
    history: Stored | None = None
    session_head: int = 0
    digest: str = ""
    fingerprint: Fingerprint = Fingerprint()
    settings: ModelSettings | None = None
    max_turns: int = 50
    output_retries: int = 2
    model_retries: int = 2
    timeout: float | None = None
    parent: Parent | None = None
    remembers: bool = False
    trace: str = ""
    origin: str = USER


class RunResumed(Event, frozen=True, gc=False, kw_only=True, omit_defaults=False, tag="run_resumed"):
    """Another sitting began: in another process, or here after a pause. What was attempted and has no result is now
    in doubt, or runs again, as its effect says.

    `previous`: why the run had no owner. `changed` names the parts of the fingerprint that differ.
    `skew` (milliseconds) and the limits are the resuming worker's. `trace`: the W3C `traceparent` of this sitting.
    """

    fence: int
    previous: Previous
    changed: tuple[str, ...] = ()
    max_turns: int = 50
    output_retries: int = 2
    model_retries: int = 2
    skew: int = 0
    trace: str = ""


class ModelRequested(Event, frozen=True, gc=False, kw_only=True, tag="model_requested"):
    """An attempt on the wire is about to be made. `reserved`: what it may cost at most."""

    ordinal: int
    model: str
    purpose: Purpose = "turn"
    reserved: Reserved | None = None


class ModelAnswered(Event, frozen=True, gc=False, kw_only=True, tag="model_answered"):
    """A complete answer. Its calls have the ids under which they are executed."""

    ordinal: int
    parts: tuple[Text | Thinking | ToolCall | Stored, ...]
    usage: Usage = Usage()
    finish_reason: FinishReason = "stop"
    model: str = ""
    charged: Charge | None = None
    origin: str = MODEL
    trust: Trust = "untrusted"


class ModelFailed(Event, frozen=True, gc=False, kw_only=True, tag="model_failed"):
    """An attempt gave no answer. `retry_after` (seconds) is None where trying again cannot help."""

    ordinal: int
    error: str
    message: str
    retry_after: float | None = None
    usage: Usage = Usage()
    charged: Charge | None = None


class ModelAbandoned(Event, frozen=True, gc=False, kw_only=True, tag="model_abandoned"):
    """An attempt was cancelled, or its process died: what it gave is not known, and it is charged."""

    charged: Charge
    reason: Literal["cancelled", "crashed"]


class BudgetReached(Event, frozen=True, gc=False, kw_only=True, omit_defaults=False, tag="budget_reached"):
    """A limit does not afford what the run wanted to do next, so it is not done.

    `limit` names it as in BudgetConfig. `cap`, `spent`, `held` (by others) and `needed` are in the limit's own unit;
    money in billionths of a US dollar. `reopens_at`: when there will be room again, milliseconds since the epoch, None
    for never. `wrap_up`: the model may give a last answer. `cut_at`: the answer before was cut short at so many output
    tokens, for a limit afforded no more.
    """

    limit: str
    unit: str
    cap: int
    spent: int
    held: int
    needed: int
    reopens_at: int | None
    wrap_up: bool = False
    cut_at: int | None = None
    of: Literal["budget", "rate_limit"] = "budget"


class BudgetWarned(Event, frozen=True, gc=False, kw_only=True, tag="budget_warned"):
    """So much of a limit is spent that a warning was due; each crossing is told once, to the run that made it."""

    limit: str
    unit: str
    cap: int
    soft: int


class BudgetUnchecked(Event, frozen=True, gc=False, kw_only=True, tag="budget_unchecked"):
    """The ledger could not be asked, and the developer had said that the attempt is then made all the same."""

    error: str


class Judged(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One call that may run, with the contract that its tool declares. `rule` and `policy` (its version) say who
    allowed it, where somebody was asked; `approvals` are those that the call uses up."""

    call_id: str
    effect: Effect
    rule: str = ""
    policy: str = ""
    approvals: tuple[str, ...] = ()


class ToolsJudged(Event, frozen=True, gc=False, kw_only=True, tag="tools_judged"):
    """The calls of an answer that may run. What may not is a `ToolReturned` with its reason. `charged`: they count
    against a limit of tool calls, and are not counted again. `waiting`: the ids of calls that go on waiting for exactly
    what people were asked before."""

    calls: tuple[Judged, ...]
    charged: bool = False
    waiting: tuple[str, ...] = ()


class ArgumentsReplaced(Event, frozen=True, gc=False, kw_only=True, tag="arguments_replaced"):
    """A call is to be made with other arguments than the model gave, by a hook or an approver. `call` has them."""

    call_id: str
    call: ToolCall
    by: str
    reason: str = ""


class ApprovalRequested(Event, frozen=True, gc=False, kw_only=True, tag="approval_requested"):
    """People are asked whether a call may run, with exactly these arguments (`digest`), under this `rule` of policies
    of this version. `approvers`: how many different ones have to say yes; `among`: who may, everybody where it is
    empty. Whoever has not answered by `expires_at` (milliseconds since the epoch) has said no. `key`: the name of the
    key that whoever asks would sign with."""

    call_id: str
    tool: str
    effect: Effect
    digest: str
    rule: str
    policy: str
    reason: str = ""
    approvers: int = 1
    among: tuple[str, ...] = ()
    expires_at: int | None = None
    key: str = ""


class ApprovalGranted(Event, frozen=True, gc=False, kw_only=True, tag="approval_granted"):
    """Somebody said yes. `address`: the ids of the calls from the outermost run to the one that it is for, joined
    with "/". `token` is what was signed; `id` its name. `call`: other arguments that the yes is for."""

    id: str
    address: str
    approver: str
    tool: str
    digest: str
    rule: str
    expires_at: int
    token: str
    call: ToolCall | None = None
    remember: Remember | None = None
    covers: Covers = "arguments"


class ApprovalDenied(Event, frozen=True, gc=False, kw_only=True, tag="approval_denied"):
    """Somebody said no; the model is told the reason."""

    id: str
    address: str
    approver: str
    token: str
    reason: str = ""


class HumanAsked(Event, frozen=True, gc=False, kw_only=True, tag="human_asked"):
    """A tool's body waits for an answer, and has done nothing yet that must not be repeated. `data` is JSON: what it
    shows, or asks. `ordinal`: which of its questions it is, from 0; `digest`: that of the question. `schema` (JSON
    Schema) bounds the answer, `default` is what it is from `expires_at` on."""

    call_id: str
    ordinal: int
    digest: str
    data: Text | Stored
    schema: Text | Stored | None = None
    expires_at: int | None = None
    default: Text | Stored | None = None


class HumanAnswered(Event, frozen=True, gc=False, kw_only=True, tag="human_answered"):
    """The answer to the question of this digest, as JSON. `by`: who gave it; None: nobody did in time. `id`: that of an
    answer that somebody gave, so that each run takes it once."""

    id: str = ""
    address: str
    ordinal: int
    digest: str
    answer: Text | Stored
    by: str | None = None
    origin: str = USER
    trust: Trust = "untrusted"


class AgentPaused(Event, frozen=True, gc=False, kw_only=True, tag="agent_paused"):
    """The nested runs that a call made wait for somebody, and so does the call. `nested`: what they used so far.

    `in_doubt`: they were stopped, and wait for whoever settles what is in doubt of them; until then the run that made
    the call does not end, and the call has no result.
    """

    call_id: str
    runs: tuple[str, ...]
    wake_at: int | None = None
    in_doubt: bool = False
    nested: Spent | None = None


class AnswerRejected(Event, frozen=True, gc=False, kw_only=True, tag="answer_rejected"):
    """An answer, a token or a checkpoint was brought to the paused run and not accepted; nothing else happened.

    Or a yes that is in the journal does not count any more: its `reason` is "expired", "signature" (it is not signed as
    the event says) or "arguments" (those it gives do not fit the tool), and `address` and `by` say whose it was.
    """

    reason: str
    address: str = ""
    by: str = ""


class AnswerDropped(Event, frozen=True, gc=False, kw_only=True, tag="answer_dropped"):
    """The answer to a question, and to those after it, does not count any more: the live code asks something else, or
    does not accept it."""

    call_id: str
    ordinal: int
    reason: str


class ToolAttempted(Event, frozen=True, gc=False, kw_only=True, tag="tool_attempted"):
    """The intent: from here on the effect may happen.

    `start_by` (milliseconds on the store's lease clock): the body does not start later. `timeout` in seconds.
    """

    call_id: str
    attempt: int = 1
    start_by: int = 0
    timeout: float | None = None


class ToolReturned(Event, frozen=True, gc=False, kw_only=True, tag="tool_returned"):
    """What the model is told of a call. `whole` is the full result where `content` shows a part of it.

    `thread_running`: the body's thread outlived its time and could not be stopped. `rule`, `policy` and `reason` are
    those of a denial. `handed_over`: the result is the run's answer, as far as it is a valid output. `nested`: what the
    runs of the call used, from its beginning. `retries`: so often the body was begun again within this attempt, for it
    had raised.
    """

    call_id: str
    content: tuple[ContentPart, ...]
    outcome: ReturnKind = "ok"
    whole: Stored | None = None
    thread_running: bool = False
    rule: str = ""
    policy: str = ""
    reason: str = ""
    handed_over: bool = False
    nested: Spent | None = None
    retries: int = 0
    trust: Trust = "untrusted"


class ToolInDoubt(Event, frozen=True, gc=False, kw_only=True, tag="tool_in_doubt"):
    """A `once` body ended without saying whether its effect happened."""

    call_id: str
    reason: str
    thread_running: bool = False


class ToolSettled(Event, frozen=True, gc=False, kw_only=True, tag="tool_settled"):
    """It is known now whether the effect of a call in doubt happened; `content` is its result if it did."""

    call_id: str
    happened: bool
    by: Literal["verify", "person"]
    content: tuple[ContentPart, ...] = ()
    whole: Stored | None = None


class RunParked(Event, frozen=True, gc=False, kw_only=True, tag="run_parked"):
    """The run waits for somebody and holds nothing meanwhile; `detail` says for what. "error": code that the developer
    wrote raised where nothing could be done about it; resuming tries again. `wake_at` (milliseconds since the epoch):
    when it stops waiting by itself."""

    reason: ParkReason = "in_doubt"
    detail: str = ""
    wake_at: int | None = None


class RecallNote(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    """One thing that memory gave: which, of which partition, why, and where it had come from."""

    id: str
    kind: Kind
    level: Level
    why: Why = Why()
    at: int = 0
    source: Source | None = None
    origin: str = USER
    trust: Trust = "trusted"


class MemoryRecalled(Event, frozen=True, gc=False, kw_only=True, tag="memory_recalled"):
    """What memory gave before the first turn; pinned for the run. `parts` enter the conversation before the prompt, as
    data, each with the trust that it went into memory with; `items` say why. `problem`: why memory gave nothing, or
    less than it has."""

    parts: tuple[Text | Stored, ...] = ()
    items: tuple[RecallNote, ...] = ()
    problem: str = ""
    origin: str = MEMORY


class MemoryWritten(Event, frozen=True, gc=False, kw_only=True, tag="memory_written"):
    """What was said and done is in memory under these ids, as durable as its store keeps it. `problem`: why it is not,
    or not whole. `learning`: the run that learns facts from it."""

    ids: tuple[str, ...] = ()
    problem: str = ""
    learning: str | None = None
    origin: str = MEMORY


class FactsLearned(Event, frozen=True, gc=False, kw_only=True, tag="facts_learned"):
    """A learning run's facts are in memory, as durable as its store keeps it: new ones, those that were known already
    and are now better founded, those that these supersede, and those that nobody is told of because they are not sure
    enough. `left_out`: how many more were proposed than one run may add."""

    added: tuple[str, ...] = ()
    confirmed: tuple[str, ...] = ()
    superseded: tuple[str, ...] = ()
    quarantined: tuple[str, ...] = ()
    left_out: int = 0
    origin: str = MEMORY


class OutputRejected(Event, frozen=True, gc=False, kw_only=True, tag="output_rejected"):
    """The answer was not a valid output; the model is told why. `call_id` is that of an output tool's call."""

    problem: str
    call_id: str | None = None


class StopRequested(Event, frozen=True, gc=False, kw_only=True, tag="stop_requested"):
    """The caller cancelled, the deadline passed, or a hook denied a call of the model (`detail`). Nothing new is
    started."""

    cause: StopCause
    detail: str = ""


class RunEnded(Event, frozen=True, gc=False, kw_only=True, tag="run_ended"):
    """The end. `output` is JSON text; `error` the message of a failure."""

    status: EndStatus
    stop_reason: str | None = None
    output: Text | Stored | None = None
    output_call: str | None = None
    error: str | None = None


AnyEvent = (
    RunStarted
    | RunResumed
    | ModelRequested
    | ModelAnswered
    | ModelFailed
    | ModelAbandoned
    | BudgetReached
    | BudgetWarned
    | BudgetUnchecked
    | ToolsJudged
    | ArgumentsReplaced
    | ApprovalRequested
    | ApprovalGranted
    | ApprovalDenied
    | HumanAsked
    | HumanAnswered
    | AgentPaused
    | AnswerRejected
    | AnswerDropped
    | ToolAttempted
    | ToolReturned
    | ToolInDoubt
    | ToolSettled
    | RunParked
    | MemoryRecalled
    | MemoryWritten
    | FactsLearned
    | OutputRejected
    | StopRequested
    | RunEnded
)
