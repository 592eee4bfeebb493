"""What a policy is asked and what it says: may this call of a tool, for this identity, with these arguments, run?"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Any, Literal

import msgspec

from shipworthy.domain.effects import Effect

Ruling = Literal["allow", "deny", "ask"]
ActionKind = Literal["tool", "agent", "memory"]
Covers = Literal["arguments", "tool"]
Remember = Literal["run", "user"]


class Decision(msgspec.Struct, frozen=True, gc=False):
    """A policy's answer. Made by `allow_`, `deny_` and `ask_`.

    `rule` names what decided, and must stay the same as long as it means the same: an approval stands under no other.
    `reason` is for people and the journal; `tell` is what the model is told of a denial, the reason where it is None.
    `approvers`: how many different people have to approve; `among`: who may, everybody where it is empty.
    """

    ruling: Ruling
    reason: str = ""
    rule: str = ""
    tell: str | None = None
    approvers: int = 1
    among: tuple[str, ...] = ()

    @classmethod
    def allow_(cls, reason: str = "", *, rule: str = "") -> Decision:
        """The call may run, as far as this policy is concerned."""
        return cls("allow", reason, rule)

    @classmethod
    def deny_(cls, reason: str = "", *, rule: str = "", tell: str | None = None) -> Decision:
        """The call does not run; the model is told so."""
        return cls("deny", reason, rule, tell)

    @classmethod
    def ask_(
        cls,
        reason: str = "",
        *,
        rule: str = "",
        tell: str | None = None,
        approvers: int = 1,
        among: tuple[str, ...] = (),
    ) -> Decision:
        """The call runs if people approve of exactly these arguments."""
        return cls("ask", reason, rule, tell, approvers, among)

    def __bool__(self) -> bool:
        raise TypeError("A Decision is neither true nor false: look at decision.ruling.")


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody's run wants to do. `arguments` are plain JSON data, as the tool will get them.

    `kind`: "tool", "agent" (a nested agent or a hand-off) or "memory". `name`: the tool's; of a call of nested agents,
    policies are asked by the name of each of them too. `path`: the names of the agents from the outermost one to the
    one that asks. `labels`: what the tool is labelled with. `source`: "code" for tools written in code, otherwise where
    the tool comes from. `returned`: how often each tool has given a result in the outermost run and all nested in it;
    `allowed`: how often a call of it was allowed there before this one, calls of the same answer included. `at`:
    milliseconds since the Unix epoch.
    """

    kind: ActionKind
    name: str
    effect: Effect
    arguments: Mapping[str, Any]
    path: tuple[str, ...]
    run_id: str
    call_id: str
    labels: frozenset[str] = frozenset()
    source: str = "code"
    returned: Mapping[str, int] = {}
    allowed: Mapping[str, int] = {}
    at: int = 0

    def copied(self) -> Action:
        """The same for somebody else: what one of them changes in place, the other is not shown."""
        if not [value for value in self.arguments.values() if type(value) in (dict, list)]:
            return self
        data = msgspec.json.decode(msgspec.json.encode(dict(self.arguments)))
        return msgspec.structs.replace(self, arguments=MappingProxyType(data))


class Mode(Enum):
    """How much StandardPermissions allows by itself.

    PLAN: tools that change nothing. DEFAULT: those, and a person is asked for the others. ACCEPT_EDITS: what is safe to
    repeat as well, and a person is asked for `once`. BYPASS: everything; it must be named in code, and each use is
    recorded.
    """

    PLAN = "plan"
    DEFAULT = "default"
    ACCEPT_EDITS = "accept_edits"
    BYPASS = "bypass"


class Replace(msgspec.Struct, frozen=True, gc=False):
    """A `before_tool` hook's answer: other arguments. They are validated, and judged again by everybody."""

    arguments: Mapping[str, Any]
    reason: str = ""


class Approve(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A person's yes to one call. `by` names who it is: whoever calls this has made sure of that.

    `arguments`: other ones, to which the yes then applies. `remember`: for this run or this user, of calls of the same
    tool under the same rule, with the same arguments or (`covers="tool"`) whatever the arguments. `expires_in`: seconds
    in which the call has to begin.
    """

    by: str
    arguments: Mapping[str, Any] | None = None
    remember: Remember | None = None
    covers: Covers = "arguments"
    expires_in: float | None = None


class Deny(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A person's no to one call; the model is told the reason."""

    by: str
    reason: str = ""
