"""The journals that an erasure covers: those of runtimes whose agents use a memory."""

from __future__ import annotations

import weakref
from typing import Any

from shipworthy.domain.scope import Scope
from shipworthy.engine.runtime import Runtime


class Journals:
    """Runtimes by where their journals are. A store that lasts is covered as long as the memory is there, through one
    runtime, whoever closed or dropped theirs; one that lives in the process, as long as somebody has it."""

    def __init__(self) -> None:
        self._known: weakref.WeakSet[Runtime] = weakref.WeakSet()
        self._lasting: dict[tuple[str, type], Runtime] = {}

    def add(self, runtime: Runtime) -> None:
        """Cover this runtime's journals."""
        self._known.add(runtime)
        place: str | None = getattr(runtime.store, "place", None)
        if place is not None:
            self._lasting[place, type(runtime.driver)] = runtime

    def runtimes(self) -> list[Runtime]:
        """Through which all that is known is reached; those that keep something in this process among them."""
        lasting = list(self._lasting.values())
        return [*lasting, *[each for each in self._known if each not in lasting]]

    async def note(self, action: str, scope: Scope, **facts: Any) -> None:
        """Enter in the audit logs of those agents what is done to their memory. Raises AuditError."""
        for runtime in self.runtimes():
            await runtime.logs.note(action, scope, **facts)

    def clear(self) -> None:
        """Cover none."""
        self._known.clear()
        self._lasting.clear()
