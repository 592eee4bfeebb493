"""What people are shown when they are asked for their approval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from shipworthy.domain.effects import Effect
from shipworthy.domain.messages import Message
from shipworthy.domain.scope import Scope


class ApprovalRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One call that waits for a yes: whose, of which tool, with exactly which `arguments`, and why somebody is asked.

    `run_id` is the outermost run's, `address` says which call of it or of its nested runs, `agents` the names of the
    agents from the outermost one on. `approvers`: how many different people have to say yes, `approved_by` who has;
    `among`: who may, everybody where it is empty. `seen`: the conversation that led to the call. `expires_at`:
    milliseconds since the Unix epoch; None: never.
    """

    scope: Scope
    run_id: str
    address: str
    agents: tuple[str, ...]
    tool: str
    effect: Effect
    arguments: Mapping[str, Any]
    digest: str
    rule: str
    policy: str
    reason: str
    approvers: int = 1
    among: tuple[str, ...] = ()
    approved_by: tuple[str, ...] = ()
    expires_at: int | None = None
    seen: Sequence[Message] = ()
