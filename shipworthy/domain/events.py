"""The facts of a run, in the past tense. A run is a fold over these and nothing else.

Every event has its sequence number `seq` (from 1, without gaps), the wall-clock time `at` (milliseconds since the
Unix epoch), its `origin` and `trust` (see `messages`). Fields may be added with a default; a change of meaning raises
FORMAT.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from shipworthy.domain.effects import Effect
from shipworthy.domain.messages import (
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
from shipworthy.domain.usage import Charge, Reserved, Usage

FORMAT = 1
"""Version of the journal's format, written in `RunStarted`."""

RunStatus = Literal["running", "paused", "completed", "stopped", "cancelled", "failed"]
EndStatus = Literal["completed", "stopped", "cancelled", "failed"]
StopCause = Literal["cancelled", "timeout", "budget:max_wall_clock"]
ReturnKind = Literal["ok", "error", "rejected", "not_done", "timeout"]
Previous = Literal["released", "dead", "expired"]


class Event(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, kw_only=True, tag_field="kind"):
    """What all events have in common."""

    seq: int = 0
    at: int = 0
    origin: str = RUNTIME
    trust: Trust = "trusted"


class Fingerprint(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Digests of what an agent is made of; a resumed run reports which of them changed."""

    instructions: str = ""
    model: str = ""
    tools: str = ""
    output: str = ""


class RunStarted(Event, frozen=True, gc=False, kw_only=True, omit_defaults=False, tag="run_started"):
    """A run began; what is here is pinned. `digest` is that of the input, for a repeated `run_id`.

    Every field is written, set or not: a later release may choose other defaults.
    `session_head`: how many ended runs of the session this run sees. `timeout` in seconds.
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
    origin: str = USER


class RunResumed(Event, frozen=True, gc=False, kw_only=True, omit_defaults=False, tag="run_resumed"):
    """Another sitting began: in another process, or here after a pause. What was attempted and has no result is now
    in doubt, or runs again, as its effect says.

    `previous`: why the run had no owner. `changed` names the parts of the fingerprint that differ.
    `skew` (milliseconds) and the limits are the resuming worker's.
    """

    fence: int
    previous: Previous
    changed: tuple[str, ...] = ()
    max_turns: int = 50
    output_retries: int = 2
    model_retries: int = 2
    skew: int = 0


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
    """One call that may run, with the contract that its tool declares."""

    call_id: str
    effect: Effect


class ToolsJudged(Event, frozen=True, gc=False, kw_only=True, tag="tools_judged"):
    """The calls of an answer that may run. What may not is a `ToolReturned` with its reason. `charged`: they count
    against a limit of tool calls, and are not counted again."""

    calls: tuple[Judged, ...]
    charged: bool = False


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

    `thread_running`: the body's thread outlived its time and could not be stopped.
    """

    call_id: str
    content: tuple[ContentPart, ...]
    outcome: ReturnKind = "ok"
    whole: Stored | None = None
    thread_running: bool = False
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
    wrote raised where nothing could be done about it; resuming tries again."""

    reason: Literal["in_doubt", "missing_tool", "error"] = "in_doubt"
    detail: str = ""


class OutputRejected(Event, frozen=True, gc=False, kw_only=True, tag="output_rejected"):
    """The answer was not a valid output; the model is told why. `call_id` is that of an output tool's call."""

    problem: str
    call_id: str | None = None


class StopRequested(Event, frozen=True, gc=False, kw_only=True, tag="stop_requested"):
    """The caller cancelled, or the deadline passed. Nothing new is started."""

    cause: StopCause


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
    | ToolAttempted
    | ToolReturned
    | ToolInDoubt
    | ToolSettled
    | RunParked
    | OutputRejected
    | StopRequested
    | RunEnded
)
