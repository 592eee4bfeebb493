"""One call of the present answer, as it stands: what was judged, asked, answered, attempted and returned."""

from __future__ import annotations

from typing import Literal

import msgspec

from shipworthy.domain.effects import Effect
from shipworthy.domain.events import (
    ApprovalDenied,
    ApprovalGranted,
    ApprovalRequested,
    HumanAnswered,
    HumanAsked,
)
from shipworthy.domain.messages import ToolCall, ToolResult

CallStatus = Literal["unjudged", "ready", "asked", "attempted", "waiting", "in_doubt", "returned"]
Answer = ApprovalGranted | ApprovalDenied | HumanAnswered

NOT_RUN = "Not run: the run ended before this call's turn came."
UNKNOWN = "Outcome unknown: the run ended while this call was under way."
UNANSWERED = "Not finished: the run ended while this call waited for an answer."
WORDS_AT_THE_END: dict[str, str] = {
    "unjudged": NOT_RUN,
    "ready": NOT_RUN,
    "asked": NOT_RUN,
    "waiting": UNANSWERED,
}


class Call(msgspec.Struct, gc=False):
    """One call of the present answer.

    `not_before`: milliseconds on the lease clock until which an earlier attempt may still be under way, so that "it did
    not happen" is not believed sooner. `open_attempt`: an attempt was made whose outcome is not known. `edited`: the
    call as it is to be made, where that is not what the model asked for, and `edited_by` whom. `ask`, `grants` and
    `denied`: what people were asked and said, `approvals` what it may run by, and `used` what it was begun by;
    `question`, `answers`: the same for its body; `children`, `down`: nested runs that it waits for, and answers for
    calls of theirs; `doubted`: they were stopped with something in doubt.
    """

    call: ToolCall
    status: CallStatus = "unjudged"
    effect: Effect | None = None
    attempts: int = 0
    start_by: int = 0
    timeout: float | None = None
    not_before: int = 0
    open_attempt: bool = False
    doubt: str = ""
    charged: bool = False
    allowed: bool = False
    result: ToolResult | None = None
    edited: ToolCall | None = None
    edited_by: str = ""
    ask: ApprovalRequested | None = None
    grants: tuple[ApprovalGranted, ...] = ()
    denied: ApprovalDenied | None = None
    approvals: tuple[str, ...] = ()
    used: tuple[str, ...] = ()
    question: HumanAsked | None = None
    answers: tuple[HumanAnswered, ...] = ()
    children: tuple[str, ...] = ()
    doubted: bool = False
    wake_at: int | None = None
    down: tuple[Answer, ...] = ()

    @property
    def wanted(self) -> ToolCall:
        """The call as it is to be made."""
        return self.call if self.edited is None else self.edited


def ask_anew(call: Call, event: ApprovalRequested) -> None:
    """What was said to another question than this one does not count for it."""
    now = (event.rule, event.digest)
    call.grants = tuple([grant for grant in call.grants if (grant.rule, grant.digest) == now])
    call.status, call.effect, call.ask = "asked", event.effect, event


def wait_on(call: Call) -> None:
    """It goes on waiting for what people were asked last."""
    call.status = "waiting" if call.question is not None else "asked"


def answer(call: Call, event: Answer) -> None:
    """Keep what somebody said of it."""
    match event:
        case ApprovalGranted():
            call.grants = (*call.grants, event)
        case ApprovalDenied():
            call.denied = event
        case HumanAnswered():
            call.answers = (*call.answers[: event.ordinal], event)


def drop_edits(call: Call) -> None:
    """Arguments that approvers gave do not fit the tool, so that what they said does not count."""
    call.grants = tuple([grant for grant in call.grants if grant.call is None])


def drop_grants(call: Call, by: str) -> None:
    """What this approver said does not count any more, so that they can be asked again."""
    call.grants = tuple([grant for grant in call.grants if f"approver:{grant.approver}" != by])
