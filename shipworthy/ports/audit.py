"""The audit log: what is entered in it is durable before it takes effect."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from shipworthy.domain.audit import Draft, Entry, Links


class AuditLog(Protocol):
    """A log of an agent, or of many. Laws that every adapter keeps are in `shipworthy.testing.contracts.audit`."""

    @property
    def name(self) -> str:
        """What its owner calls it; its checkpoints are known to anchors by this."""
        ...

    @property
    def place(self) -> str:
        """The store whose commits can carry its entries (`Store.place`); "" for none."""
        ...

    async def open(self) -> None:
        """Make ready, once: begin the log where there is none, mend the torn end that a crash left. Raises AuditError
        (and appends nothing) where the log is not as it was left, ConfigurationError."""
        ...

    async def append(self, drafts: Sequence[Draft]) -> None:
        """Enter these, in this order and with nothing between them, durably when it returns. It is not abandoned by
        cancellation: it completes first, and that it failed outranks the cancellation. Raises AuditError."""
        ...

    def links(self, drafts: Sequence[Draft]) -> Links:
        """The same, to be carried by a commit of the store at its `place`."""
        ...

    def carried(self) -> None:
        """A commit carried entries: there is something to make a checkpoint of. Never waits."""
        ...

    async def erase(self, match: Callable[[Entry], bool]) -> int:
        """Forget the bodies (and salts) of the entries that match, for good; the entries stay, and verify. How many.
        Raises AuditError."""
        ...

    async def close(self) -> None:
        """Make a last checkpoint, and let go."""
        ...
