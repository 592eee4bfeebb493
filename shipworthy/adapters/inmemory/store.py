"""The store in memory: the same laws without durability, bounded, for one process."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Collection, Sequence

import msgspec

from shipworthy.adapters.inmemory import erasing
from shipworthy.adapters.inmemory.ledger import InMemoryLedger
from shipworthy.adapters.inmemory.signing import Vault
from shipworthy.adapters.shared.entries import PAGE, demand, no_such_run, not_to_bury, root_of
from shipworthy.adapters.shared.grants import demand_own
from shipworthy.domain.events import AnyEvent, RunStatus
from shipworthy.domain.grants import Grant, SigningKey
from shipworthy.domain.journal import Batch, Claim, Fence, RunFilter, RunSummary, Tombstones
from shipworthy.domain.ledger import Outcome
from shipworthy.domain.scope import Operator, Scope
from shipworthy.errors import Fenced, JournalDamaged, StoreFull

_START_WITHIN = 3_600_000


class _Run(msgspec.Struct):
    scope: Scope
    run_id: str
    key: int
    events: list[AnyEvent]
    bodies: dict[str, bytes]
    status: RunStatus = "running"
    token: int = 1
    owned: bool = True
    in_session: bool = False
    wake_at: int | None = None
    root: str | None = None


class InMemoryStore:
    """Journal, directory and lease in this process's memory.

    Holds at most *max_runs* runs. The run that ended first makes room for a new one, and if it belongs to a session,
    its whole session does, so that no conversation loses its beginning. Runs that have not ended, their nested runs,
    and sessions that have such a run are never dropped: when they fill the store, `begin` raises StoreFull.
    """

    def __init__(self, max_runs: int = 10_000) -> None:
        self.ledger = InMemoryLedger()
        self._max_runs = max_runs
        self._runs: dict[tuple[str, str], _Run] = {}
        self._by_key: dict[int, _Run] = {}
        self._sessions: dict[Scope, list[str]] = {}
        self._live: dict[Scope, int] = {}
        self._ended: dict[int, None] = {}
        self._next_key = 1
        self._due: dict[int, int] = {}
        self._vault = Vault()
        self._lock = threading.Lock()  # event loops of several threads may share the store

    async def open(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing to close: what is in memory stays until the store is dropped."""

    # journal

    async def begin(self, scope: Scope, run_id: str, batch: Batch, token: int = 1) -> Fence | None:
        demand_own(scope, batch.grants)
        with self._lock:
            if (scope.tenant, run_id) in self._runs:
                return None
            self._make_room(scope)
            key = self._next_key
            self._next_key += 1
            run = _Run(scope, run_id, key, [], {}, token=token, root=root_of(batch.events[0]))
            if scope.session is not None:
                self._live[scope] = self._live.get(scope, 0) + 1
            self._append(run, batch)
            self._runs[scope.tenant, run_id] = self._by_key[key] = run
        return Fence(scope, run_id, token, key)

    async def claim(self, scope: Scope, run_id: str) -> Claim:
        with self._lock:
            run = self._find(scope, run_id)
            run.token += 1
            run.owned = True
        return Claim(Fence(run.scope, run_id, run.token, run.key), "released")

    async def commit(self, fence: Fence, batch: Batch) -> Sequence[Outcome]:
        demand_own(fence.scope, batch.grants)
        with self._lock:
            run = self._by_key.get(fence.key)
            held = run is not None and run.owned and run.token == fence.token
            if (
                run is None
                or run.scope.tenant != fence.scope.tenant
                or not held
                or batch.events[0].seq != len(run.events) + 1
            ):
                raise Fenced(f"Run {fence.run_id!r} was taken over, or released.")
            outcomes = self.ledger.apply(batch.budget) if batch.budget else ()
            self._append(run, batch)
            return outcomes

    async def release(self, fence: Fence) -> None:
        with self._lock:
            run = self._by_key.get(fence.key)
            if run is not None and run.token == fence.token:
                run.owned = False

    async def read(self, scope: Scope, run_id: str, after: int = 0) -> list[AnyEvent]:
        return self._find(scope, run_id).events[after:]

    async def news(self, scope: Scope, run_id: str, within: float) -> None:
        await asyncio.sleep(within)

    async def body(self, scope: Scope, run_id: str, digest: str) -> bytes:
        try:
            return self._find(scope, run_id).bodies[digest]
        except KeyError:
            raise JournalDamaged(
                f"Run {run_id!r} refers to a body {digest[:12]} that is not stored."
            ) from None

    # directory

    async def find(self, scope: Scope, run_id: str) -> RunSummary:
        return _summary(self._find(scope, run_id))

    async def list(self, scope: Scope, which: RunFilter) -> Sequence[RunSummary]:
        with self._lock:
            runs = list(reversed(self._runs.values()))
        found = [
            _summary(run)
            for run in runs
            if run.scope.tenant == scope.tenant
            and scope.user in (None, run.scope.user)
            and scope.session in (None, run.scope.session)
            and which.status in (None, run.status)
            and (which.nested or run.root is None)
            and (which.before is None or run.events[0].at < which.before)
        ]
        found.sort(key=lambda s: s.started_at, reverse=True)
        return found[: which.limit]

    async def session(self, scope: Scope, head: int | None = None) -> Sequence[str]:
        with self._lock:
            return self._sessions.get(scope, [])[:head]

    async def orphans(self, operator: Operator) -> Sequence[RunSummary]:
        demand(operator)
        with self._lock:
            runs = self._runs.values()
            return [_summary(run) for run in runs if run.status == "running" and run.root is None]

    async def due(self, operator: Operator, now: int, skip: int = 0) -> Sequence[RunSummary]:
        demand(operator)
        with self._lock:
            keys = sorted([(at, key) for key, at in self._due.items() if at <= now])[skip : skip + PAGE]
            return [_summary(self._by_key[key]) for _, key in keys]

    async def everything(self, operator: Operator, after: int = 0) -> Sequence[tuple[int, RunSummary]]:
        demand(operator)
        with self._lock:
            later = (run for key, run in self._by_key.items() if key > after)
            return [(run.key, _summary(run)) for run in itertools.islice(later, PAGE)]

    async def prune(self, operator: Operator, ended_before: int) -> int:
        demand(operator)

        def old(run: _Run) -> bool:
            ended = run.status not in ("running", "paused") and run.events[-1].at < ended_before
            return ended and not self._is_needed(run)

        with self._lock:
            alive = {r.scope for r in self._runs.values() if r.scope.session is not None and not old(r)}
            gone = [r for r in self._runs.values() if old(r) and not (r.in_session and r.scope in alive)]
            for run in gone:
                self._forget(run)
                if run.in_session:
                    self._sessions.pop(run.scope, None)
            self._vault.tidy()
        return len(gone)

    # signing

    async def signing_keys(self) -> Sequence[SigningKey]:
        with self._lock:
            return self._vault.keys()

    async def rotate_signing_key(self, operator: Operator, keep: int = 4) -> SigningKey:
        demand(operator)
        with self._lock:
            return self._vault.rotate(keep)

    async def grants(self, scope: Scope) -> Sequence[Grant]:
        with self._lock:
            return self._vault.of(scope)

    async def revoke(self, scope: Scope, grant_id: str) -> bool:
        with self._lock:
            return self._vault.revoke(scope, grant_id)

    async def everyones_grants(self, operator: Operator, after: int = 0) -> Sequence[tuple[int, Grant]]:
        demand(operator)
        with self._lock:
            return self._vault.everyones(after)

    async def adopt(
        self, operator: Operator, keys: Sequence[SigningKey], grants: Sequence[Grant] = ()
    ) -> None:
        demand(operator)
        with self._lock:
            self._vault.adopt(keys)
            self._vault.remember(grants)

    # erasure

    async def bury(self, scope: Scope, tombstones: Sequence[Tombstones]) -> None:
        with self._lock:
            for each in tombstones:
                run = self._find(scope, each.run_id)
                if run.status in ("running", "paused") or len(run.events) != len(each.events):
                    raise not_to_bury(each.run_id)
            for each in tombstones:
                self._bury(self._find(scope, each.run_id), each)

    async def disown(self, scope: Scope, run_ids: Collection[str] = ()) -> Sequence[str]:
        with self._lock, self.ledger._lock:
            if scope.session is None:
                self._vault.disown(scope)
            erasing.forget_accounts(self.ledger, scope)
        return ()

    async def scrub(self, operator: Operator) -> Sequence[str]:
        demand(operator)
        return ()

    # lease

    def clock(self) -> int:
        return time.monotonic_ns() // 1_000_000

    def start_by(self) -> int:
        return self.clock() + _START_WITHIN

    @property
    def skew(self) -> int:
        return 0

    # parts

    def _append(self, run: _Run, batch: Batch) -> None:
        run.events.extend(batch.events)
        if batch.bodies:
            run.bodies.update(batch.bodies)
        run.status = batch.status
        run.owned = batch.status == "running"
        run.wake_at = batch.wake_at if batch.status != "running" else None
        if batch.status == "paused" and batch.wake_at is not None and run.root is None:
            self._due[run.key] = batch.wake_at
        elif self._due:
            self._due.pop(run.key, None)
        if batch.grants:
            self._vault.remember(batch.grants)
        if batch.status not in ("running", "paused"):
            self._end(run)
        if batch.joins_session:
            run.in_session = True
            self._sessions.setdefault(run.scope, []).append(run.run_id)

    def _end(self, run: _Run) -> None:
        self._ended[run.key] = None
        if run.scope.session is not None:
            self._live[run.scope] -= 1
            if not self._live[run.scope]:
                del self._live[run.scope]

    def _bury(self, run: _Run, left: Tombstones) -> None:
        tenant = run.scope.tenant
        del self._runs[tenant, run.run_id]
        if run.in_session and run.scope in self._sessions:
            self._sessions[run.scope] = [each for each in self._sessions[run.scope] if each != run.run_id]
            if not self._sessions[run.scope]:
                del self._sessions[run.scope]
        with self.ledger._lock:
            erasing.forget_run(self.ledger, tenant, run.run_id)
        run.scope, run.run_id, run.in_session, run.wake_at = Scope(tenant), left.alias, False, None
        run.events, run.bodies, run.root = [*left.events], {}, root_of(left.events[0])
        self._runs[tenant, run.run_id] = run

    def _find(self, scope: Scope, run_id: str) -> _Run:
        run = self._runs.get((scope.tenant, run_id))
        if run is None:
            raise no_such_run(scope, run_id)
        return run

    def _make_room(self, scope: Scope) -> None:
        """Drop what ended first, but nothing of the session that is about to go on. Raises StoreFull."""
        if len(self._runs) < self._max_runs:
            return
        for key in self._ended:
            run = self._by_key[key]
            if self._is_needed(run):
                continue
            if not run.in_session:
                self._forget(run)
                return
            if run.scope not in self._live and run.scope != scope:
                for member in self._sessions.pop(run.scope):
                    self._forget(self._runs[run.scope.tenant, member])
                return
        raise StoreFull(
            f"All {self._max_runs} runs of the in-memory store are in flight, or of sessions that are.",
            fix="Raise InMemoryRuntime(max_runs=...), lower concurrency, or use SqliteRuntime.",
        )

    def _is_needed(self, run: _Run) -> bool:
        """Whether a run that has not ended goes on with what this one, that it made, gave."""
        root = None if run.root is None else self._runs.get((run.scope.tenant, run.root))
        return root is not None and root.status in ("running", "paused")

    def _forget(self, run: _Run) -> None:
        del self._runs[run.scope.tenant, run.run_id], self._by_key[run.key]
        self._due.pop(run.key, None)
        self._ended.pop(run.key, None)


def _summary(run: _Run) -> RunSummary:
    whose, times = (run.scope, run.run_id), (run.events[0].at, run.events[-1].at)
    return RunSummary(*whose, run.status, *times, len(run.events), run.wake_at, run.root)
