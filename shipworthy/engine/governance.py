"""Who may object to what a run does: policies and hooks, from the outermost agent's to the own ones.

A nested run has what its parent has and adds its own; nothing takes away.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from shipworthy.ports.hooks import AfterModel, AfterTool, BeforeModel, BeforeTool, Desk, Handler
    from shipworthy.ports.policy import Policy


class Hooks(msgspec.Struct, frozen=True, kw_only=True):
    """An agent's hooks, in the order in which they were registered."""

    before_tool: tuple[BeforeTool, ...] = ()
    after_tool: tuple[AfterTool, ...] = ()
    before_model: tuple[BeforeModel, ...] = ()
    after_model: tuple[AfterModel, ...] = ()

    def within(self, outer: Hooks) -> Hooks:
        """These, after those of *outer*."""
        return Hooks(
            before_tool=(*outer.before_tool, *self.before_tool),
            after_tool=(*outer.after_tool, *self.after_tool),
            before_model=(*outer.before_model, *self.before_model),
            after_model=(*outer.after_model, *self.after_model),
        )


NO_HOOKS = Hooks()


class Governance(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for a run. `handler` or `desk`: who asks people, the outermost agent's; neither: nobody does.

    `patience`: seconds that a policy or a hook may take; `handler_patience`: that a handler may. `judges`: whether
    calls are looked at by anything but their tools. `version`: the policies' versions, together.
    """

    policies: tuple[Policy, ...] = ()
    hooks: Hooks = NO_HOOKS
    handler: Handler | None = None
    desk: Desk | None = None
    patience: float = 5.0
    handler_patience: float = 300.0
    version: str = ""
    judges: bool = False

    @classmethod
    def of(
        cls,
        policies: Sequence[Policy],
        hooks: Hooks,
        handler: Handler | None,
        desk: Desk | None,
        patience: float,
        handler_patience: float,
    ) -> Governance:
        """Everything that is the same for every call, found out once."""
        return cls(
            policies=tuple(policies),
            hooks=hooks,
            handler=handler,
            desk=desk,
            patience=patience,
            handler_patience=handler_patience,
            version=" ".join([policy.version for policy in policies]),
            judges=bool(policies or hooks.before_tool),
        )

    def around(self, inner: Governance) -> Governance:
        """What holds for a nested run: all of this, and what *inner* adds."""
        return Governance.of(
            (*self.policies, *inner.policies),
            inner.hooks.within(self.hooks),
            self.handler,
            self.desk,
            min(self.patience, inner.patience),
            min(self.handler_patience, inner.handler_patience),
        )


UNGOVERNED = Governance()


def name_of(policy: Any) -> str:
    """What a rule is called that its policy gave no name."""
    return str(getattr(policy, "name", None) or type(policy).__name__)
