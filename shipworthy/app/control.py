"""Who may object to what an agent does, as a developer writes it down: permissions, hooks, an approval handler."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import msgspec

from shipworthy.app.approvals import is_async
from shipworthy.app.inbox import Inbox
from shipworthy.app.permissions import permissions_of
from shipworthy.app.threads import in_thread
from shipworthy.domain.policy import Action, Decision
from shipworthy.domain.scope import Scope
from shipworthy.engine.governance import UNGOVERNED, Governance, Hooks, name_of
from shipworthy.errors import InvalidHook
from shipworthy.ports.policy import Policy

ApprovalHandler = Inbox | Callable[..., Any]
"""An Inbox, or a function of (request) or (ctx, request) that gives Approve(by=...) or Deny(by=...)."""

_STAGES = {"before_tool": 2, "after_tool": 3, "before_model": 2, "after_model": 2}
_TAKES = {
    "before_tool": "(ctx, action)",
    "after_tool": "(ctx, action, result)",
    "before_model": "(ctx, request)",
    "after_model": "(ctx, answer)",
}


class Hook(msgspec.Struct, frozen=True):
    """A function that is asked, off the event loop where it is a plain one."""

    name: str
    function: Callable[..., Any]
    threaded: bool

    async def __call__(self, *given: Any) -> Any:
        if self.threaded:
            answer = await in_thread(None, self.function, *given)
            return await answer if inspect.isawaitable(answer) else answer
        return await self.function(*given)


class _OffLoop:
    """A policy whose `decide` may hold somebody up: it runs in a thread."""

    immediate = False

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.version = policy.version
        self.name = name_of(policy)

    async def decide(self, scope: Scope, action: Action) -> Decision:
        answer: Any = await in_thread(None, self._policy.decide, scope, action)
        made: Decision = await answer if inspect.isawaitable(answer) else answer
        return made


class Control:
    """An agent's permissions, hooks and approval handler, until its first run."""

    def __init__(self, permissions: Any, approval_handler: Any) -> None:
        policy = permissions_of(permissions)
        self._policies: list[Policy] = []
        if policy is not None:
            at_once = getattr(policy, "immediate", False) is True or is_async(policy.decide)
            self._policies.append(policy if at_once else _OffLoop(policy))
        self._hooks: dict[str, list[Hook]] = {stage: [] for stage in _STAGES}
        self.inbox = approval_handler if isinstance(approval_handler, Inbox) else None
        self._handler: Hook | None = None
        if approval_handler is not None and self.inbox is None:
            self._handler = _handler_of(approval_handler)

    def hook(self, stage: str, function: Any) -> None:
        """Ask *function* at this stage. Raises InvalidHook."""
        name, takes = _name(function), _STAGES[stage]
        if not callable(function) or isinstance(function, type) or not _binds(function, takes):
            raise InvalidHook(
                f"{name} cannot be a {stage} hook.",
                fix=f"Write a function of {_TAKES[stage]}, sync or async.",
            )
        self._hooks[stage].append(Hook(name, function, not is_async(function)))

    def governance(self, patience: float, handler_patience: float) -> Governance:
        """What holds for the agent's runs."""
        asks = self._handler is not None or self.inbox is not None
        if not self._policies and not asks and not any(self._hooks.values()):
            return UNGOVERNED
        stages: dict[str, Any] = {stage: tuple(each) for stage, each in self._hooks.items()}
        hooks = Hooks(**stages)
        return Governance.of(self._policies, hooks, self._handler, self.inbox, patience, handler_patience)


def _handler_of(given: Any) -> Hook:
    """What `Agent(approval_handler=)` takes. Raises InvalidHook."""
    if not callable(given) or isinstance(given, type) or not (_binds(given, 2) or _binds(given, 1)):
        raise InvalidHook(
            f"approval_handler={given!r} is no handler.",
            fix="Pass an Inbox(), or a function of (request) or (ctx, request) that gives Approve(by=...) or "
            "Deny(by=...).",
        )
    function = _only_request(given) if _binds(given, 1) else given
    return Hook(_name(given), function, not is_async(given))


def _only_request(given: Callable[..., Any]) -> Callable[..., Any]:
    def handler(ctx: Any, request: Any) -> Any:
        return given(request)

    return handler


def _binds(function: Callable[..., Any], count: int) -> bool:
    try:
        inspect.signature(function).bind(*[None] * count)
    except (TypeError, ValueError):
        return False
    return True


def _name(function: Any) -> str:
    return str(getattr(function, "__qualname__", None) or type(function).__name__)
