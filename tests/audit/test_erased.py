"""Erasing somebody where their agent is not: what of their audit log goes, what stays, and that both are said."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

import shipworthy.adapters.sqlite.audit as on_sqlite
from shipworthy import InMemoryMemory, Scope, ScriptedModel, ToolCall
from shipworthy.app import cli
from shipworthy.engine.erasing import LOG_ELSEWHERE, JournalsErased, erase_journals
from shipworthy.engine.memory.erasing import NO_LOGS
from tests.audit.evidence import ALICE, Kind, Place
from tests.servers.postgres import Postgres

go = asyncio.run
BOB: dict[str, Any] = {"tenant_id": "acme", "user_id": "bob"}
HERS = Scope("acme", "alice")
WORDS = b"I like quinces."


@pytest.fixture(scope="module")
def dsn(postgres: Postgres) -> Iterator[str]:
    made = postgres.fresh_database()
    yield made
    postgres.drop_database(made)


async def lived(place: Place) -> int:
    """Alice and Bob were there; how many bodies hers have, and none is wanting."""
    async with place.agent("Yes.", "Yes.") as agent:
        await agent.run(WORDS.decode(), **ALICE, run_id=f"hers {place.name}")
        await agent.run("I am Bob.", **BOB)
    place.sound()
    return len([each for each in place.told() if each.body and each.entry.user == "alice"])


def bytes_of(folder: Path) -> bytes:
    return b"".join([path.read_bytes() for path in folder.iterdir() if path.is_file()])


def is_erased(place: Place, hers: int) -> None:
    """Her bodies and nobody else's, and the log verifies."""
    report = place.report()
    assert (report.verdict, report.bodies.erased, report.bodies.missing) == ("ok", hers, 0)
    assert {each.entry.user for each in place.told() if each.body} == {"bob"}
    assert f"hers {place.name}" in {each.entry.run for each in place.told()}


def said(done: JournalsErased, name: str) -> tuple[bool, bool]:
    """Whether it is said that the log of this name was told nothing, and that there may be others."""
    return any([repr(name) in each for each in done.remains]), LOG_ELSEWHERE in done.remains


@pytest.mark.parametrize("kind", ["joined", "postgres"])
def test_without_the_agent_the_log_in_the_store_forgets_and_is_named(
    kind: Kind, tmp_path: Path, dsn: str
) -> None:
    place = Place(kind, tmp_path, dsn)
    name = "audit" if kind == "joined" else place.name
    hers = go(lived(place))
    salts = salts_of(place) if kind == "joined" else []
    assert said(go(erase_journals(place.runtime(), HERS)), name) == (True, True)
    is_erased(place, hers)
    assert "person.erased" not in [each.entry.action for each in place.told()]
    assert len(salts) == (hers if kind == "joined" else 0)
    assert not any([left in bytes_of(tmp_path) for left in (WORDS, *salts)])


def salts_of(place: Place) -> list[bytes]:
    """Those of her entries."""
    connection = apsw.Connection(str(place.path))
    found: list[Any] = connection.execute("SELECT line, salt FROM audit_entries").fetchall()
    connection.close()
    return [salt for line, salt in found if salt and b'"user":"alice"' in line]


@pytest.mark.parametrize("kind", ["file", "apart"])
def test_without_the_agent_a_log_elsewhere_keeps_them_and_it_is_said(kind: Kind, tmp_path: Path) -> None:
    place = Place(kind, tmp_path)
    hers = go(lived(place))
    assert said(go(erase_journals(place.runtime(), HERS)), "audit") == (False, True)
    assert WORDS in bytes_of(tmp_path)
    go(with_its_agent(place))  # and it goes where it was told to
    is_erased(place, hers)
    assert WORDS not in bytes_of(tmp_path)


@pytest.mark.parametrize("kind", ["file", "apart", "joined", "postgres"])
def test_with_the_agent_it_is_entered_and_nothing_else_is_to_be_said(
    kind: Kind, tmp_path: Path, dsn: str
) -> None:
    place = Place(kind, tmp_path, dsn)
    hers = go(lived(place))
    done = go(with_its_agent(place))
    assert said(done, place.name if kind == "postgres" else "audit") == (False, False)
    is_erased(place, hers)
    [entered] = [each.entry for each in place.told() if each.entry.action == "person.erased"]
    assert (entered.user, entered.facts["runs"]) == ("alice", 1)


async def with_its_agent(place: Place) -> JournalsErased:
    async with place.agent() as agent:
        return await erase_journals(agent.runtime, HERS)


@pytest.mark.parametrize("kind", ["file", "joined"])
def test_what_was_learned_from_a_session_goes_with_it(kind: Kind, tmp_path: Path) -> None:
    """It was learned in a run of no session."""
    place = Place(kind, tmp_path)

    def turn(request: Any) -> Any:
        return ToolCall("final_answer", {"facts": []}) if "extract facts" in request.instructions else "Yes."

    async def learned() -> None:
        options: dict[str, Any] = {"memory": InMemoryMemory(embedder=None), "auto_extract": True}
        async with place.agent(model=ScriptedModel([turn] * 6), **options) as agent:
            await agent.run(WORDS.decode(), **ALICE, session_id="trip")
            await agent._memory._learning.settle(30)  # type: ignore[union-attr]
            assert {each.entry.session for each in place.told() if each.body} == {"trip", None}
            await erase_journals(agent.runtime, Scope("acme", "alice", "trip"))

    go(learned())
    left = [each for each in place.told() if each.body and each.entry.n]
    assert (left, place.report().bodies.missing) == ([], 0)
    assert WORDS not in bytes_of(tmp_path)


def test_agents_whose_logs_are_not_here_are_named(tmp_path: Path) -> None:
    place = Place("file", tmp_path)

    async def another() -> JournalsErased:
        await lived(place)
        elsewhere = Place("apart", tmp_path)
        async with elsewhere.agent(name="baker") as agent:
            return await erase_journals(agent.runtime, HERS)

    [sentence] = [each for each in go(another()).remains if LOG_ELSEWHERE in each]
    assert "'clerk'" in sentence


def test_an_erasure_that_is_interrupted_is_completed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place("joined", tmp_path)
    hers = go(lived(place))
    monkeypatch.setattr(on_sqlite, "PAGE", 2)
    erase, pages = on_sqlite.erase, [True, False]

    def dies(*args: Any, **options: Any) -> None:
        if not pages.pop(0):
            raise OSError("it dies")
        erase(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(on_sqlite, "erase", dies)
        with pytest.raises(Exception, match="it dies"):
            go(erase_journals(place.runtime(), HERS))
    assert 0 < place.report().bodies.erased < hers
    assert said(go(erase_journals(place.runtime(), HERS)), "audit") == (True, True)
    is_erased(place, hers)


def test_the_command_says_what_logs_were_not_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = Place("joined", tmp_path)
    where = f"sqlite:{place.path}"

    def erased(*options: str) -> Any:
        hers = f"memory erase {where} --tenant acme --user alice --yes --json"
        assert cli.invoke([*hers.split(), *options]) == 0
        return json.loads(capsys.readouterr().out)["erased"]["remains"]

    async def remembers() -> int:
        async with place.agent("Yes.", memory=where, tuning=None) as agent:
            await agent.run(WORDS.decode(), **ALICE)
        await lived(place)
        return len([each for each in place.told() if each.body and each.entry.user == "alice"])

    hers = go(remembers())
    assert NO_LOGS in erased()
    remains = erased("--journals", where)
    assert LOG_ELSEWHERE in remains
    assert any(["'audit'" in each and "`person.erased`" in each for each in remains])
    is_erased(place, hers)
