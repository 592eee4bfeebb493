"""The laws of a store.

    class MyWorkers(Workers):
        def make(self, *, lease_ttl: float, clock_skew: float) -> Store:
            return MyStore(self.url, lease_ttl=lease_ttl, clock_skew=clock_skew)

    @pytest.mark.parametrize("law", LAWS, ids=name)
    def test_my_store(law: Law, tmp_path: Path) -> None:
        check(law, MyWorkers(...))

`LAWS` hold for every store, `SHARED_LAWS` for one that several processes share; those need `kill` and `freeze` too.
"""

from __future__ import annotations

from shipworthy.testing.contracts.store.budget import BUDGET, SHARED_BUDGET
from shipworthy.testing.contracts.store.directory import DIRECTORY
from shipworthy.testing.contracts.store.erasure import ERASURE
from shipworthy.testing.contracts.store.journal import JOURNAL
from shipworthy.testing.contracts.store.leases import LEASES, SHARED_LEASES
from shipworthy.testing.contracts.store.nested import NESTED
from shipworthy.testing.contracts.store.signing import SHARED_SIGNING, SIGNING
from shipworthy.testing.contracts.store.waiting import WAITING
from shipworthy.testing.contracts.store.workers import Law, Workers, check, name

LAWS = JOURNAL + DIRECTORY + LEASES + BUDGET + NESTED + WAITING + SIGNING + ERASURE
SHARED_LAWS = SHARED_LEASES + SHARED_BUDGET + SHARED_SIGNING

__all__ = ["LAWS", "SHARED_LAWS", "Law", "Workers", "check", "name"]
