"""Deliberately broken variants of the product, switched on in a worker: each must be caught by the proof's judge."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from shipworthy.domain.ledger import Forget, Granted, Hold, Refused, Settled, Settlement
from shipworthy.domain.scope import Operator, Scope
from shipworthy.ports.ledger import Ledger
from shipworthy.rules.ledger import verdict

BEYOND = 1 << 52
"""A cap that refuses nothing."""


class CheckThenAct:
    """A ledger that reads, lets others come between, and then reserves whatever there is by now. On any ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def reserve(self, hold: Hold) -> Granted | Refused:
        found = await self._ledger.spent(Scope(hold.tenant), [line.key for line in hold.lines])
        spent, held = [spent for spent, _ in found], [held for _, held in found]
        answer = verdict(hold, [line.cap for line in hold.lines], spent, held, [False] * len(found))
        if isinstance(answer, Refused):
            return answer
        await asyncio.sleep(0)
        unchecked = tuple([msgspec.structs.replace(line, cap=BEYOND) for line in hold.lines])
        return await self._ledger.reserve(msgspec.structs.replace(hold, lines=unchecked, most=answer.units))

    async def settle(self, settlement: Settlement) -> Settled:
        return await self._ledger.settle(settlement)

    async def release(self, tenant: str, hold: str) -> None:
        await self._ledger.release(tenant, hold)

    async def renew(self, tenant: str, holds: Sequence[str], ttl: int) -> None:
        await self._ledger.renew(tenant, holds, ttl)

    async def forget(self, forget: Forget) -> None:
        await self._ledger.forget(forget)

    async def spent(self, scope: Scope, keys: Sequence[str]) -> Sequence[tuple[int, int]]:
        return await self._ledger.spent(scope, keys)

    async def sweep(self, operator: Operator) -> int:
        return await self._ledger.sweep(operator)

    async def open(self) -> None:
        await self._ledger.open()

    async def close(self) -> None:
        await self._ledger.close()


def check_then_act() -> None:
    """Nothing is replaced: the worker wraps its ledger."""


def settled_twice() -> None:
    """SQLite: a settlement charges each time it is asked for, and is asked for twice."""

    def twice(charge: Callable[..., Any]) -> Callable[..., Any]:
        def charge_twice(cursor: Any, reserved: Any, amounts: Any, *, held: bool) -> Any:
            charge(cursor, reserved, amounts, held=held)
            nothing = [msgspec.structs.replace(line, amount=0) for line in reserved]
            return charge(cursor, nothing, amounts, held=held)

        return charge_twice

    _replace("_charge", twice)


def expired_is_free() -> None:
    """SQLite: an expired hold is given back, as if its request had not been sent."""

    def free(moved: str) -> str:
        assert moved.count("spent + ?") == 1, moved
        return moved.replace("spent + ?", "spent + 0 * ?")

    def freeing(expire: Callable[..., int]) -> Callable[..., int]:
        def expire_freely(cursor: Any, at: int) -> int:
            from shipworthy.adapters.sqlite import budget

            whole = budget._MOVE
            budget._MOVE = free(whole)
            try:
                return expire(cursor, at)
            finally:
                budget._MOVE = whole

        return expire_freely

    _replace("expire", freeing)


def held_for_ever() -> None:
    """SQLite: of what is settled a little stays held."""

    def keeping(charge: Callable[..., Any]) -> Callable[..., Any]:
        def charge_and_keep(cursor: Any, reserved: Any, amounts: Any, *, held: bool) -> Any:
            if amounts is None:
                amounts = [line.amount for line in reserved]
            more = 10 if held else 0
            kept = [msgspec.structs.replace(line, amount=line.amount - more) for line in reserved]
            return charge(cursor, kept, amounts, held=held)

        return charge_and_keep

    _replace("_charge", keeping)


def charged_too_little() -> None:
    """An answer is charged for half of the output that its provider reports, in the journal and in the ledger."""
    from shipworthy.rules import budgets

    def halving(charge_of: Callable[..., Any]) -> Callable[..., Any]:
        def charge_half(*args: Any) -> Any:
            charge = charge_of(*args)
            return msgspec.structs.replace(charge, output_tokens=charge.output_tokens // 2)

        return charge_half

    budgets.charge_of = halving(budgets.charge_of)


def _replace(name: str, made: Callable[[Any], Any]) -> None:
    """Replace a part of SQLite's ledger; where it is not there any more, that is an error."""
    from shipworthy.adapters.sqlite import budget

    setattr(budget, name, made(getattr(budget, name)))


_MUTANTS = {
    made.__name__: made
    for made in (check_then_act, settled_twice, expired_is_free, held_for_ever, charged_too_little)
}


def switch_on(name: str) -> None:
    """Break this process."""
    _MUTANTS[name]()
