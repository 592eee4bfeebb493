"""An agent's memory, as the developer asked for it: what its runs use, and who learns facts for it."""

from __future__ import annotations

import asyncio
import logging
import warnings
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from shipworthy.app.configuration import flag_of
from shipworthy.app.memories import memory_for
from shipworthy.domain.memory import Consolidated
from shipworthy.domain.scope import Scope
from shipworthy.engine.blueprint import Blueprint
from shipworthy.engine.memory.memory import Memory
from shipworthy.engine.remembering import Remembering
from shipworthy.engine.runtime import Runtime
from shipworthy.errors import ConfigurationError, IdentityMissing, IdentityWarning, MemoryProblem
from shipworthy.ports.model import Model

if TYPE_CHECKING:
    from shipworthy.app.configuration import Tuning
    from shipworthy.app.learning import Learning

log = logging.getLogger("shipworthy.memory")

_MOST_WARNINGS = 10_000
"""Tenants that are warned of, so that what is remembered of warnings is bounded."""


class AgentMemory:
    """What `Agent(memory=, memory_required=, auto_extract=)` asks for. Raises ConfigurationError."""

    def __init__(
        self, model: Model, tuning: Tuning, memory: Memory | str | None, required: bool, extract: bool | None
    ) -> None:
        if memory is None:
            raise ConfigurationError(
                "memory_required=, auto_extract= or auto_consolidate= is set, and there is no memory.",
                fix='Pass memory="sqlite:./bot.db", or another Memory, or leave them out.',
            )
        self.memory = memory_for(memory)
        self._required = flag_of("memory_required", required)
        self._tuning = tuning
        self._extracts = _extracts(self.memory, model, extract)
        if tuning.auto_consolidate and not self.memory.settings.with_facts:
            raise ConfigurationError(
                "auto_consolidate=True, and the memory keeps no facts.",
                fix="Make it without with_facts=False.",
            )
        self._warned: set[str] = set()
        self._learning: Learning | None = None
        self._consolidating: list[asyncio.Task[None]] = []

    def check(self, scope: Scope, *, required: bool) -> None:
        """Warn, once of each tenant, that a run names nobody whose memory it could be. Raises IdentityMissing where
        that is an error."""
        if self.memory.partition(scope) is not None:
            return
        level = self.memory.settings.level
        what = f"A run names no {'user' if scope.user is None else level}, and memory is kept by {level}."
        if required:
            raise IdentityMissing(what, fix=f"Pass {level}_id=.")
        if scope.tenant not in self._warned and len(self._warned) < _MOST_WARNINGS and not scope.anonymous:
            self._warned.add(scope.tenant)
            told = f"{what} It recalls nothing and is not remembered: pass {level}_id=."
            warnings.warn(told, IdentityWarning, stacklevel=4)

    def attach(self, blueprint: Blueprint, runtime: Runtime) -> None:
        """Have the agent with this blueprint use the memory, and facts learned for it."""
        self.memory.covers(runtime)
        if self.memory.settings.with_facts:
            from shipworthy.app.learning import Learning

            self._learning = Learning(self.memory, runtime, blueprint)
        blueprint.memory = Remembering(
            memory=self.memory,
            required=self._required,
            patience=self._tuning.memory_timeout,
            learner=self._learning if self._extracts else None,
        )

    async def consolidate(self, tenant: str | None, user: str | None) -> Consolidated:
        """Learn what was not learned yet, and join what says the same. Raises ConfigurationError."""
        if self._learning is None:
            raise ConfigurationError(
                "The memory keeps no facts, so nothing can be consolidated.",
                fix="Make it without with_facts=False.",
            )
        if tenant is None and user is not None:
            raise IdentityMissing("A user belongs to a tenant.", fix="Pass tenant_id= as well.")
        return await self._learning.consolidate(None if tenant is None else Scope(tenant, user))

    async def recover(self) -> None:
        """Learn what others began to learn and left."""
        if self._learning is not None:
            await self._learning.recover()

    async def enter(self) -> None:
        """Make ready, and look after what others left: learning that was interrupted, and what is too old. Raises
        MemoryProblem where the memory is required."""
        try:
            await self.memory.acquire()
        except MemoryProblem as error:
            if self._required:
                raise
            log.warning("The agent goes on without its memory: %s", error)
            self.memory.hold()
        every = self._tuning.recover_every
        if self._learning is not None:
            self._keep(self._learning.service.keep_recovering(every), "shipworthy-learning")
            if self._tuning.auto_consolidate:
                self._keep(self._learning.keep_consolidating(every), "shipworthy-consolidation")
        if self.memory.settings.retention:
            self._keep(self.memory.keep_sweeping(every), "shipworthy-retention")

    def _keep(self, work: Coroutine[Any, Any, None], name: str) -> None:
        self._consolidating.append(asyncio.create_task(work, name=name))

    async def leave(self, runtime: Runtime) -> None:
        """Wait a little for what is being learned, and leave the rest to whoever takes it up."""
        tasks, self._consolidating = self._consolidating, []
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._learning is not None:
            await self._learning.settle(self._tuning.memory_timeout)
            await runtime.abandon(self._learning.service.blueprint)
            runtime.forget_leaving(self._learning.service.blueprint)
        await self.memory.release()

    async def close(self) -> None:
        """Give up connections, unless another agent holds them."""
        if not self.memory.held:
            await self.memory.close()


def _extracts(memory: Memory, model: Model, extract: bool | None) -> bool:
    """Whether facts are learned after each run. Raises ConfigurationError."""
    if extract is None:
        return memory.settings.with_facts and not getattr(model, "is_double", False)
    if flag_of("auto_extract", extract) and not memory.settings.with_facts:
        raise ConfigurationError(
            "auto_extract=True, and the memory keeps no facts.", fix="Make it without with_facts=False."
        )
    return extract
