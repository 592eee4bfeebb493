"""The ledger in Redis or Valkey: exact for every process that reaches the server, and as durable as that server is."""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import msgspec

from shipworthy.adapters.redis.connection import Connection, script
from shipworthy.adapters.redis.durability import Losses, evicts, fields, losses
from shipworthy.adapters.shared.entries import demand
from shipworthy.domain.ledger import (
    Account,
    Balance,
    Change,
    Forget,
    Granted,
    Hold,
    Refused,
    Settled,
    Settlement,
    Unit,
    Window,
)
from shipworthy.domain.scope import Operator, Scope
from shipworthy.errors import ConfigurationError, LedgerError
from shipworthy.rules.ledger import MICROS, belongs, cost, keys_of

EXACT = 2**53
"""Below this, every whole number is exact in the server's scripts: 9 million dollars in billionths."""
MOST = 2**60
"""What may be settled is below this; it is added up outside the scripts, in 64 bits."""
STAYS = 400 * 86_400_000
"""Milliseconds for which a counter stays after its window ended."""
AT_ONCE = 500
"""Holds, counters or limits that one script goes through: while it runs, the server does nothing else."""
LOSSES = Losses(
    "a cap is forgotten",
    "a restart forgets what was spent and held since its last snapshot, which can then be spent again",
    "the last seconds of what was spent can be spent again",
)
_json = msgspec.json.Encoder()
_log = logging.getLogger("shipworthy")


class RedisLedger:
    """Counters on a Redis (6.2 or newer) or Valkey server, shared by all processes; each step is one script, which the
    server runs alone.

    *server* is an address, redis://user:password@host:6379/0 (rediss:// for TLS), or a function that makes a
    `redis.asyncio.Redis` or `RedisCluster` for each event loop. All keys begin with `{prefix}`, which keeps them on one
    node of a cluster. An attempt may take *timeout* seconds to connect and as many to be answered; attempts are begun
    again for *patience* seconds: every step may come twice, and is done once. Then LedgerUnavailable.

    What the server forgets is free to be spent again. `open` refuses one that evicts keys (LedgerError), and warns, in
    the log "shipworthy", of what a restart of this one would lose: only `appendonly yes` with `appendfsync always`
    keeps all that was acknowledged. A failover to a replica loses what had not reached it.

    Amounts that are reserved, and caps, are below 2**53: LedgerError for more.
    """

    def __init__(
        self,
        server: str | Callable[[], Any],
        *,
        prefix: str = "shipworthy",
        timeout: float = 2.0,
        patience: float = 5.0,
    ) -> None:
        if not prefix or re.search(r"[{}\s]", prefix):
            raise ConfigurationError(
                f"prefix={prefix!r} cannot begin the keys of a ledger.", fix="Pass a word without braces."
            )
        if not 0 < timeout < EXACT or not 0 <= patience < EXACT:
            raise ConfigurationError(
                f"timeout={timeout!r} and patience={patience!r} are not times.", fix="Pass seconds."
            )
        self._server = Connection(server, f"{{{prefix}}}", timeout, patience)
        self._opened = False

    def __repr__(self) -> str:
        return f"<RedisLedger: {self._server.name}>"

    async def open(self) -> None:
        if self._opened:
            return
        said = fields("\n".join(await self._server.run(script("inspect"))))
        policy = evicts(said)
        if policy is not None:
            raise LedgerError(
                f"{self._server.name} evicts keys when its memory is full (maxmemory-policy {policy}), and with a "
                "counter all that was spent of it.",
                fix="CONFIG SET maxmemory-policy noeviction, or keep the ledger on a server of its own.",
            )
        if loss := losses(said, await self._server.setting("appendfsync"), LOSSES):
            _log.warning("%s keeps the ledger, but %s", self._server.name, loss)
        self._opened = True

    async def close(self) -> None:
        await self._server.close()

    # reserving and settling

    async def reserve(self, hold: Hold) -> Granted | Refused:
        _check(hold)
        granted, *said = await self._run("reserve", _encoded(hold))
        if granted:
            units, warned, near = said
            return Granted(int(units), _indexes(warned), near == "1")
        cause, *numbers = said
        return Refused(cause, *[int(number) for number in numbers])

    async def settle(self, settlement: Settlement) -> Settled:
        amounts, rates = settlement.amounts, settlement.rates
        _exact(amounts or (), "what was spent", MOST)
        _exact(rates or (), "what passed a rate")
        how = "full" if amounts is None else "amounts"
        told = _encoded([str(amount) for amount in amounts or ()])
        return await self._settle(
            settlement.id,
            settlement.tenant,
            how,
            told,
            "" if rates is None else _encoded(rates),
            settlement.note,
        )

    async def release(self, tenant: str, hold: str) -> None:
        await self._settle(hold, tenant, "release", "", "", "")

    async def _settle(self, *arguments: str) -> Settled:
        known, *said = await self._run("settle", *arguments)
        if not known:
            return Settled(known=False)
        note, warned, units = said
        return Settled(note, _indexes(warned), units=int(units))

    async def renew(self, tenant: str, holds: Sequence[str], ttl: int) -> None:
        await self._run("renew", tenant, ttl, _encoded(holds))

    async def forget(self, forget: Forget) -> None:
        await self._run("forget", forget.tenant, _encoded(forget.keys))

    async def spent(self, scope: Scope, keys: Sequence[str]) -> Sequence[tuple[int, int]]:
        found = await self._run("spent", scope.tenant, _encoded(keys))
        return [(int(spent), int(held)) for spent, held in _rows(found, 2)]

    async def sweep(self, operator: Operator) -> int:
        demand(operator)
        expired = passed = 0
        while True:
            told: list[int] = await self._run("sweep", AT_ONCE, STAYS, passed)
            holds, dropped, kept = told
            expired, passed = expired + holds, passed + kept
            if holds < AT_ONCE and dropped + kept < AT_ONCE:
                return expired

    # accounts

    async def show(self, operator: Operator, tenant: str | None, user: str | None) -> Sequence[Balance]:
        demand(operator)
        limits = await self._run("limits", "tenant", tenant or "")
        return [b for b in await self._balances(limits, "all") if belongs(b.account, tenant, user)]

    async def top(
        self, operator: Operator, unit: Unit, window: Window, level: str, limit: int
    ) -> Sequence[Balance]:
        demand(operator)
        limits = await self._run("limits", "kind", f"{level}:{unit}:{window}")
        found = await self._balances(limits, "latest")
        latest = max([b.start for b in found], default=0)
        most = sorted(found, key=lambda b: (-b.spent, b.account.tenant, b.account.name))
        return [b for b in most if b.start == latest][:limit]

    async def set_cap(
        self,
        operator: Operator,
        account: Account,
        unit: Unit,
        window: Window,
        cap: int | None,
        who: str,
        why: str,
    ) -> None:
        demand(operator)
        _exact(() if cap is None else (cap,), "a cap")
        await self._change("set", account, unit, window, "" if cap is None else str(cap), who, why)

    async def reset(
        self, operator: Operator, account: Account, unit: Unit, window: Window, who: str, why: str
    ) -> int:
        demand(operator)
        return await self._change("reset", account, unit, window, "", who, why)

    async def _change(
        self,
        action: Literal["set", "reset"],
        account: Account,
        unit: Unit,
        window: Window,
        cap: str,
        who: str,
        why: str,
    ) -> int:
        limit = keys_of(account, unit, window, 0)[1]
        whose = account.level, account.tenant, account.name, unit, window
        return int(await self._run("change", uuid.uuid4().hex, action, limit, cap, *whose, who, why))

    async def changes(self, operator: Operator, limit: int) -> Sequence[Change]:
        demand(operator)
        if limit < 1:
            return []
        found = [dict(_rows(entry, 2)) for entry in await self._run("changes", limit)]
        return [
            Change(
                int(said["at"]),
                said["action"],
                Account(said["level"], said["tenant"], said["name"]),
                said["unit"],
                said["window"],
                int(said["amount"]) if said["amount"] else None,
                said["who"],
                said["why"],
            )
            for said in found
        ]

    async def _balances(self, limits: Sequence[str], which: Literal["all", "latest"]) -> list[Balance]:
        found: list[Balance] = []
        limits = sorted(limits)
        for first in range(0, len(limits), AT_ONCE):
            for row in _rows(
                await self._run("balances", _encoded(limits[first : first + AT_ONCE]), which), 9
            ):
                level, tenant, name, unit, window, start, spent, held, cap = row
                account = Account(level, tenant, name)
                override = int(cap) if cap else None
                found.append(Balance(account, unit, window, int(start), int(spent), int(held), override))
        return found

    async def _run(self, name: str, *arguments: str | int) -> Any:
        if not self._opened:
            await self.open()
        return await self._server.run(script(name), *arguments)


def _encoded(value: object) -> str:
    return _json.encode(value).decode()


def _rows(values: Sequence[Any], width: int) -> Iterable[tuple[Any, ...]]:
    return zip(*[iter(values)] * width, strict=True)


def _indexes(text: str) -> tuple[int, ...]:
    return tuple([int(word) for word in text.split(",")]) if text else ()


def _check(hold: Hold) -> None:
    """Raises LedgerError for a hold in which a number is too large to be exact."""
    _exact([line.cap for line in hold.lines], "a cap")
    for bases, eaches in (hold.base, hold.each), (hold.rate_base, hold.rate_each):
        _exact([b + e * hold.most for b, e in zip(bases, eaches, strict=True)], "what would be reserved")
    for rate, base, each in zip(hold.rates, hold.rate_base, hold.rate_each, strict=True):
        most = max(base + each * hold.most, rate.burst)
        _exact([rate.limit, rate.period * MICROS, cost(rate, most)], "a rate")


def _exact(numbers: Iterable[int], what: str, most: int = EXACT) -> None:
    for number in numbers:
        if not -most < number < most:
            raise LedgerError(
                f"A ledger in Redis cannot count {number} exactly ({what}).",
                fix=f"Stay below {most}, or keep the ledger in SQLite or Postgres.",
            )
