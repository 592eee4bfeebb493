"""A budget: what a scope may spend, and what a model costs."""

from __future__ import annotations

from typing import Protocol

from shipworthy.domain.budgets import Terms
from shipworthy.domain.scope import Scope
from shipworthy.domain.usage import Price
from shipworthy.ports.ledger import Ledger
from shipworthy.ports.store import Store


class Budget(Protocol):
    """Limits by scope. What it raises, or cannot answer, lets nothing through."""

    async def open(self) -> None:
        """Make ready, once: prices may take a while to load."""
        ...

    def ledger_on(self, store: Store) -> Ledger:
        """The ledger that keeps the counters: the store's own, or another."""
        ...

    async def terms(self, scope: Scope) -> Terms:
        """What holds for this scope now. Raises ConfigurationError."""
        ...

    def price(self, model: str) -> Price | None:
        """What a model costs; None where nobody knows, which stops whoever has a limit of money."""
        ...
