"""Every ledger keeps the laws of its port."""

from __future__ import annotations

import pytest

from shipworthy.adapters.inmemory import ledger as inmemory
from shipworthy.adapters.inmemory.ledger import InMemoryLedger
from shipworthy.testing.contracts.ledger import LAWS, SHARED_LAWS, Law, Ledgers, OwnLedger, check, name


class InMemory(Ledgers):
    """One ledger for all: there is no other process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, ledger: OwnLedger | None = None) -> None:
        super().__init__()
        self._ledger = ledger or InMemoryLedger()
        self._ahead, now = 0, inmemory._now
        monkeypatch.setattr(inmemory, "_now", lambda: now() + self._ahead)

    def make(self) -> OwnLedger:
        return self._ledger

    async def sleep(self, milliseconds: int) -> None:
        self._ahead += milliseconds


@pytest.mark.parametrize("law", LAWS + SHARED_LAWS, ids=name)
def test_the_ledger_in_memory(law: Law, monkeypatch: pytest.MonkeyPatch) -> None:
    check(law, InMemory(monkeypatch))
