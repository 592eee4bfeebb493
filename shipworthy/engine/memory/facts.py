"""What is believed of the world, in a memory: facts that are learned, superseded and never overwritten."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shipworthy.engine.memory.memory import Memory


class Facts:
    """The facts of a memory."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
