"""A person's yes or no, signed: the events that say so, for one call that waits."""

from __future__ import annotations

import os
import time

import msgspec

from shipworthy.domain.events import ApprovalDenied, ApprovalGranted
from shipworthy.domain.grants import Grant
from shipworthy.domain.messages import ToolCall
from shipworthy.domain.pausing import PendingCall
from shipworthy.domain.policy import Approve, Deny
from shipworthy.domain.scope import Scope
from shipworthy.engine.blueprint import UNNAMED
from shipworthy.engine.keyring import Keyring
from shipworthy.rules import approvals as rules
from shipworthy.rules.approvals import Approval, tool_key
from shipworthy.rules.text import clean

LASTS = 7 * 86_400.0
"""Seconds for which an approval can be used that says nothing else."""
LONGEST_ARGUMENTS = 1_000_000
"""Characters of JSON that an approver's own arguments may have."""


class Refusal(Exception):
    """An answer that is not taken; `what` may be told to whoever gave it."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


async def token_of(
    keyring: Keyring, scope: Scope, root: str, waiting: PendingCall, answer: Approve | Deny
) -> str:
    """The answer, signed for this very call. Raises Refusal, StoreError."""
    if type(answer) not in (Approve, Deny):
        raise Refusal("an approval is answered with Approve(by=...) or Deny(by=...)")
    if (wrong := rules.misfit_answer(answer)) is not None:
        raise Refusal(wrong)
    if waiting.key and waiting.key not in [known.id for known in await keyring.all(waiting.key)]:
        raise Refusal(
            "whoever asks signs with a key that is not here: give this process the same signing_keys=, or, where that "
            "key was taken out of use, resume the run by its id without an answer, and it is asked anew"
        )
    key, now = await keyring.newest(), time.time_ns() // 1_000_000
    yes = answer if isinstance(answer, Approve) else None
    lasts = LASTS if yes is None or yes.expires_in is None else yes.expires_in
    said = Approval(
        id=os.urandom(12).hex(),
        key=key.id,
        tenant=scope.tenant,
        user=scope.user,
        run=root,
        address=waiting.address,
        agents=waiting.agents,
        tool=waiting.tool,
        digest=_digest(waiting, yes),
        rule=waiting.rule,
        policy=waiting.policy,
        ruling="deny" if yes is None else "allow",
        approver=answer.by,
        at=now,
        expires_at=now + int(lasts * 1000),
        remember=None if yes is None else yes.remember,
        covers="arguments" if yes is None else yes.covers,
    )
    return rules.sign(key, said)


async def event_of(
    keyring: Keyring,
    scope: Scope,
    root: str,
    waiting: PendingCall,
    token: str,
    answer: Approve | Deny | None = None,
) -> ApprovalGranted | ApprovalDenied:
    """What is recorded of a token, if it is a good one for this very call. *answer* has what travels beside it. Raises
    Refusal, StoreError."""
    said = await verified(keyring, token)
    now = time.time_ns() // 1_000_000
    if (said.tenant, said.user, said.run) != (scope.tenant, scope.user, root):
        raise Refusal(NOT_TAKEN)
    if (said.address, said.tool, said.rule) != (waiting.address, waiting.tool, waiting.rule):
        raise Refusal(NOT_TAKEN)
    if waiting.expires_at is not None and waiting.expires_at <= now:
        raise Refusal(TOO_LATE)
    if said.ruling == "deny":
        reason = clean(answer.reason) if isinstance(answer, Deny) else ""
        return ApprovalDenied(
            id=said.id,
            address=said.address,
            approver=said.approver,
            token=token,
            reason=reason,
            origin=_who(said),
        )
    edited = answer if isinstance(answer, Approve) and answer.arguments is not None else None
    if said.digest != _digest(waiting, edited) or said.expires_at <= now:
        raise Refusal(NOT_TAKEN)
    _check_approver(said, waiting, scope)
    call = None
    if edited is not None:
        call = ToolCall(waiting.tool, _text(edited), waiting.call_id, origin=_who(said))
    return ApprovalGranted(
        id=said.id,
        address=said.address,
        approver=said.approver,
        tool=said.tool,
        digest=said.digest,
        rule=said.rule,
        expires_at=said.expires_at,
        token=token,
        call=call,
        remember=said.remember,
        covers=said.covers,
        origin=_who(said),
    )


NOT_TAKEN = "it is not one that this call waits for, or not any more"
"""What whoever brings a token is told that is forged, foreign, altered, expired or used: nothing."""
TOO_LATE = "the time to answer is over; resumed without an answer, the run goes on as if nobody had answered"


async def verified(keyring: Keyring, token: str) -> Approval:
    """What a token of ours says. Raises Refusal, StoreError."""
    try:
        return rules.read(token, await keyring.all(rules.key_of(token)))
    except rules.Forged:
        raise Refusal(NOT_TAKEN) from None


def grant_of(event: ApprovalGranted, scope: Scope, agents: tuple[str, ...]) -> Grant | None:
    """What is remembered of a yes beyond its run."""
    if event.remember != "user" or scope.user is None:
        return None
    return Grant(
        id=event.id,
        tenant=scope.tenant,
        user=scope.user,
        tool=tool_key(agents, event.tool),
        rule=event.rule,
        digest="" if event.covers == "tool" else event.digest,
        approver=event.approver,
        at=time.time_ns() // 1_000_000,
        expires_at=event.expires_at,
        token=event.token,
    )


def _check_approver(said: Approval, waiting: PendingCall, scope: Scope) -> None:
    if waiting.among and said.approver not in waiting.among:
        raise Refusal("whoever gave it may not approve this call")
    if said.approver in waiting.approved_by:
        raise Refusal("the same person has approved already, and another one has to")
    if said.remember is not None and waiting.approvers > 1:
        raise Refusal("what several people have to approve is not remembered")
    if said.remember == "user" and UNNAMED in waiting.agents:
        raise Refusal("agents without a name= are all one, so nothing can be remembered of them")
    if said.remember == "user" and scope.user is None:
        raise Refusal("the run is nobody's, so nothing can be remembered for its user")


def _digest(waiting: PendingCall, yes: Approve | None) -> str:
    return waiting.digest if yes is None or yes.arguments is None else rules.digest_of(_text(yes))


def _text(yes: Approve) -> str:
    try:
        found = rules.canonical(clean(msgspec.json.encode(yes.arguments).decode()))
    except (msgspec.EncodeError, TypeError, ValueError, RecursionError) as error:
        raise Refusal(f"its arguments cannot be written as JSON: {error}") from None
    if found is None:
        raise Refusal("its arguments are no JSON object")
    if len(found[1]) > LONGEST_ARGUMENTS:
        raise Refusal(
            f"its arguments have {len(found[1])} characters of JSON, and {LONGEST_ARGUMENTS} are taken"
        )
    return found[1]


def _who(said: Approval) -> str:
    return f"approver:{said.approver}"
