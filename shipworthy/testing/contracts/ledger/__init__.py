"""The laws of a ledger.

    class MyLedgers(Ledgers):
        def make(self) -> OwnLedger:
            return MyLedger(self.url)

    @pytest.mark.parametrize("law", LAWS + SHARED_LAWS, ids=name)
    def test_my_ledger(law: Law) -> None:
        check(law, MyLedgers(...))

`LAWS` hold for every ledger, `SHARED_LAWS` for one that several processes share, `CLOCK_LAWS` for one whose clock the
test can set back, as it does in `Ledgers.sleep` with less than 0. What depends on time is driven by
holds of a millisecond; `a_place_that_is_not_kept_is_lost` waits for more than six seconds where `sleep` moves no clock.
"""

from __future__ import annotations

from shipworthy.testing.contracts.ledger.accounts import ACCOUNTS, SHARED_ACCOUNTS
from shipworthy.testing.contracts.ledger.clock import CLOCK
from shipworthy.testing.contracts.ledger.expiry import EXPIRY, SHARED_EXPIRY
from shipworthy.testing.contracts.ledger.holding import HOLDING, SHARED_HOLDING
from shipworthy.testing.contracts.ledger.ledgers import Law, Ledgers, OwnLedger, check, name
from shipworthy.testing.contracts.ledger.tenants import TENANTS
from shipworthy.testing.contracts.ledger.waiting import RATES, SHARED_WAITING, WAITING

LAWS = HOLDING + EXPIRY + WAITING + RATES + ACCOUNTS + TENANTS
SHARED_LAWS = SHARED_HOLDING + SHARED_EXPIRY + SHARED_WAITING + SHARED_ACCOUNTS
CLOCK_LAWS = CLOCK

__all__ = ["CLOCK_LAWS", "LAWS", "SHARED_LAWS", "Law", "Ledgers", "OwnLedger", "check", "name"]
