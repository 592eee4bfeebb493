"""An agent's memory, as the developer asked for it: what its runs use, and who learns facts for it."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from shipworthy.app.configuration import flag_of
from shipworthy.app.memories import memory_for
from shipworthy.domain.scope import Scope
from shipworthy.engine.memory.memory import Memory
from shipworthy.engine.remembering import Learner, Remembering
from shipworthy.errors import ConfigurationError, IdentityMissing, IdentityWarning

if TYPE_CHECKING:
    from shipworthy.app.agent import Agent


class AgentMemory:
    """What `Agent(memory=, memory_required=, auto_extract=)` asks for. Raises ConfigurationError."""

    def __init__(
        self, agent: Agent[Any, Any], memory: Memory | str | None, required: bool, extract: bool | None
    ) -> None:
        if memory is None:
            raise ConfigurationError(
                "memory_required=, auto_extract= or auto_consolidate= is set, and there is no memory.",
                fix='Pass memory="sqlite:./bot.db", or another Memory, or leave them out.',
            )
        self.memory = memory_for(memory)
        self.required = flag_of("memory_required", required)
        self._agent = agent
        self._extract = extract
        self._warned = False
        self._learner: Learner | None = None

    def check(self, scope: Scope, *, required: bool) -> None:
        """Warn, once, that a run names nobody whose memory it could be. Raises IdentityMissing where that is an
        error."""
        if self.memory.partition(scope) is not None:
            return
        level = self.memory.settings.level
        what = f"A run names no {'user' if scope.user is None else level}, and memory is kept by {level}."
        if required:
            raise IdentityMissing(what, fix=f"Pass {level}_id=.")
        if not self._warned and not scope.anonymous:
            self._warned = True
            warnings.warn(
                f"{what} It recalls nothing and is not remembered: pass {level}_id=.",
                IdentityWarning,
                stacklevel=4,
            )

    def remembering(self) -> Remembering:
        """As the agent's runs see it."""
        tuning = self._agent.tuning
        self.memory.covers(self._agent.runtime)
        return Remembering(
            memory=self.memory,
            required=self.required,
            patience=tuning.memory_timeout,
            learner=self._learner,
        )

    async def enter(self) -> None:
        """Make ready."""
        await self.memory.open()

    async def leave(self) -> None:
        """Give up what only this agent used."""
