"""Where a budget keeps its counters: named in whatever way, the runtime's own place is the runtime's own ledger."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from shipworthy import Agent, BudgetConfig, ScriptedModel, ScriptedTurn, StandardBudget, Usage
from shipworthy.adapters.inmemory.ledger import InMemoryLedger
from shipworthy.adapters.postgres import PostgresStore
from shipworthy.adapters.postgres.place import place_of
from shipworthy.adapters.redis import RedisLedger
from shipworthy.adapters.sqlite import SqliteStore
from shipworthy.app import budgets
from shipworthy.domain.events import ModelRequested, RunStarted
from shipworthy.domain.journal import Batch
from shipworthy.domain.ledger import Settled, Settlement
from shipworthy.domain.messages import Text
from shipworthy.domain.scope import Operator, Scope
from shipworthy.domain.usage import Reserved
from shipworthy.engine import bank
from shipworthy.errors import ConfigurationError, LedgerUnavailable, ShipworthyError
from shipworthy.rules.ledger import account_of, keys_of

ADA: dict[str, Any] = {"tenant_id": "acme", "user_id": "ada"}
ANSWER = ScriptedTurn("Well.", usage=Usage(input_tokens=70, output_tokens=30))
OPERATOR = Operator("the tests of places")
KEY = keys_of(account_of("user", Scope("acme", "ada")), "tokens", "total", 0)[0]


def budget(ledger: Any = None, cap: int = 10_000) -> StandardBudget:
    return StandardBudget(BudgetConfig(per_user_max_tokens=cap), ledger=ledger)


def agent(limit: StandardBudget, runtime: Any = None) -> Agent[Any, str]:
    return Agent("Be brief.", model=ScriptedModel([ANSWER]), runtime=runtime, budget=limit)


async def spent(ledger: Any) -> int:
    """By Ada, as whoever opens the place anew finds it."""
    await ledger.open()
    try:
        [(spent, held)] = await ledger.spent(Scope("acme"), [KEY])
        assert held == 0
        return int(spent)
    finally:
        await ledger.close()


# --- the runtime's own place ------------------------------------------------------------------


def names(folder: Path) -> dict[str, str]:
    """Ways to name one file."""
    (folder / "sub").mkdir()
    os.symlink(folder / "bot.db", folder / "link.db")
    os.symlink(folder, folder / "sub" / "up")
    return {
        "absolute": f"sqlite:{folder / 'bot.db'}",
        "relative": "sqlite:bot.db",
        "with a dot": "sqlite:./bot.db",
        "a way round": "sqlite:sub/../bot.db",
        "a link": "sqlite:link.db",
        "through a linked folder": f"sqlite:{folder}/sub/up/bot.db",
    }


def test_a_file_is_the_same_by_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = names(tmp_path)
    for runtime in found.values():
        store = SqliteStore(runtime.removeprefix("sqlite:"))
        assert {
            how: budget(name).ledger_on(store) is store.ledger for how, name in found.items()
        } == dict.fromkeys(found, True)
        assert budget("sqlite:other.db").ledger_on(store) is not store.ledger
        assert budget("inmemory").ledger_on(store) is not store.ledger


def test_a_relative_name_is_that_of_the_folder_where_it_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    store, limit = SqliteStore("bot.db"), budget("sqlite:bot.db")
    monkeypatch.chdir(tmp_path / "sub")
    assert limit.ledger_on(store) is store.ledger
    assert budget("sqlite:bot.db").ledger_on(store) is not store.ledger


SAME = {
    "the other scheme": "postgresql://ada:secret@db.example:5432/bot",
    "no port": "postgres://ada:secret@db.example/bot",
    "capitals": "postgres://ada:secret@DB.example/bot",
    "percent-encoded": "postgres://ada:s%65cret@db%2Eexample:5432/b%6Ft",
    "another role and password": "postgres://eve:hidden@db.example/bot",
    "no password": "postgres://ada@db.example/bot",
    "settings": "postgres://ada@db.example/bot?sslmode=require&application_name=x",
    "all in the query": "postgres:///bot?host=db.example&port=5432&user=ada",
    "keys and values": "host=db.example port=5432 dbname=bot user=ada password='secret'",
    "keys and values without port": "dbname=bot host=db.example",
}
OTHERS = {
    "another database": "postgres://ada:secret@db.example/other",
    "another port": "postgres://ada:secret@db.example:5433/bot",
    "another server": "postgres://ada:secret@db2.example/bot",
    "more servers": "postgres://ada:secret@db.example,db2.example/bot",
}


@pytest.mark.parametrize("how", SAME)
def test_a_database_is_the_same_however_its_address_is_written(how: str) -> None:
    store = PostgresStore(SAME[how])
    assert budget("postgres://ada:secret@db.example:5432/bot").ledger_on(store) is store.ledger
    assert "secret" not in store.place + repr(store)


@pytest.mark.parametrize("how", OTHERS)
def test_another_database_is_not(how: str) -> None:
    store = PostgresStore(OTHERS[how])
    assert budget("postgres://ada:secret@db.example:5432/bot").ledger_on(store) is not store.ledger


def test_what_is_left_out_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "db.example")
    monkeypatch.setenv("PGDATABASE", "bot")
    assert place_of("postgres://") == place_of("postgres://ada@db.example:5432/bot")
    monkeypatch.setenv("PGPORT", "5433")
    assert place_of("postgres://") == place_of("postgres://db.example:5433/bot")


def test_an_address_that_cannot_be_read_is_refused_without_its_password() -> None:
    store = PostgresStore("postgres://ada@db.example/bot")
    with pytest.raises(ConfigurationError) as refused:
        budget("postgres://ada:sec/ret@db.example:x/bot").ledger_on(store)
    assert "sec" not in str(refused.value)


def test_by_the_name_of_the_runtimes_place_a_hold_shares_the_journals_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    async def go() -> None:
        async with agent(budget("sqlite:./bot.db"), "sqlite:bot.db") as a:
            assert (await a.run("Hello.", **ADA)).status == "completed"
            (opened,) = a.runtime._banks.values()
            assert opened.joined
        assert await spent(SqliteStore("bot.db").ledger) == 100

    asyncio.run(go())


def test_so_it_is_on_postgres(database: str) -> None:
    said = urlsplit(database)
    other = f"{said.scheme}://{said.netloc}/{said.path.lstrip('/')}?application_name=x"
    assert said.query == "", "the server's address has settings already"

    async def go() -> None:
        async with agent(budget(other), database) as a:
            assert (await a.run("Hello.", **ADA)).status == "completed"
            (opened,) = a.runtime._banks.values()
            assert opened.joined
        assert await spent(PostgresStore(database).ledger) == 100

    asyncio.run(go())


# --- another place ----------------------------------------------------------------------------


def test_a_file_of_its_own_works_and_closes_with_the_runtime(tmp_path: Path) -> None:
    own = tmp_path / "ledger.db"

    async def go() -> None:
        limit = budget(f"sqlite:{own}")
        async with agent(limit, f"sqlite:{tmp_path / 'bot.db'}") as a:
            result = await a.run("Hello.", **ADA)
            assert result.charged is not None
            assert result.charged.output_tokens == 30
            assert limit.ledger_on(a.runtime.store) is not a.runtime.store.ledger
        assert own.exists()
        assert not [each for each in os.listdir(tmp_path) if each.endswith("-wal")]  # nobody has it open
        assert await spent(SqliteStore(own).ledger) == 100
        assert await spent(SqliteStore(tmp_path / "bot.db").ledger) == 0

    asyncio.run(go())


@pytest.mark.parametrize("shared", [True, False], ids=["one budget", "two budgets"])
@pytest.mark.parametrize("kind", ["sqlite", "postgres", "redis"])
def test_two_runtimes_draw_on_one_place_and_one_may_close_before_the_other(
    kind: str, shared: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    place, open_before = _place(kind, tmp_path, request), dict(bank._open)

    async def go() -> int:
        limits = [budget(place)] * 2 if shared else [budget(place), budget(place)]
        first = agent(limits[0], f"sqlite:{tmp_path / 'a.db'}")
        second = agent(limits[1])
        await asyncio.gather(*[a.run("Hello.", **ADA) for a in (first, second) for _ in range(4)])
        await first.close()
        assert (await second.run("Hello.", **ADA)).status == "completed"
        await second.close()
        async with first:  # and open again
            assert (await first.run("Hello.", **ADA)).status == "completed"
        return await spent(budgets.make_ledger(place))

    assert asyncio.run(go()) == 1_000
    assert bank._open == open_before


def _place(kind: str, folder: Path, request: pytest.FixtureRequest) -> str:
    if kind == "sqlite":
        return f"sqlite:{folder / 'ledger.db'}"
    return str(request.getfixturevalue("database" if kind == "postgres" else "redis_url"))


def test_a_cap_in_redis_holds_over_agents_and_processes_that_come_later(redis_url: str) -> None:
    async def go() -> None:
        for number in range(4):
            async with agent(budget(redis_url, cap=4_400)) as a:
                result = await a.run("Hello.", **ADA)
                assert result.status == "completed", (number, result.stop_reason)
        async with agent(budget(RedisLedger(redis_url), cap=410)) as a:
            result = await a.run("Hello.", **ADA)
        assert (result.status, result.stop_reason) == ("stopped", "budget:per_user_max_tokens")
        assert await spent(RedisLedger(redis_url)) == 400

    asyncio.run(go())


class Away(InMemoryLedger):
    """Nothing can be settled in it."""

    async def settle(self, settlement: Settlement) -> Settled:
        raise LedgerUnavailable("It is away.")


def test_a_run_whose_ledger_one_process_cannot_reach_is_there_for_another(tmp_path: Path) -> None:
    scope, place = Scope("acme", "ada"), f"sqlite:{tmp_path / 'bot.db'}"
    reserved = Reserved("h", input_tokens=50, output_tokens=100)
    opened = [
        RunStarted(seq=1, run_id="r", tenant="acme", user="ada", prompt=(Text("Hello."),)),
        ModelRequested(seq=2, ordinal=0, model="scripted", reserved=reserved),
    ]

    async def go() -> None:
        store = SqliteStore(tmp_path / "bot.db")
        await store.open()
        fence = await store.begin(scope, "r", Batch(opened, {}))
        assert fence is not None
        await store.release(fence)
        await store.close()
        async with agent(budget(Away()), place) as cut_off, agent(budget(InMemoryLedger()), place) as other:
            with pytest.raises(LedgerUnavailable):
                await cut_off.resume("r", tenant_id="acme")
            assert (await other.resume("r", tenant_id="acme")).status == "completed"

    asyncio.run(go())


# --- the mutants ------------------------------------------------------------------------------


def _as_it_is_written(patch: pytest.MonkeyPatch) -> None:
    """Two names are two places."""
    patch.setattr(budgets.os.path, "realpath", lambda path: path)  # type: ignore[attr-defined]


def _everything_is_here(patch: pytest.MonkeyPatch) -> None:
    """Whatever is named is the runtime's own."""
    patch.setattr(budgets, "is_same_place", lambda place, store: True)


def _whoever_closes_first(patch: pytest.MonkeyPatch) -> None:
    """Closes for all."""
    patch.setattr(bank, "_hold", lambda ledger, more: 0)


def _kept_by_who_cannot_go_on(patch: pytest.MonkeyPatch) -> None:
    """A run whose ledger cannot be reached stays where it was taken."""
    release, calls = SqliteStore.release, list[int]()

    async def once(self: Any, fence: Any) -> None:
        calls.append(1)
        if len(calls) == 1:  # by the test, which leaves the run
            await release(self, fence)

    patch.setattr(SqliteStore, "release", once)


@pytest.mark.parametrize(
    ("mutant", "law"),
    [
        (_as_it_is_written, test_a_file_is_the_same_by_any_name),
        (_everything_is_here, test_a_file_of_its_own_works_and_closes_with_the_runtime),
        (_kept_by_who_cannot_go_on, test_a_run_whose_ledger_one_process_cannot_reach_is_there_for_another),
        (_whoever_closes_first, test_two_runtimes_draw_on_one_place_and_one_may_close_before_the_other),
    ],
)
def test_a_mutant_is_caught(
    mutant: Callable[[pytest.MonkeyPatch], None],
    law: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    given = {
        test_a_file_is_the_same_by_any_name: (tmp_path, monkeypatch),
        test_two_runtimes_draw_on_one_place_and_one_may_close_before_the_other: (
            "sqlite",
            True,
            tmp_path,
            request,
        ),
    }
    mutant(monkeypatch)
    with pytest.raises((AssertionError, ShipworthyError)):
        law(*given.get(law, (tmp_path,)))
