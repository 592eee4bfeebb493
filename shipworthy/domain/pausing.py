"""A paused run, as its callers see it: what it waits for, and the reference with which it is resumed."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

import msgspec


class Checkpoint(TypedDict):
    """A signed reference to a paused run, good for one `agent.resume`: plain JSON. It holds no state: the journal does.

    `seq`: the event with which the run paused; a run that went on since is not resumed by it.
    """

    v: int
    tenant_id: str
    run_id: str
    seq: int
    key: str
    mac: str


PendingKind = Literal["in_doubt", "approval", "answer"]


class PendingCall(msgspec.Struct, frozen=True, gc=False):
    """What a paused run waits for: a call, by its `address` (its `call_id`, behind those of the calls that made the
    nested runs it is in). `arguments` is the JSON text, as the tool is to get it.

    `kind`: "in_doubt" is settled with `resume(settle=)`, the others with `resume(answer=)`. An "approval" has `rule`,
    `approvers` (how many different people), `among` (who may; everybody where it is empty) and `approved_by` so far;
    an "answer" has `data`, which says what is asked, the JSON Schema of the answer, and `ordinal`: which of the
    questions of its call it is, from 0. `digest`: of the arguments, or of the question. `agents`: the names from the
    outermost agent to the one that waits. `expires_at`: milliseconds since the Unix epoch. `key`: the name of the key
    with which whoever asks would sign.
    """

    call_id: str
    tool: str
    arguments: str
    reason: str
    kind: PendingKind = "in_doubt"
    address: str = ""
    agents: tuple[str, ...] = ()
    run_id: str = ""
    effect: str = ""
    rule: str = ""
    policy: str = ""
    digest: str = ""
    approvers: int = 1
    among: tuple[str, ...] = ()
    approved_by: tuple[str, ...] = ()
    expires_at: int | None = None
    data: Any = None
    schema: Any = None
    ordinal: int = 0
    key: str = ""
