"""What the store in memory does to forget whose something was. Whoever calls holds the lock of what is given."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from shipworthy.adapters.inmemory.counters import Counters
from shipworthy.domain.ledger import Account
from shipworthy.domain.scope import Scope
from shipworthy.rules.erasing import ERASED, accounts_of, accounts_of_run, holds_of_run
from shipworthy.rules.ledger import keys_of


def forget_accounts(ledger: Counters, scope: Scope) -> None:
    """What is counted for users of the scope, or for their sessions; of changes to it, for whom and why."""
    heads = accounts_of(scope)
    _drop(ledger, heads)
    for index, change in enumerate(ledger._changes):
        if keys_of(change.account, change.unit, change.window, 0)[1].startswith(heads):
            whose = Account(change.account.level, change.account.tenant, ERASED)
            ledger._changes[index] = replace(change, account=whose, why=ERASED)


def forget_run(ledger: Counters, tenant: str, run_id: str) -> None:
    """What is counted for a run alone, and its holds that are over."""
    _drop(ledger, accounts_of_run(tenant, run_id))
    heads = holds_of_run(tenant, run_id)
    for name in [n for n, held in ledger._holds.items() if n.startswith(heads) and held.state != "held"]:
        del ledger._holds[name]


def _drop(ledger: Counters, heads: Sequence[str]) -> None:
    begins = tuple(heads)
    for key in [key for key in ledger._counters if key.startswith(begins)]:
        ledger._drop(key)
        ledger._full = 0, 0
    for kept in (ledger._caps, ledger._owed, ledger._idle_at):
        for key in [key for key in kept if key.startswith(begins)]:
            del kept[key]
    for name in [name for name in ledger._carried if name[1].startswith(begins)]:
        del ledger._carried[name]
