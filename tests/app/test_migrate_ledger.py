"""Moving house does not give a cap back: what was spent, what was held, and what operators set come along."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shipworthy import Agent, BudgetConfig, RunResult, ScriptedModel, StandardBudget
from shipworthy.adapters.inmemory.ledger import InMemoryLedger
from shipworthy.app import cli
from shipworthy.app.runtimes import runtime_for
from shipworthy.domain.events import AnyEvent, ModelAbandoned, ModelRequested, RunStarted
from shipworthy.domain.journal import Batch
from shipworthy.domain.ledger import Balance, Hold, Line
from shipworthy.domain.messages import Text
from shipworthy.domain.scope import Operator, Scope
from shipworthy.domain.usage import Charge, Reserved
from shipworthy.engine import migrate, removal
from shipworthy.engine.migrate import Migration, Report
from shipworthy.engine.removal import Removal
from shipworthy.ports.store import Store
from shipworthy.rules.ledger import account, account_of, keys_of
from shipworthy.rules.state import replay
from shipworthy.testing.faults import Point, PointedStore, Points

ROOT = Path(__file__).parents[2]
OPERATOR = Operator("the tests of moving")
ADA: dict[str, Any] = {"tenant_id": "acme", "user_id": "ada"}
EVE: dict[str, Any] = {"tenant_id": "globex", "user_id": "eve"}
CAP = 3_000

BOT = """
    # A service under caps: a run comes to its end, and the process dies in the attempt of another one.
    import asyncio, os, signal
    from tests.app.test_migrate_ledger import ADA, EVE, bot

    def die(request):
        os.kill(os.getpid(), signal.SIGKILL)

    async def go():
        await bot("sqlite:old.db", "Well.").run("Hello.", **EVE)
        await bot("sqlite:old.db", die).run("Hello.", run_id="open", **ADA)

    asyncio.run(go())
"""


def bot(store: str, *turns: Any, **more: Any) -> Agent[Any, str]:
    """An agent whose answers are charged in full, for its model reports nothing: one of them is all that a user's cap
    affords, and less than what is asked for."""
    limits = {"max_tokens": 3 * CAP, "per_user_max_tokens": CAP, "global_max_tokens": 5 * CAP, **more}
    budget = StandardBudget(BudgetConfig(max_output_tokens_per_call=4_000, **limits))
    return Agent("Be brief.", name="bot", model=ScriptedModel(turns), runtime=store, budget=budget)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a service died: an ended run, and one whose attempt is open."""
    (tmp_path / "bot.py").write_text(textwrap.dedent(BOT))
    monkeypatch.chdir(tmp_path)
    died = subprocess.run(
        [sys.executable, "bot.py"],
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        timeout=60,
        check=False,
        capture_output=True,
    )
    assert died.returncode == -signal.SIGKILL, died.stderr
    return tmp_path


@contextlib.asynccontextmanager
async def opened(*addresses: str) -> AsyncIterator[list[Any]]:
    async with contextlib.AsyncExitStack() as stack:
        stores = []
        for address in addresses:
            store = runtime_for(address).store
            await store.open()
            stack.push_async_callback(store.close)
            stores.append(store)
        yield stores


async def standing(store: Store) -> dict[Any, int]:
    """What is spent and held of every counter."""
    found: list[Balance] = []
    for tenant in ("acme", "globex", None):
        found += await store.ledger.show(OPERATOR, tenant, None)
    return {(b.account, b.unit, b.window, b.start): b.spent + b.held for b in found}


async def bring(old: str, new: str, points: Points | None = None, tenant: str | None = None) -> Report:
    async with opened(old, new) as stores:
        if points is not None:
            stores = [PointedStore(store, points, lambda *_: None) for store in stores]
        return await Migration(*stores, origin=old, to=new, tenant=tenant).work()


def look(address: str, work: Callable[[Store], Any] = standing) -> Any:
    async def go() -> Any:
        async with opened(address) as (store,):
            return await work(store)

    return asyncio.run(go())


def command(new: str) -> dict[str, Any]:
    said = ("runs", "migrate", "--from", "sqlite:old.db", "--to", new, "--json")
    told = subprocess.run(
        [sys.executable, "-m", "shipworthy.app.cli", *said],
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert told.returncode == 0, told.stderr + told.stdout
    report: dict[str, Any] = json.loads(told.stdout)
    return report


async def go_on(new: str) -> tuple[RunResult[str], int, int]:
    """The open run, gone on with: its result, what the ledger says of its user, and what its journal says."""
    async with bot(new, "Well.") as agent:
        result = await agent.resume("open", tenant_id="acme")
        state = replay(await agent.runtime.store.read(Scope("acme"), "open"))
        (user,) = await agent.runtime.store.ledger.show(OPERATOR, "acme", "ada")
        assert user.held == 0
        assert state.charged is not None
        return result, user.spent, state.charged.input_tokens + state.charged.output_tokens


def tokens(result: RunResult[str]) -> int:
    assert result.charged is not None
    return result.charged.input_tokens + result.charged.output_tokens


# --- what comes along -------------------------------------------------------------------------


def test_every_counter_comes_along_and_only_once(folder: Path, database: str) -> None:
    before = look("sqlite:old.db")
    assert {key[0].level for key in before} == {"run", "user", "global"}
    for _ in range(2):
        report = command(database)
        assert (report["left"], report["counters"]) == ([], len(before))
        assert look(database) == before


def test_the_ledger_the_journal_and_the_result_agree_after_a_crash_and_a_move(
    folder: Path, database: str
) -> None:
    command(database)
    result, spent, journal = asyncio.run(go_on(database))
    assert (result.status, result.stop_reason) == ("stopped", "budget:per_user_max_tokens")
    assert spent == journal == tokens(result)
    assert command(database)["left"] == []  # what was moved is not charged again
    assert look(database, _of_ada) == spent


async def _of_ada(store: Store) -> int:
    (user,) = await store.ledger.show(OPERATOR, "acme", "ada")
    return user.spent


def test_an_open_attempt_is_charged_what_it_was_granted(folder: Path) -> None:
    """Not what its journal says that it asked for."""
    asyncio.run(bring("sqlite:old.db", "sqlite:new.db"))

    async def judge(store: Store) -> None:
        events = await store.read(Scope("acme"), "open")
        (attempt,) = [event for event in events if type(event) is ModelAbandoned]
        assert attempt.charged.input_tokens + attempt.charged.output_tokens == CAP

    look("sqlite:new.db", judge)


def test_a_cap_that_is_used_up_stays_used_up(folder: Path) -> None:
    asyncio.run(bring("sqlite:old.db", "sqlite:new.db"))

    async def go() -> None:
        async with bot("sqlite:new.db", "Well.") as agent:
            again = await agent.run("Hello.", **ADA)
            assert (again.status, again.stop_reason) == ("stopped", "budget:per_user_max_tokens")
            assert (await agent.run("Hello.", **{**ADA, "user_id": "bob"})).status == "completed"

    asyncio.run(go())


def test_what_an_operator_set_comes_along_with_who_and_why(folder: Path) -> None:
    async def set_caps(store: Store) -> None:
        whose = account("user", "acme", "ada")
        await store.ledger.set_cap(OPERATOR, whose, "tokens", "total", 9_000, "root", "a good customer")

    look("sqlite:old.db", set_caps)
    for _ in range(2):
        asyncio.run(bring("sqlite:old.db", "sqlite:new.db"))

    async def said(store: Store) -> list[tuple[int | None, str, str]]:
        return [(each.amount, each.who, each.why) for each in await store.ledger.changes(OPERATOR, 10)]

    assert look("sqlite:new.db", said) == [(9_000, "root", "a good customer")]

    async def go() -> None:
        result, spent, journal = await go_on("sqlite:new.db")
        assert result.status == "completed"
        assert spent == journal == tokens(result) > CAP

    asyncio.run(go())


def test_one_tenant_takes_its_own_and_leaves_what_is_everybodys(folder: Path) -> None:
    before = look("sqlite:old.db")
    asyncio.run(bring("sqlite:old.db", "sqlite:new.db", tenant="acme"))
    acme = {key: value for key, value in before.items() if key[0].tenant == "acme"}
    assert look("sqlite:new.db") == acme
    asyncio.run(bring("sqlite:old.db", "sqlite:new.db"))
    assert look("sqlite:new.db") == before


def test_there_and_back_again_charges_nothing_twice(folder: Path) -> None:
    before = look("sqlite:old.db")
    asyncio.run(bring("sqlite:old.db", "sqlite:new.db"))
    asyncio.run(bring("sqlite:new.db", "sqlite:old.db"))
    assert look("sqlite:old.db") == look("sqlite:new.db") == before


def test_what_the_source_spends_meanwhile_is_added_to_what_the_destination_spent(folder: Path) -> None:
    asyncio.run(bring("sqlite:old.db", "sqlite:new.db"))
    before = look("sqlite:new.db")

    async def both() -> int:
        spent = 0
        for store in ("sqlite:old.db", "sqlite:new.db"):
            async with bot(store, "Well.") as agent:
                spent += tokens(await agent.run("Hello.", **{**EVE, "user_id": "mallory"}))
        return spent

    spent = asyncio.run(both())
    asyncio.run(bring("sqlite:old.db", "sqlite:new.db"))
    after = look("sqlite:new.db")
    everybody = next(key for key in before if key[0].level == "global")
    mallory = next(key for key in after if "mallory" in key[0].name)
    assert (after[everybody] - before[everybody], after[mallory]) == (spent, spent)


def test_an_attempt_in_a_ledger_of_its_own_is_found_there_after_the_move(tmp_path: Path) -> None:
    """The store's ledger does not know it, and says nothing of it."""
    scope = Scope("acme", "ada")
    whose = account_of("user", scope)
    line = Line(*keys_of(whose, "tokens", "total", 0), whose, "tokens", "total", 0, 0, CAP)
    reserved = Reserved("h", input_tokens=50, output_tokens=1_000)
    opening: list[AnyEvent] = [
        RunStarted(seq=1, run_id="open", tenant="acme", user="ada", prompt=(Text("Hello."),)),
        ModelRequested(seq=2, ordinal=0, model="scripted", reserved=reserved),
    ]

    async def go() -> None:
        elsewhere = InMemoryLedger()
        await elsewhere.reserve(Hold(id="h", tenant="acme", lines=(line,), base=(50,), each=(1,), most=200))
        old, new = f"sqlite:{tmp_path / 'old.db'}", f"sqlite:{tmp_path / 'new.db'}"
        async with opened(old) as (store,):
            await store.release(await store.begin(scope, "open", Batch(opening, {})))
        assert (await bring(old, new)).moved == 1
        limit = StandardBudget(BudgetConfig(per_user_max_tokens=10 * CAP), ledger=elsewhere)
        async with Agent("Be brief.", model=ScriptedModel(["Well."]), runtime=new, budget=limit) as agent:
            result = await agent.resume("open", tenant_id="acme")
            events = await agent.runtime.store.read(scope, "open")
        ((spent, held),) = await elsewhere.spent(scope, [line.key])
        assert (spent, held) == (tokens(result), 0)
        assert [e.charged for e in events if type(e) is ModelAbandoned] == [Charge(50, 200, None)]

    asyncio.run(go())


# --- wherever it dies -------------------------------------------------------------------------


class Died(BaseException):
    """What a process's end is in these."""


def _die(point: Point) -> None:
    raise Died


def watch_ledgers(patch: pytest.MonkeyPatch, points: Points) -> None:
    """What is written to a ledger by itself is a point as well."""
    from shipworthy.adapters.sqlite.ledger import SqliteLedger

    for name in ("carry", "settle"):
        write = getattr(SqliteLedger, name)

        def pointed(write: Any, kind: str) -> Any:
            async def work(self: Any, *given: Any) -> Any:
                with points.around(kind):
                    return await write(self, *given)

            return work

        patch.setattr(SqliteLedger, name, pointed(write, name))


def test_whatever_the_moment_of_death_nothing_is_charged_twice_and_nothing_is_lost(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = look("sqlite:old.db")
    counting = Points()
    kinds: set[str] = set()
    for number, point in enumerate([None, *_points(folder, counting)]):
        place = folder / str(number)
        place.mkdir()
        shutil.copy("old.db", place / "old.db")
        old, new = f"sqlite:{place / 'old.db'}", f"sqlite:{place / 'new.db'}"
        if point is not None:
            kinds.add(point.kind)
            with monkeypatch.context() as patch:
                points = Points(point, _die)
                watch_ledgers(patch, points)
                with pytest.raises(Died):
                    asyncio.run(bring(old, new, points))
        assert asyncio.run(bring(old, new)).left == [], point
        assert look(new) == before, point
        result, spent, journal = asyncio.run(go_on(new))
        assert spent == journal == tokens(result), point
    assert kinds == {"begin", "claim", "commit", "carry", "settle", "release", "adopt"}


def _points(folder: Path, counting: Points) -> list[Point]:
    """Every moment at which a migration could die."""
    place = folder / "whole"
    place.mkdir()
    shutil.copy("old.db", place / "old.db")
    with pytest.MonkeyPatch.context() as patch:
        watch_ledgers(patch, counting)
        asyncio.run(bring(f"sqlite:{place / 'old.db'}", f"sqlite:{place / 'new.db'}", counting))
    return counting.reached


# --- the mutants ------------------------------------------------------------------------------


def _right(folder: Path) -> bool:
    """Whether a move leaves every counter as it was, and the sums of the run that goes on equal."""
    before = look("sqlite:old.db")
    for _ in range(2):
        asyncio.run(bring("sqlite:old.db", "sqlite:new.db"))
    same = look("sqlite:new.db") == before
    result, spent, journal = asyncio.run(go_on("sqlite:new.db"))
    return same and spent == journal == tokens(result)


def _a_cap_begins_anew(patch: pytest.MonkeyPatch) -> None:
    """The ledger stays behind."""

    async def nothing(self: Any) -> int:
        return 0

    patch.setattr(Removal, "work", nothing)


def _carried_by_another_name(patch: pytest.MonkeyPatch) -> None:
    """The destination takes the source for another one each time."""
    build = Removal.__init__

    def named(self: Any, source: Any, destination: Any, *, origin: str, **more: Any) -> None:
        build(self, source, destination, origin=f"{origin} {id(self)} {len(_named)}", **more)
        _named.append(self)

    patch.setattr(Removal, "__init__", named)


_named: list[Any] = []


def _open_attempts_stay_open(patch: pytest.MonkeyPatch) -> None:
    """The destination is to find out what an attempt was charged, and has nothing to find it in."""

    async def nothing(*_: Any) -> list[Any]:
        return []

    patch.setattr(migrate, "closed", nothing)


def _open_attempts_cost_nothing(patch: pytest.MonkeyPatch) -> None:
    """Who died mid-attempt has spent nothing, as far as the journal knows."""
    closed = removal.closed

    async def free(*given: Any) -> list[Any]:
        return [msgspec.structs.replace(event, charged=Charge(0, 0, None)) for event in await closed(*given)]

    patch.setattr(migrate, "closed", free)


@pytest.mark.parametrize(
    "mutant",
    [
        None,
        _a_cap_begins_anew,
        _carried_by_another_name,
        _open_attempts_stay_open,
        _open_attempts_cost_nothing,
    ],
    ids=lambda each: getattr(each, "__name__", "none"),
)
def test_a_mutant_is_caught(
    mutant: Callable[[pytest.MonkeyPatch], None] | None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if mutant is not None:
        mutant(monkeypatch)
    assert _right(folder) is (mutant is None)


def test_a_person_is_told_that_it_came_along(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    count = len(look("sqlite:old.db"))
    assert cli.invoke(["runs", "migrate", "--from", "sqlite:old.db", "--to", "sqlite:new.db"]) == 0
    assert f"What was spent came along, in {count} counters." in capsys.readouterr().out
