"""What is Redis' own about the ledger in it: processes, restarts, lost answers, keys, and numbers in Lua."""

from __future__ import annotations

import asyncio
import gc
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from shipworthy.adapters.inmemory.ledger import InMemoryLedger
from shipworthy.adapters.redis import RedisLedger
from shipworthy.adapters.redis.connection import CONNECTIONS, Script, script
from shipworthy.adapters.redis.ledger import EXACT, STAYS
from shipworthy.domain.ledger import Forget, Granted, Hold, Rate, Refused, Settled, Settlement
from shipworthy.domain.scope import Scope
from shipworthy.errors import LedgerError
from shipworthy.rules.ledger import cost
from shipworthy.testing.contracts.ledger.expiry import what_was_reset_is_not_given_back
from shipworthy.testing.contracts.ledger.ledgers import Law, Ledgers, OwnLedger, check
from shipworthy.testing.contracts.ledger.waiting import (
    a_place_moves_with_its_age,
    a_place_stays_where_only_the_order_is_in_the_way,
    what_time_has_paid_is_not_given_back,
    who_waits_on_another_line_is_served_in_order_too,
)
from tests.servers.proxy import How, Proxy
from tests.servers.redis import OwnRedis
from tests.stores.redis_holds import (
    CAP,
    EACH,
    OPERATOR,
    RESERVES_AGAIN,
    SETTLES_AGAIN,
    balance,
    broken,
    hold,
    line,
    opened,
    settlement,
)

ROOT = Path(__file__).parents[2]
LOST: tuple[How, ...] = ("lose the request", "lose the answer", "reset", "stall")
FULL = EXACT - 1


@pytest.fixture
def proxy(redis_url: str) -> Iterator[Proxy]:
    with Proxy(int(redis_url.rpartition(":")[2].partition("/")[0])) as made:
        yield made


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url, protocol=2, decode_responses=True) as made:
        yield made


# processes


def drawn(url: str, kind: str) -> tuple[int, int]:
    """What two processes were granted, and what the ledger says is spent and held."""
    command = [sys.executable, "-m", "tests.stores.redis_holds", url, kind]
    racers = [
        subprocess.Popen([*command, "200", str(i)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for i in range(2)
    ]
    granted = sum([int(racer.communicate(timeout=60)[0]) for racer in racers])

    async def said() -> int:
        async with opened(url) as ledger:
            return sum(await balance(ledger))

    return granted, asyncio.run(said())


def test_two_processes_never_pass_one_cap_and_use_all_of_it(redis_url: str) -> None:
    assert drawn(redis_url, "RedisLedger") == (CAP // EACH * EACH,) * 2


def test_a_ledger_that_checks_and_then_acts_passes_the_cap(redis_url: str) -> None:
    """The mutant of the test above."""
    granted, said = drawn(redis_url, "CheckThenAct")

    assert granted == said > CAP


# restarts


def test_a_killed_server_comes_back_with_counters_holds_caps_and_answers() -> None:
    async def scenario(server: OwnRedis) -> None:
        async with opened(server.url) as ledger:
            await ledger.reserve(hold("open", 30))
            await ledger.reserve(hold("settled", 40))
            first = await ledger.settle(settlement("settled", 11))
            await ledger.set_cap(OPERATOR, line().account, "tokens", "day", 50, "me", "enough")

            server.kill()
            server.start()

            assert await balance(ledger) == (11, 30)
            assert await ledger.settle(settlement("settled", 40)) == first
            assert await ledger.reserve(hold("open", 30)) == Granted(0, near=False)
            assert await ledger.reserve(hold("more", 10)) == Refused("held", 0, 50, 11, 30, 10)
            await ledger.settle(settlement("open", 5))
            assert await balance(ledger) == (16, 0)

    with OwnRedis() as server:
        asyncio.run(scenario(server))


def test_what_waits_for_a_server_goes_on_when_it_is_back() -> None:
    async def scenario(server: OwnRedis) -> None:
        async with opened(server.url, patience=60) as ledger:
            server.kill()
            waiting = [asyncio.create_task(ledger.reserve(hold(f"h{i}", 10))) for i in range(40)]
            await asyncio.to_thread(server.start)
            assert set(map(type, await asyncio.gather(*waiting))) == {Granted}
            assert await balance(ledger) == (0, 400)

    with OwnRedis() as server:
        asyncio.run(scenario(server))


# lost answers


async def a_lost_reserve_is_reserved_once(url: str, proxy: Proxy, how: How) -> None:
    async with opened(proxy.dsn(url), timeout=0.3) as ledger:
        await ledger.reserve(hold("other", 0))  # so that the server knows the script
        proxy.fault(b"the-hold", how, times=2)
        assert isinstance(await ledger.reserve(hold("the-hold", 10)), Granted)
        assert proxy.struck == 2
        assert await balance(ledger) == (0, 10)


async def a_lost_settlement_is_charged_once(url: str, proxy: Proxy, how: How) -> None:
    soft = line(soft=5)
    async with opened(proxy.dsn(url), timeout=0.3) as ledger:
        await ledger.reserve(hold("the-hold", 10, soft))
        await ledger.settle(settlement("other", 0))
        proxy.fault(b"the-hold", how, times=2)
        assert await ledger.settle(settlement("the-hold", 6)) == Settled("", (0,))
        assert proxy.struck == 2
        assert await balance(ledger, soft) == (6, 0)


@pytest.mark.parametrize("how", LOST)
@pytest.mark.parametrize("law", [a_lost_reserve_is_reserved_once, a_lost_settlement_is_charged_once])
def test_what_is_lost_on_the_way_is_done_once(law: Any, how: How, redis_url: str, proxy: Proxy) -> None:
    asyncio.run(law(redis_url, proxy, how))


@pytest.mark.parametrize(
    ("law", "mutant"),
    [
        (a_lost_reserve_is_reserved_once, RESERVES_AGAIN),
        (a_lost_settlement_is_charged_once, SETTLES_AGAIN),
    ],
)
def test_a_script_that_does_it_again_is_caught(law: Any, mutant: Any, redis_url: str, proxy: Proxy) -> None:
    with broken(**mutant), pytest.raises(AssertionError):
        asyncio.run(law(redis_url, proxy, "lose the answer"))


def test_a_reset_whose_answer_is_lost_is_recorded_once_and_says_what_was_spent(
    redis_url: str, proxy: Proxy
) -> None:
    async def scenario() -> None:
        async with opened(proxy.dsn(redis_url)) as ledger:
            await ledger.reserve(hold("h", 10, final=True))
            await ledger.set_cap(OPERATOR, line("bob").account, "tokens", "day", None, "me", "")
            proxy.fault(b"the-reason", "lose the answer")
            was = await ledger.reset(OPERATOR, line().account, "tokens", "day", "me", "the-reason")
            assert (was, proxy.struck) == (10, 1)
            assert [change.amount for change in await ledger.changes(OPERATOR, 10)] == [10, None]

    asyncio.run(scenario())


def test_a_cancelled_question_leaves_no_answer_to_the_next(redis_url: str) -> None:
    """More are cancelled than there are connections; none of these is lost, or gives somebody else's answer."""

    async def scenario() -> None:
        async with opened(redis_url) as ledger:
            lines = [line(f"user-{i}") for i in range(40)]
            for i, each in enumerate(lines):
                await ledger.reserve(hold(f"h{i}", i, each, final=True))
            chance = random.Random(7)
            right = [(i % 40, 0) for i in range(160)]
            for _ in range(4):
                asked = [asyncio.create_task(balance(ledger, each)) for each in lines * 4]
                for task in chance.sample(asked, 120):
                    for _ in range(chance.randrange(3)):
                        await asyncio.sleep(0)
                    task.cancel()
                told = await asyncio.gather(*asked, return_exceptions=True)
                assert all(
                    [
                        isinstance(t, asyncio.CancelledError) or t == r
                        for t, r in zip(told, right, strict=True)
                    ]
                )
                assert sum([isinstance(t, asyncio.CancelledError) for t in told]) > CONNECTIONS
            assert [await balance(ledger, each) for each in lines] == right[:40]

    asyncio.run(scenario())


# where the keys are, and for how long


def test_all_keys_are_on_one_node_of_a_cluster() -> None:
    """On a real cluster of one node, which refuses a script that reaches into two slots."""

    async def scenario(url: str) -> None:
        from redis.asyncio import RedisCluster

        async with opened(lambda: RedisCluster.from_url(url)) as ledger, opened(url, prefix="b") as other:
            for each in (ledger, other):
                await each.reserve(hold("a", 10, line(), line("bob")))
                await each.settle(settlement("a", 1, 2))
                assert await balance(each) == (1, 0)
                assert len(await each.show(OPERATOR, "acme", None)) == 2
            await ledger.reserve(hold("b", 10))
            assert (await balance(ledger), await balance(other)) == ((1, 10), (1, 0))

    with OwnRedis(cluster_enabled="yes") as server, server.client() as client:
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        while "cluster_state:ok" not in str(client.execute_command("CLUSTER", "INFO")):
            pass
        asyncio.run(scenario(server.url))
        slots = {client.execute_command("CLUSTER", "KEYSLOT", key) for key in client.keys("{shipworthy}*")}

    assert len(slots) == 1


def test_what_holds_money_never_goes_by_itself(redis_url: str, client: redis.Redis) -> None:
    async def scenario() -> None:
        async with opened(redis_url) as ledger:
            await ledger.reserve(hold("held", 10))
            await ledger.reserve(hold("expired", 10, ttl=0))
            await ledger.reserve(hold("settled", 10))
            await ledger.settle(settlement("settled", 5))
            assert await ledger.sweep(OPERATOR) == 1

    asyncio.run(scenario())
    lives = {str(key).removeprefix("{shipworthy}:"): client.ttl(key) for key in client.keys("*")}
    going = {key: ttl for key, ttl in lives.items() if ttl != -1}
    assert set(going) == {"hold:settled", "hold:expired"}
    assert all(86_000 < ttl <= 86_400 for ttl in going.values())


def test_a_sweep_drops_the_counters_of_old_windows_and_every_trace_of_them(
    redis_url: str, client: redis.Redis
) -> None:
    async def scenario() -> None:
        seconds = client.time()[0]
        old = (seconds - 60) * 1000 - STAYS
        gone, here = line("gone", start=old - 1, end=old), line("here", start=old, end=old + 120_000)
        still = line("held", start=old - 1, end=old)
        async with opened(redis_url) as ledger:
            await ledger.reserve(hold("a", 10, gone, here, final=True))
            await ledger.reserve(hold("b", 10, still))
            assert await ledger.sweep(OPERATOR) == 0
            assert [await balance(ledger, each) for each in (gone, here, still)] == [(0, 0), (10, 0), (0, 10)]
            names = {b.account.name for b in await ledger.show(OPERATOR, "acme", None)}
            assert names == {'["here"]', '["held"]'}
            client.delete("{shipworthy}:hold:a")
            await ledger.forget(Forget("acme", (here.key, still.key)))
            await ledger.release("acme", "b")

    asyncio.run(scenario())
    assert client.keys("*") == ["{shipworthy}:hold:b"]


def test_the_event_loops_of_several_threads_share_a_ledger(redis_url: str) -> None:
    ledger = RedisLedger(redis_url)

    async def scenario(name: str) -> None:
        for i in range(20):
            await ledger.reserve(hold(f"{name}-{i}", 1))
        await ledger.close()

    threads = [threading.Thread(target=asyncio.run, args=[scenario(f"t{i}")]) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    async def said() -> tuple[int, int]:
        try:
            return await balance(ledger)
        finally:
            await ledger.close()

    assert asyncio.run(said()) == (0, 60)


def test_a_loop_that_ends_takes_its_connections_with_it(redis_url: str, client: redis.Redis) -> None:
    """Without a `close` as well: nobody else could close them."""
    ledgers = [RedisLedger(redis_url)]

    async def scenario(i: int) -> None:
        await asyncio.gather(*[ledgers[0].reserve(hold(f"{i}-{j}", 1)) for j in range(5)])

    for i in range(2):
        asyncio.run(scenario(i))
        until = time.monotonic() + 20
        while len(client.client_list()) > 1:
            assert time.monotonic() < until
    ledgers.clear()
    gc.collect()  # would warn, and warnings are errors


# numbers


async def large_amounts_stay_exact(url: str) -> None:
    big = line("big", FULL, soft=FULL)
    async with opened(url) as ledger:
        await ledger.reserve(hold("a", 9_000_000_000_000_001, big))
        await ledger.reserve(hold("b", 7_199_254_740_989, big, ttl=0))
        assert await ledger.sweep(OPERATOR) == 1
        assert await balance(ledger, big) == (7_199_254_740_989, 9_000_000_000_000_001)
        assert await ledger.reserve(hold("c", 2, big)) == Refused(
            "held", 0, FULL, 7_199_254_740_989, 9_000_000_000_000_001, 2
        )
        assert await ledger.settle(settlement("b", 7_199_254_740_987)) == Settled()
        assert await ledger.settle(settlement("a", 9_000_000_000_000_003)) == Settled()
        assert await balance(ledger, big) == (FULL - 1, 0)
        assert await ledger.reserve(hold("d", 1, big, final=True)) == Granted(0, (0,), near=False)
        await ledger.set_cap(OPERATOR, big.account, "tokens", "day", FULL, "me", "")
        [shown] = await ledger.show(OPERATOR, "acme", None)
        assert (shown.spent, shown.cap) == (FULL, FULL)
        assert await ledger.reset(OPERATOR, big.account, "tokens", "day", "me", "") == FULL
        assert [change.amount for change in await ledger.changes(OPERATOR, 2)] == [FULL, FULL]


def test_large_amounts_stay_exact(redis_url: str) -> None:
    asyncio.run(large_amounts_stay_exact(redis_url))


def test_numbers_that_leave_lua_by_its_own_words_are_caught(redis_url: str) -> None:
    """The mutant of the test above."""
    spoiled = [("return string.format('%.0f', number)", "return tostring(number)")]
    with broken(reserve=spoiled, settle=spoiled), pytest.raises((AssertionError, LedgerError)):
        asyncio.run(large_amounts_stay_exact(redis_url))


def test_units_are_granted_to_the_last_at_every_size(redis_url: str) -> None:
    """Where a division of two exact numbers would be rounded up as well."""

    async def scenario() -> None:
        async with opened(redis_url) as ledger:
            for i, each in enumerate((1, 2, 3, 7, 75_000, 999_999_937)):
                for room in (FULL, FULL - 1, each * 1000 - 1, each * 1000):
                    on = line(f"{i}-{room}", room)
                    asked = Hold(
                        id=on.key, tenant="acme", lines=(on,), base=(0,), each=(each,), most=FULL // each
                    )
                    assert await ledger.reserve(asked) == Granted(room // each, near=False)

    asyncio.run(scenario())


def test_what_cannot_be_counted_exactly_is_refused_before_it_is_sent(redis_url: str) -> None:
    async def scenario() -> None:
        rate = Rate("r", line().account, "tokens", 1, 1000 * 86_400, 1)
        async with opened(redis_url) as ledger:
            for asked in (
                hold("h", EXACT),
                hold("h", 1, line(cap=EXACT)),
                hold("h", 1, rates=(rate,), rate_base=(EXACT // 10**6,), rate_each=(0,)),
            ):
                with pytest.raises(LedgerError, match="exactly"):
                    await ledger.reserve(asked)
            with pytest.raises(LedgerError, match="exactly"):
                await ledger.settle(settlement("h", 2**60))
            with pytest.raises(LedgerError, match="exactly"):
                await ledger.set_cap(OPERATOR, line().account, "tokens", "day", EXACT, "me", "")

    asyncio.run(scenario())


def test_a_bill_beyond_all_bounds_is_recorded_and_blocks(redis_url: str) -> None:
    async def scenario() -> None:
        async with opened(redis_url) as ledger:
            await ledger.reserve(hold("a", 1))
            await ledger.settle(settlement("a", 2**60 - 1))
            assert await balance(ledger) == (2**60 - 1, 0)
            told = await ledger.reserve(hold("b", 0))
            assert isinstance(told, Refused)
            assert told.cause == "spent"

    asyncio.run(scenario())


def test_a_settlement_of_another_shape_than_its_hold_changes_nothing(redis_url: str) -> None:
    async def scenario() -> None:
        async with opened(redis_url) as ledger:
            await ledger.reserve(hold("a", 1))
            with pytest.raises(LedgerError, match="one amount for each line"):
                await ledger.settle(settlement("a", 1, 2))
            assert await balance(ledger) == (0, 1)

    asyncio.run(scenario())


def test_the_cost_of_a_rate_is_rounded_up_as_everywhere(client: redis.Redis) -> None:
    """In the way of long division as well, where the product is beyond the exact numbers."""
    text = (
        script("spent").text.partition("-- ARGV:")[0]
        + "return int(cost(tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])))"
    )
    asked = Script("cost", text)
    chance = random.Random(4)
    account = line().account
    for _ in range(3000):
        limit = int(10 ** chance.uniform(0, 13))
        period = chance.choice(
            [1000, 60_000, 3_600_000, 86_400_000, 2_678_400_000, chance.randrange(1, 10**9)]
        )
        amount = int(limit * chance.uniform(0, 3)) + chance.randrange(3)
        rate = Rate("r", account, "tokens", limit, period, 1)
        told = client.eval(asked.text, 1, "{p}", amount, period * 1000, limit)
        assert int(str(told)) == cost(rate, amount), (amount, period, limit)


# beside the ledger in memory


def test_it_answers_as_the_ledger_in_memory_does(redis_url: str) -> None:
    chance = random.Random(1)
    lines = [line(name, cap, soft=soft) for name, cap, soft in (("a", 100, 80), ("b", 900, 9), ("c", 37, 0))]
    ids = ["none"]
    shape = {"none": 1}

    def a_hold(i: int) -> Hold:
        on = tuple(chance.sample(lines, chance.randint(1, 3)))
        fresh = chance.random() < 0.8
        ids.append(name := f"h{i}" if fresh else chance.choice(ids))
        shape.setdefault(name, len(on))
        least = chance.randint(0, 3)
        return Hold(
            id=name,
            tenant=chance.choice(["acme", "acme", "other"]),
            lines=on,
            base=tuple([chance.randint(0, 9) for _ in on]),
            each=tuple([chance.randint(0, 3) for _ in on]),
            least=least,
            most=least + chance.randint(0, 10),
            final=chance.random() < 0.2,
            patient=chance.random() < 0.1,
            note=f"n{i}",
        )

    def a_settlement() -> Settlement:
        name = chance.choice(ids)
        amounts = tuple([chance.randint(0, 20) for _ in range(shape[name])])
        full = chance.random() < 0.3
        return Settlement(
            id=name, tenant=chance.choice(["acme", "other"]), amounts=None if full else amounts, note="x"
        )

    async def scenario() -> None:
        memory = InMemoryLedger()
        async with opened(redis_url) as ledger:
            for i in range(1500):
                kind = chance.random()
                told: list[Any]
                if kind < 0.5:
                    asked = a_hold(i)
                    told = [await each.reserve(asked) for each in (ledger, memory)]
                    if isinstance(told[1], Refused):
                        shape.pop(asked.id, None) if asked.id == f"h{i}" else None
                        ids.pop()
                elif kind < 0.8:
                    done = a_settlement()
                    told = [await each.settle(done) for each in (ledger, memory)]
                elif kind < 0.9:
                    name = chance.choice(ids)
                    told = [await each.release("acme", name) for each in (ledger, memory)]
                elif kind < 0.95:
                    account = chance.choice(lines).account
                    told = [
                        await each.reset(OPERATOR, account, "tokens", "day", "me", "")
                        for each in (ledger, memory)
                    ]
                else:
                    keys = [each.key for each in lines]
                    told = [await each.spent(Scope("acme"), keys) for each in (ledger, memory)]
                assert told[0] == told[1], i
            assert await ledger.top(OPERATOR, "tokens", "day", "user", 2) == await memory.top(
                OPERATOR, "tokens", "day", "user", 2
            )

    asyncio.run(scenario())


# mutants of the scripts


class OnRedis(Ledgers):
    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url

    def make(self) -> OwnLedger:
        return RedisLedger(self._url)


UNLAWFUL: dict[str, tuple[str, tuple[str, str], Law]] = {
    "who has no place there is behind": (
        "reserve",
        ("(not ticket or tonumber(first[2]) < tonumber(ticket))", "(here ~= key or not ticket)"),
        who_waits_on_another_line_is_served_in_order_too,
    ),
    "goes where others wait": (
        "reserve",
        ("fits and here or line.key", "line.key"),
        a_place_stays_where_only_the_order_is_in_the_way,
    ),
    "never moves": (
        "reserve",
        ("fits and here or line.key", "here or line.key"),
        a_place_moves_with_its_age,
    ),
    "begins anew where it moves": (
        "reserve",
        ("ticket = ticket or redis", "ticket = key == here and ticket or redis"),
        a_place_moves_with_its_age,
    ),
    "a rate is given back what time has paid": (
        "settle",
        ("tonumber(rate[5]) >= tonumber(of[2])", "true"),
        what_time_has_paid_is_not_given_back,
    ),
    "nothing is added to an idle rate": (
        "settle",
        ("more > 0 or ", ""),
        what_time_has_paid_is_not_given_back,
    ),
    "a rate is idle once": (
        "reserve",
        ("'HSET', P .. ':rate:' .. rate.key, 'idle'", "'HSETNX', P .. ':rate:' .. rate.key, 'idle'"),
        what_time_has_paid_is_not_given_back,
    ),
    "a reset forgives nothing": (
        "change",
        ("redis.call('HINCRBY', name, 'epoch', 1)", ""),
        what_was_reset_is_not_given_back,
    ),
    "every expired hold is forgiven": (
        "settle",
        ("and epoch_of(line[1]) == line[4] then", "and false then"),
        what_was_reset_is_not_given_back,
    ),
}  # fmt: skip


@pytest.mark.parametrize("mutant", UNLAWFUL)
def test_an_unlawful_script_is_caught(mutant: str, redis_url: str) -> None:
    name, change, law = UNLAWFUL[mutant]
    with broken(**{name: [change]}), pytest.raises(AssertionError):
        check(law, OnRedis(redis_url))
