"""A tool as the engine sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from shipworthy.domain.context import RunContext
from shipworthy.domain.effects import Effect, Verdict
from shipworthy.domain.messages import File, Image, Text
from shipworthy.domain.model import ToolSpec
from shipworthy.domain.policy import ActionKind, Decision


class Tool(Protocol):
    """Everything that does not change from call to call was computed when the tool was made."""

    @property
    def spec(self) -> ToolSpec: ...

    @property
    def effect(self) -> Effect: ...

    @property
    def kind(self) -> ActionKind:
        """What a call of it is to policies."""
        ...

    @property
    def labels(self) -> frozenset[str]:
        """What policies may know it by."""
        ...

    @property
    def source(self) -> str:
        """Is "code" for tools written in code, otherwise where the tool comes from."""
        ...

    @property
    def asks(self) -> bool:
        """Whether `approval` has anything to say."""
        ...

    @property
    def timeout(self) -> float | None:
        """Seconds; None for the agent's default."""
        ...

    @property
    def retries(self) -> int:
        """How often a body that raised runs again by itself (never for `once`)."""
        ...

    @property
    def threaded(self) -> bool:
        """Whether the body runs in a thread, which cannot be killed."""
        ...

    @property
    def verifies(self) -> bool:
        """Whether `verify` can ask the world."""
        ...

    @property
    def max_result(self) -> int | None:
        """Characters of a result that the model is shown; None for the agent's default."""
        ...

    def parse(self, arguments: str) -> Any:
        """The arguments of a call from their JSON text. Raises InvalidArguments, in words that the model can use."""
        ...

    async def approval(self, ctx: RunContext[Any], arguments: Any) -> Decision:
        """Whether this call needs a person's approval, as the tool itself says. What it raises is a deny."""
        ...

    async def invoke(
        self, ctx: RunContext[Any], arguments: Any, may_start: Callable[[], bool] | None = None
    ) -> tuple[Text | Image | File, ...]:
        """Run the body and give its result as parts. *may_start* is asked last, where the body starts: in its thread,
        if it runs in one; where it says no, NotDone is raised."""
        ...

    def parts(self, value: Any) -> tuple[Text | Image | File, ...]:
        """A returned value as parts. Raises UnserialisableResult."""
        ...

    def still_running(self, ctx: RunContext[Any]) -> bool:
        """Whether the thread of an earlier attempt of this call still runs in this process."""
        ...

    async def verify(self, ctx: RunContext[Any], arguments: Any) -> Verdict:
        """Ask the world whether an earlier attempt of this call happened."""
        ...
