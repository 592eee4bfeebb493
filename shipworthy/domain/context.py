"""What a tool, an instruction function or a validator may know about the run it works for."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Generic

import msgspec

from shipworthy.domain.scope import Scope

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    Deps = TypeVar("Deps", default=Any)
else:
    from typing import TypeVar

    Deps = TypeVar("Deps")


class RunContext(msgspec.Struct, Generic[Deps], frozen=True, kw_only=True):
    """The run as a tool sees it.

    `idempotency_key` is the same for every attempt of one call (run, call and arguments) and differs between calls.
    `deadline` is on `time.monotonic()`, None without one. `fence` grows with every change of the run's owner: a
    service that remembers the highest it saw can refuse a stopped worker.
    """

    deps: Deps
    scope: Scope
    run_id: str
    agent: str = ""
    tool: str = ""
    call_id: str = ""
    idempotency_key: str = ""
    attempt: int = 1
    deadline: float | None = None
    fence: int = 0

    def remaining(self) -> float | None:
        """Seconds until the deadline; None without one."""
        return None if self.deadline is None else self.deadline - time.monotonic()
