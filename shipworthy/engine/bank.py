"""One budget on one store: its ledger, and who waits for room in it."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from weakref import WeakKeyDictionary

from shipworthy.domain.ledger import BudgetOp, Forget, Line, Outcome, Settlement
from shipworthy.domain.scope import Operator
from shipworthy.engine.accounts import Shared
from shipworthy.engine.contention import Waiting
from shipworthy.engine.nearing import Nearing
from shipworthy.engine.renewing import Renewals
from shipworthy.errors import LedgerError
from shipworthy.ports.budget import Budget
from shipworthy.ports.ledger import Ledger
from shipworthy.ports.store import Store
from shipworthy.rules.per_loop import PerLoop

log = logging.getLogger("shipworthy")

_SWEEP = Operator("expired holds of a budget")
_TRIES, _PAUSE = 4, 0.1
PATIENCE = 12 * 3600.0
"""Seconds for which a ledger that is away is told again what became of a hold; it remembers one for a day."""
_open: WeakKeyDictionary[Ledger, int] = WeakKeyDictionary()
_counting = threading.Lock()


class Bank:
    """`joined`: the ledger is the store's own, so that its operations share the commits of the journal. `untold`:
    limits that came near with the end of a run, by their keys. Budgets that keep their counters in one ledger share one
    order of who waits, and one account of what is near."""

    def __init__(self, budget: Budget, store: Store, others: Iterable[Bank] = ()) -> None:
        self.budget = budget
        self.ledger = budget.ledger_on(store)
        self.joined = self.ledger is store.ledger
        same = next((other for other in others if other.ledger is self.ledger), None)
        self._waiting: PerLoop[Waiting] = PerLoop() if same is None else same._waiting
        self.nearing: Nearing = Nearing() if same is None else same.nearing
        self.untold: dict[str, Line] = {} if same is None else same.untold
        self._renewals: PerLoop[Renewals] = PerLoop()
        self.shared = Shared()
        self._opened = False
        self._tasks: set[asyncio.Task[None]] = set()

    def is_with(self, other: Bank) -> bool:
        """Whether both keep their counters in one ledger."""
        place: str | None = getattr(self.budget, "place", None)
        return self.ledger is other.ledger or (
            place is not None and place == getattr(other.budget, "place", None)
        )

    async def open(self) -> None:
        """Make ready, once. Raises LedgerError, ConfigurationError."""
        if not self._opened:
            await self.budget.open()
            if not self.joined:
                await self.ledger.open()
            if not self._opened:  # somebody else here came first
                self._opened = True
                _hold(self.ledger, 1)

    async def close(self) -> None:
        """Give up connections, unless a budget of another store has the same ledger open."""
        if self._opened:
            self._opened = False
            await self._stop_trying()
            if not _hold(self.ledger, -1) and not self.joined:
                await self.ledger.close()

    async def sweep(self) -> None:
        """Charge what expired."""
        if self._opened:
            await self.ledger.sweep(_SWEEP)

    @property
    def waiting(self) -> Waiting:
        """Who waits on this event loop."""
        return self._waiting.get(asyncio.get_running_loop(), Waiting)

    def give_up(self, tenant: str, hold: str) -> None:
        """Leave the order of those who wait, and give back what was granted meanwhile, beside a caller that cannot
        wait."""
        self._beside(partial(self.ledger.release, tenant, hold))

    @property
    def renewals(self) -> Renewals:
        """What keeps holds from expiring whose attempts live on this event loop."""
        return self._renewals.get(asyncio.get_running_loop(), lambda: Renewals(self._renew))

    def _renew(self, tenant: str, holds: Sequence[str], ttl: float) -> None:
        """If this fails they are charged in full, and corrected when they are settled."""
        self._beside(partial(self.ledger.renew, tenant, holds, int(ttl * 1000)), patience=0.0)

    def take_back(self, settlement: Settlement) -> None:
        """Settle beside a caller that cannot wait: what was held was not used."""
        self._beside(partial(self.ledger.settle, settlement))

    def _beside(self, work: Callable[[], Awaitable[object]], patience: float = PATIENCE) -> None:
        task = asyncio.create_task(_persistently(work, patience))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _stop_trying(self) -> None:
        """What is under way is tried once more at the most; what cannot be had is charged in full when it expires."""
        loop = asyncio.get_running_loop()
        tasks = [task for task in self._tasks if task.get_loop() is loop]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=_PAUSE)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def settle(self, operations: Sequence[BudgetOp]) -> list[Outcome]:
        """Do now what no commit of the store carries. What cannot be had now is told to the log, and tried again beside
        the run for as long as the ledger would correct a charge by it."""
        outcomes: list[Outcome] = []
        for operation in operations:
            outcomes.append(await self._settle(operation))
        return outcomes

    async def _settle(self, operation: BudgetOp) -> Outcome:
        for left in range(_TRIES - 1, -1, -1):
            try:
                return await self._do(operation)
            except LedgerError as error:
                if not left:
                    log.warning("A budget's ledger could not be written, and is tried again: %s", error)
                    self._beside(partial(self._do, operation))
                    return None
            await asyncio.sleep(_PAUSE)
        return None

    async def _do(self, operation: BudgetOp) -> Outcome:
        if isinstance(operation, Settlement):
            settled = await self.ledger.settle(operation)
            if not settled.known:
                log.warning("A budget's ledger knows nothing of the hold %s any more.", operation.id)
            return settled
        assert isinstance(operation, Forget)
        await self.ledger.forget(operation)
        return None


def _hold(ledger: Ledger, more: int) -> int:
    """How many banks have a ledger open, from now on."""
    with _counting:
        _open[ledger] = count = _open.get(ledger, 0) + more
        if not count:
            del _open[ledger]
    return count


async def _persistently(work: Callable[[], Awaitable[object]], patience: float) -> None:
    """Do *work*, again and again while the ledger is away, for so many seconds."""
    clock, pause = asyncio.get_running_loop().time, _PAUSE
    deadline = clock() + patience
    while True:
        try:
            await work()
            return
        except LedgerError as error:
            if clock() + pause > deadline:
                log.warning(
                    "A budget's ledger could not be written; what is held is charged in full: %s", error
                )
                return
        except Exception as error:
            log.warning("A budget's ledger could not be asked: %s", error)
            return
        await asyncio.sleep(pause)
        pause = min(max(2 * pause, 0.01), 30.0)
