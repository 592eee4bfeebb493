"""What the tests of the ledger in Redis draw on: lines and holds, who draws on them, and ledgers broken on purpose.

Run as `python -m tests.stores.redis_holds URL LEDGER HOLDS`: draws on the shared line, and says how much was granted.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

from shipworthy.adapters.redis import RedisLedger, connection, ledger
from shipworthy.domain.ledger import Granted, Hold, Line, Refused, Settlement
from shipworthy.domain.scope import Operator, Scope
from shipworthy.rules.ledger import account, keys_of

OPERATOR = Operator(reason="tests")
ACME = Scope("acme")
CAP, EACH = 1000, 7


def line(name: str = "alice", cap: int = CAP, *, soft: int = 0, start: int = 0, end: int = 0) -> Line:
    """A counter of a user of acme's."""
    whose = account("user", "acme", name)
    key, limit = keys_of(whose, "tokens", "day", start)
    return Line(key, limit, whose, "tokens", "day", start, end, cap, soft)


def hold(id: str, amount: int, *lines: Line, ttl: int = 600_000, **options: Any) -> Hold:
    """A hold of *amount* on each of *lines*."""
    on = lines or (line(),)
    nothing = tuple([0] * len(on))
    base = tuple([amount] * len(on))
    return Hold(id=id, tenant="acme", lines=on, base=base, each=nothing, ttl=ttl, **options)


def settlement(id: str, *amounts: int) -> Settlement:
    return Settlement(id=id, tenant="acme", amounts=amounts)


async def balance(led: RedisLedger, on: Line | None = None) -> tuple[int, int]:
    """What is spent and held."""
    [found] = await led.spent(ACME, [(on or line()).key])
    return found


@contextlib.asynccontextmanager
async def opened(server: str | Callable[[], Any], **options: Any) -> AsyncIterator[RedisLedger]:
    made = RedisLedger(server, **options)
    await made.open()
    try:
        yield made
    finally:
        await made.close()


class CheckThenAct(RedisLedger):
    """The mutant that looks first, and reserves when it has looked."""

    async def reserve(self, hold: Hold) -> Granted | Refused:
        spent, held = await balance(self, hold.lines[0])
        if spent + held + hold.base[0] > hold.lines[0].cap:
            return Refused("held", 0)
        whatever = line(cap=ledger.EXACT - 1)
        return await super().reserve(
            Hold(id=hold.id, tenant=hold.tenant, lines=(whatever,), base=hold.base, each=hold.each)
        )


LEDGERS = {made.__name__: made for made in (RedisLedger, CheckThenAct)}


@contextlib.contextmanager
def broken(**changes: list[tuple[str, str]]) -> Any:
    """Scripts in which something is replaced, by script."""
    whole = connection.script

    def spoiled(name: str) -> connection.Script:
        text = whole(name).text
        for was, becomes in changes.get(name, []):
            assert text.count(was) == 1, f"{was!r} is not once in {name}"
            text = text.replace(was, becomes)
        return connection.Script(name, text)

    ledger.script = spoiled  # type: ignore[assignment]
    try:
        yield
    finally:
        ledger.script = whole


RESERVES_AGAIN = {"reserve": [("if known[1] then", "if false then")]}
SETTLES_AGAIN = {
    "settle": [
        ("if hold[2] == 'done' then", "if false then"),
        ("redis.call('HDEL', name, 'lines', 'rates')", ""),
    ]
}


async def draw(url: str, kind: str, holds: int) -> int:
    """Reserve for all at once, settle every other one in full. Gives what was granted."""
    made = LEDGERS[kind](url)

    async def one(i: int) -> int:
        name = f"{id(made)}-{sys.argv[-1]}-{i}"
        if isinstance(await made.reserve(hold(name, EACH)), Refused):
            return 0
        if i % 2:
            await made.settle(settlement(name, EACH))
        return EACH

    granted = sum(await asyncio.gather(*[one(i) for i in range(holds)]))
    await made.close()
    return granted


if __name__ == "__main__":
    print(asyncio.run(draw(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
