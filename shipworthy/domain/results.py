"""What a run gave, and what it waits for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Generic

import msgspec

from shipworthy.domain.events import RunStatus
from shipworthy.domain.ledger import NANO
from shipworthy.domain.messages import Message
from shipworthy.domain.pausing import Checkpoint, PendingCall
from shipworthy.domain.scope import Scope
from shipworthy.domain.usage import Charge, TotalUsage
from shipworthy.errors import BudgetExceeded, RunFailed, RunPaused, RunStopped

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    OutputT = TypeVar("OutputT", default=Any)
else:
    from typing import TypeVar

    OutputT = TypeVar("OutputT")


class RunResult(msgspec.Struct, Generic[OutputT], frozen=True, kw_only=True):
    """How a run stands: at its end, or where it is paused.

    `output` raises RunFailed, RunStopped or RunPaused where there is none; `has_output` asks first. `stop_reason` is
    the run's ("max_turns", "timeout", "cancelled", ...); `finish_reason` the provider's for the last answer.
    `usage`: the sum over all attempts, and `charged` under a budget, failed ones included, with those of nested runs
    whose calls have returned or wait; `cost_usd` is None while no price is known. `checkpoint` is there while the run
    is paused. `seq`: the last event. `messages` is the conversation as the model saw it and what it answered: the
    `history` that was there before the run, and the `new_messages` that it added.
    """

    run_id: str
    scope: Scope
    status: RunStatus
    stop_reason: str | None
    error: str | None
    value: OutputT | None
    has_output: bool
    pending: tuple[PendingCall, ...]
    checkpoint: Checkpoint | None
    seq: int
    usage: TotalUsage
    turns: int
    finish_reason: str | None
    conversation: Sequence[Message]
    inherited: int
    changed: tuple[str, ...] = ()
    charged: Charge | None = None
    reopens_at: int | None = None

    @property
    def cost_usd(self) -> float | None:
        """What the run is charged, in US dollars."""
        return None if self.charged is None or self.charged.cost is None else self.charged.cost / NANO

    @property
    def retry_after(self) -> float | None:
        """Seconds until the budget that stopped the run has room again; None if it never has, or none did."""
        return None if self.reopens_at is None else max(self.reopens_at / 1000 - time.time(), 0.0)

    @property
    def output(self) -> OutputT:
        if not self.has_output:
            self.raise_for_status()
            raise RunStopped(
                f"Run {self.run_id!r} has no output.", fix="Look at result.status and result.messages."
            )
        return self.value  # type: ignore[return-value]

    @property
    def tenant_id(self) -> str:
        return self.scope.tenant

    @property
    def messages(self) -> tuple[Message, ...]:
        return tuple(self.conversation)

    @property
    def history(self) -> Sequence[Message]:
        return self.conversation[: self.inherited]

    @property
    def new_messages(self) -> Sequence[Message]:
        return self.conversation[self.inherited :]

    def raise_for_status(self) -> RunResult[OutputT]:
        """The result itself if the run is completed. Raises RunFailed, RunStopped, RunPaused."""
        if self.status == "failed":
            raise RunFailed(
                f"Run {self.run_id!r} failed ({self.stop_reason}): {self.error}",
                fix="Mend the cause and run again under another run_id.",
            )
        if self.status == "paused":
            waits = ", ".join([f"{c.tool} ({c.address})" for c in self.pending]) or str(self.error)
            raise RunPaused(f"Run {self.run_id!r} is paused, waiting for {waits}.")
        if self.stop_reason is not None and self.stop_reason.startswith(("budget:", "rate_limit:")):
            raise BudgetExceeded(
                f"Run {self.run_id!r} was stopped. {self.error or 'It took all the time that its budget gives.'}",
                limit=self.stop_reason.partition(":")[2],
                retry_after=self.retry_after,
            )
        if self.status in ("stopped", "cancelled"):
            raise RunStopped(
                f"Run {self.run_id!r} was {self.status}: {self.stop_reason}.",
                fix="Look at result.messages for what it has; ask `has_output` before `output`.",
            )
        return self


def is_paused(result: RunResult[Any]) -> bool:
    """Whether the run waits for somebody."""
    return result.status == "paused"
