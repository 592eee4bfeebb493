"""A run while it is driven in this process."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from typing import Any, overload

from shipworthy.domain.context import RunContext
from shipworthy.domain.messages import Message, ToolCall
from shipworthy.domain.model import ModelSettings
from shipworthy.domain.scope import Scope
from shipworthy.engine.blueprint import Blueprint
from shipworthy.engine.bodies import Bodies
from shipworthy.engine.record import Recorder
from shipworthy.ports.store import Store
from shipworthy.rules.state import RunState


class View(Sequence[Message]):
    """The first *n* messages of a list that only grows: a snapshot without a copy."""

    __slots__ = ("_messages", "_n")

    def __init__(self, messages: list[Message]) -> None:
        self._messages = messages
        self._n = len(messages)

    def __len__(self) -> int:
        return self._n

    @overload
    def __getitem__(self, index: int) -> Message: ...
    @overload
    def __getitem__(self, index: slice) -> list[Message]: ...
    def __getitem__(self, index: int | slice) -> Message | list[Message]:
        if isinstance(index, slice):
            return self._messages[: self._n][index]
        if not -self._n <= index < self._n:
            raise IndexError(index)
        return self._messages[index if index >= 0 else self._n + index]


class LiveRun:
    """State, journal and surroundings of one run. Everything that must outlive the process is in `state`."""

    __slots__ = (
        "abandoned",
        "arguments",
        "blueprint",
        "bodies",
        "changed",
        "deadline",
        "deps",
        "history",
        "instructions",
        "raises",
        "recorder",
        "run_short",
        "scope",
        "settings",
        "state",
        "store",
        "timeout",
        "transcript",
    )

    def __init__(
        self,
        blueprint: Blueprint,
        store: Store,
        recorder: Recorder,
        *,
        scope: Scope,
        deps: Any,
        settings: ModelSettings,
        instructions: str,
        history: Sequence[Message],
        timeout: float | None,
    ) -> None:
        self.blueprint = blueprint
        self.store = store
        self.recorder = recorder
        self.state: RunState = recorder.state
        self.bodies: Bodies = recorder.bodies
        self.scope = scope
        self.deps = deps
        self.settings = settings
        self.instructions = instructions
        self.history = len(history)
        self.transcript: list[Message] = list(history)
        self.timeout = timeout
        self.deadline = None if timeout is None else time.monotonic() + timeout
        self.arguments: dict[str, Any] = {}
        self.changed: tuple[str, ...] = ()
        self.abandoned = False
        self.raises: Exception | None = None
        self.run_short = short(scope.tenant, self.state.started.run_id)

    @property
    def run_id(self) -> str:
        return self.state.started.run_id

    async def messages(self) -> View:
        """The conversation so far, with every body in its place. Costs what is new since it was last asked."""
        for message in self.state.messages[len(self.transcript) - self.history :]:
            self.transcript.append(await self.bodies.message(message))
        return View(self.transcript)

    def context(self, call: ToolCall | None = None, key: str = "", attempt: int = 1) -> RunContext[Any]:
        """What user code may know of this run."""
        return RunContext(
            deps=self.deps,
            scope=self.scope,
            run_id=self.run_id,
            agent=self.blueprint.name,
            tool="" if call is None else call.name,
            call_id="" if call is None else call.call_id,
            idempotency_key=key,
            attempt=attempt,
            deadline=self.deadline,
            fence=self.recorder.token,
        )


def short(tenant: str, run_id: str) -> str:
    """Eight characters that make the call ids of two runs of one conversation differ."""
    return hashlib.sha256(f"{len(tenant)}:{tenant}{run_id}".encode("utf-8", "replace")).hexdigest()[:8]


def idempotency_key(scope: Scope, run_id: str, call_id: str, arguments: str) -> str:
    """The same for every attempt of one call; lengths go in, so that no two calls compose to the same text."""
    text = f"{len(scope.tenant)}:{scope.tenant}{len(run_id)}:{run_id}{call_id}:{arguments}"
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:32]
