"""What a tool itself says about needing approval."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from shipworthy.app.threads import in_thread
from shipworthy.domain.policy import Decision
from shipworthy.errors import InvalidTool
from shipworthy.rules.policies.check import MOST_APPROVERS
from shipworthy.rules.text import clean

Requires = bool | Callable[[Any], bool | Awaitable[bool]]
"""True, or a function of the arguments, which has an attribute for each parameter."""

NO_OBJECTION = Decision.allow_()
_RULE = "tool:requires_approval"


class ToolApproval(msgspec.Struct, frozen=True):
    """Whether calls of one tool need a person's yes."""

    predicate: Callable[[Any], Any] | None
    approvers: int

    async def decide(self, arguments: Any) -> Decision:
        """Raises what the predicate raises, and TypeError for what is neither True nor False."""
        needed = True
        if self.predicate is not None:
            if is_async(self.predicate):
                needed = await self.predicate(arguments)
            else:
                needed = await in_thread(None, self.predicate, arguments)
            if type(needed) is not bool:
                raise TypeError(f"requires_approval= gave a {type(needed).__name__}, not a bool")
        if not needed:
            return NO_OBJECTION
        return Decision.ask_("This tool requires approval.", rule=_RULE, approvers=self.approvers)


def approval_of(tool: str, requires: Any, approvers: Any) -> ToolApproval | None:
    """What `@tool(requires_approval=, approvers=)` says. Raises InvalidTool."""
    if type(approvers) is not int or not 1 <= approvers <= MOST_APPROVERS:
        raise InvalidTool(
            f"Tool {tool!r} has approvers={approvers!r}.", fix=f"Give an int from 1 to {MOST_APPROVERS}."
        )
    if callable(requires) and not isinstance(requires, type):
        try:
            inspect.signature(requires).bind(None)
        except (TypeError, ValueError) as error:
            raise InvalidTool(
                f"requires_approval= of tool {tool!r} does not take (args): {error}.",
                fix="Write a function of one argument; args.<parameter> is what the call is made with.",
            ) from error
        return ToolApproval(requires, approvers)
    if type(requires) is not bool:
        raise InvalidTool(
            f"Tool {tool!r} has requires_approval={requires!r}.",
            fix="Give True, False, or a function of the arguments that gives one of them.",
        )
    if approvers != 1 and not requires:
        raise InvalidTool(
            f"Tool {tool!r} has approvers={approvers} and no requires_approval=.",
            fix="Set requires_approval=True.",
        )
    return ToolApproval(None, approvers) if requires else None


def labels_of(tool: str, labels: Any) -> frozenset[str]:
    """What `@tool(labels=)` says. Raises InvalidTool."""
    if isinstance(labels, str) or not isinstance(labels, (Sequence, set, frozenset)):
        raise InvalidTool(f"Tool {tool!r} has labels={labels!r}.", fix='Give a list: labels=["payment"].')
    for label in labels:
        if not isinstance(label, str) or not label.strip() or clean(label) != label:
            raise InvalidTool(f"Tool {tool!r} has the label {label!r}.", fix="Give texts that are not blank.")
    return frozenset(labels)


def is_async(fn: Any) -> bool:
    """Whether calling *fn* gives something to be awaited."""
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None))  # noqa: B004
