"""Hooks: code of the developer that is asked before and after a call of a tool or of the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from shipworthy.domain.approvals import ApprovalRequest
from shipworthy.domain.context import RunContext
from shipworthy.domain.messages import File, Image, Text
from shipworthy.domain.model import Answer, ModelRequest
from shipworthy.domain.policy import Action, Approve, Decision, Deny, Replace


class BeforeTool(Protocol):
    """Asked before a call is made: None has no objection. Whatever it raises, or gives beside these, is a deny."""

    @property
    def name(self) -> str: ...

    async def __call__(self, ctx: RunContext[Any], action: Action, /) -> Decision | Replace | None: ...


class AfterTool(Protocol):
    """Asked when a call gave a result: a deny withholds it from the model."""

    @property
    def name(self) -> str: ...

    async def __call__(
        self, ctx: RunContext[Any], action: Action, result: Sequence[Text | Image | File], /
    ) -> Decision | None: ...


class BeforeModel(Protocol):
    """Asked before a request is sent: a deny stops the run."""

    @property
    def name(self) -> str: ...

    async def __call__(self, ctx: RunContext[Any], request: ModelRequest, /) -> Decision | None: ...


class AfterModel(Protocol):
    """Asked when a complete answer is there: a deny stops the run, and none of its calls is made."""

    @property
    def name(self) -> str: ...

    async def __call__(self, ctx: RunContext[Any], answer: Answer, /) -> Decision | None: ...


class Handler(Protocol):
    """Asks people. Whatever it raises, or gives that is none of these, is a deny."""

    @property
    def name(self) -> str: ...

    async def __call__(
        self, ctx: RunContext[Any], request: ApprovalRequest, /
    ) -> Approve | Deny | Decision: ...


class Desk(Protocol):
    """Where requests wait while their run is parked. The journal has them; `deliver` only tells somebody.

    `expires_in`: seconds until nobody having answered is a no; None waits without end.
    """

    @property
    def expires_in(self) -> float | None: ...

    async def deliver(self, requests: Sequence[ApprovalRequest]) -> None:
        """A run was parked, and waits for these. What is raised here is logged."""
        ...
