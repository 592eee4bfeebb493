"""`shipworthy memory`, on real stores: what it shows is one partition's, and what it erases is gone."""

from __future__ import annotations

import asyncio
import json
import sys
import textwrap
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from shipworthy import Agent, FakeEmbedder, ScriptedModel
from shipworthy.app import cli
from shipworthy.app.commands import memories as commands
from shipworthy.app.commands import opening_memory
from shipworthy.app.memories import PostgresMemory, SqliteMemory
from shipworthy.domain.scope import Scope
from shipworthy.engine.memory.memory import Memory
from shipworthy.errors import EmbedderChanged

BOT = """
    import os
    from shipworthy import Agent, FakeEmbedder, ScriptedModel, SqliteMemory, SqliteRuntime

    class Counted(FakeEmbedder):
        limit, left = 2, int(os.environ.get("LEFT", "1000"))

        async def embed(self, texts, purpose="document"):
            if Counted.left < len(texts):
                raise KeyboardInterrupt
            Counted.left -= len(texts)
            return await super().embed(texts, purpose)

    def made(memory):
        model = ScriptedModel(["It is in the book."])
        return Agent(model=model, runtime=SqliteRuntime("bot.db"), memory=memory, name="bot")

    def agent():
        return made(SqliteMemory("bot.db", embedder=None))

    def near():
        return made(SqliteMemory("bot.db", embedder=Counted({}, otherwise=[1.0, 0.0])))

    bare = made(None)
    forgetful = made("inmemory")
"""
STORE = "sqlite:bot.db"
ALICE, BOB = Scope("acme", "alice"), Scope("acme", "bob")
OF_ALICE = ("--tenant", "acme", "--user", "alice")
OF_BOB = ("--tenant", "acme", "--user", "bob")

Invoke = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a bot in it, as the current one."""
    (tmp_path / "bot.py").write_text(textwrap.dedent(BOT))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("bot", None)


@pytest.fixture
def invoke(folder: Path, capsys: pytest.CaptureFixture[str]) -> Invoke:
    """Exit code, stdout and stderr of a command, each with the bot imported anew."""

    def call(*arguments: str) -> tuple[int, str, str]:
        sys.modules.pop("bot", None)
        capsys.readouterr()
        code = cli.invoke(arguments)
        out, err = capsys.readouterr()
        return code, out, err

    return call


def shown(invoke: Invoke, *arguments: str) -> dict[str, Any]:
    code, out, err = invoke("memory", *arguments, "--json")
    assert code == 0, (out, err)
    return json.loads(out)


def with_memory(work: Callable[[Memory], Coroutine[Any, Any, None]], memory: Memory | None = None) -> None:
    async def go() -> None:
        kept = SqliteMemory("bot.db", embedder=None) if memory is None else memory
        await work(kept)
        await kept.close()

    asyncio.run(go())


async def say(memory: Memory) -> None:
    """What the tests find."""
    await memory.remember(ALICE, "Alice likes quinces.", id="one", at=1_000_000_000_000)
    await memory.remember(ALICE, "Alice bought a ladder.", id="two")
    await memory.remember(Scope("acme", "alice", "trip"), "A quince tart in Rome.", id="three")
    await memory.remember(BOB, "Bob keeps bees.", id="one")
    await memory.remember(Scope("umbrella", "alice"), "This Alice fears bees.", id="one")
    await memory.set_block(ALICE, "tone", "Be brief with quince growers.")


async def believe(memory: Memory) -> None:
    await memory.facts.add(ALICE, "Alice", "lives in", "Rome", single=True)
    await memory.facts.add(ALICE, "Alice", "lives in", "Turin", single=True)
    await memory.facts.add(ALICE, "Alice", "may like", "figs", confidence=0.3)


# looking


def test_list_shows_one_partition_and_names_those_within_it(invoke: Invoke) -> None:
    with_memory(say)

    alice = shown(invoke, "list", STORE, *OF_ALICE)
    tenant = shown(invoke, "list", STORE, "--tenant", "acme")
    code, out, _ = invoke("memory", "list", STORE, *OF_ALICE, "--limit", "1")

    assert [each["id"] for each in alice["episodes"]] == ["one", "two"]
    assert [each["name"] for each in alice["blocks"]] == ["tone"]
    assert [each["session"] for each in alice["partitions"]] == ["trip"]
    assert (len(tenant["partitions"]), tenant["episodes"]) == (3, [])
    assert (code, "2 episodes, the newest 1" in out, "ladder" in out, "likes" in out) == (
        0,
        True,
        True,
        False,
    )


def test_facts_that_are_believed_no_more_or_not_surely_are_shown_when_asked_for(invoke: Invoke) -> None:
    with_memory(believe)

    def objects(*options: str) -> list[str]:
        return [each["object"] for each in shown(invoke, "list", STORE, *OF_ALICE, *options)["facts"]]

    assert objects() == ["Turin"]
    assert sorted(objects("--superseded")) == ["Rome", "Turin"]
    assert sorted(objects("--quarantined")) == ["Turin", "figs"]
    _, out, _ = invoke("memory", "list", STORE, *OF_ALICE, "--superseded", "--quarantined")
    assert "Alice lives in Rome [superseded]" in out
    assert "figs [quarantined, confidence 0.3]" in out


@pytest.mark.parametrize("command", ["list", "search", "export", "forget", "erase"])
def test_without_a_tenant_nothing_is_shown_or_forgotten(command: str, invoke: Invoke) -> None:
    with_memory(say)
    more = {"search": ["quinces"], "forget": ["--id", "one"], "erase": ["--yes"]}.get(command, [])

    code, out, err = invoke("memory", command, STORE, *more)

    assert (code, out) == (2, "")
    assert "tenant" in err
    assert len(shown(invoke, "list", STORE, *OF_ALICE)["episodes"]) == 2


def test_all_partitions_are_named_for_an_operator_and_nothing_in_them_is_shown(invoke: Invoke) -> None:
    with_memory(say)

    code, out, _ = invoke("memory", "list", STORE, "--all")

    assert code == 0
    assert sorted(out.splitlines()) == [
        "acme / alice",
        "acme / alice / trip",
        "acme / bob",
        "umbrella / alice",
    ]
    assert invoke("memory", "list", STORE, "--all", "--tenant", "acme")[0] == 2
    assert invoke("memory", "list", STORE, "--all", "--user", "alice")[0] == 2
    assert "There are more" in invoke("memory", "list", STORE, "--all", "--limit", "2")[2]


def test_search_says_what_is_recalled_and_why(invoke: Invoke) -> None:
    with_memory(say)

    [found] = shown(invoke, "search", STORE, "which quince?", *OF_ALICE)["found"]
    _, out, err = invoke("memory", "search", STORE, "quince", *OF_ALICE)

    assert (found["id"], found["why"]) == ("one", {"words": 1, "vector": None, "nearness": None})
    assert "words 1" in out
    assert "Alice likes quinces." in out
    assert err == "Searched by words.\n"
    assert "Nothing in acme / bob" in invoke("memory", "search", STORE, "quince", *OF_BOB)[1]


def test_vectors_are_searched_by_the_embedder_that_made_them_or_not_at_all(invoke: Invoke) -> None:
    with_memory(say, SqliteMemory("bot.db", embedder=FakeEmbedder({}, otherwise=[1.0, 0.0])))

    by_agent = shown(invoke, "search", "bot:near", "quince", *OF_ALICE)
    by_address = shown(invoke, "search", STORE, "quince", *OF_ALICE)
    code, _, err = invoke("memory", "search", "bot:agent", "quince", *OF_ALICE)

    assert by_agent["by"] == "words and vectors"
    assert by_agent["found"][0]["why"]["vector"] == 1
    assert by_address["by"].startswith("words: its vectors are of fake")
    assert by_address["found"][0]["why"]["vector"] is None
    assert code == 0
    assert "of fake" in err


def test_text_is_shown_as_it_is_and_never_as_markup(invoke: Invoke) -> None:
    async def work(memory: Memory) -> None:
        await memory.remember(Scope("acme", "[/b]"), "[red]stop[/x] :warning: \x1b[31m")

    with_memory(work)
    code, out, _ = invoke("memory", "list", STORE, "--tenant", "acme", "--user", "[/b]")

    assert code == 0
    assert "[red]stop[/x] :warning: [31m" in out
    assert "[/b]" in invoke("memory", "list", STORE, "--all")[1]


# nobody else's


def leaks(invoke: Invoke) -> list[str]:
    """Where what is Alice's comes out for others."""
    seen = []
    for who in (OF_BOB, ("--tenant", "umbrella"), (*OF_BOB, "--session", "trip")):
        for command in (("list", STORE, "--json"), ("search", STORE, "quinces"), ("export", STORE)):
            _, out, err = invoke("memory", *command, *who)
            seen += [f"{command[0]} {who}"] if "likes quinces" in out + err else []
        invoke("memory", "forget", STORE, *who, "--id", "two", "--yes")
        invoke("memory", "forget", STORE, *who, "--query", "quinces", "--yes")
        invoke("memory", "erase", STORE, *who, "--yes")
    if len(shown(invoke, "list", STORE, *OF_ALICE)["episodes"]) != 2:
        seen.append("forgotten by others")
    return seen


def test_what_is_somebodys_is_neither_shown_to_others_nor_forgotten_by_them(invoke: Invoke) -> None:
    with_memory(say)

    assert leaks(invoke) == []


def test_a_command_that_takes_another_scope_is_caught(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_memory(say)
    monkeypatch.setattr(commands, "whose", lambda tenant, user, session: Scope("acme", user or "alice"))

    assert leaks(invoke) != []


# exporting


def test_an_export_is_whole_and_says_so_at_its_end(invoke: Invoke, folder: Path) -> None:
    with_memory(say)
    with_memory(believe)

    code, out, _ = invoke("memory", "export", STORE, *OF_ALICE)
    first, *things, last = [json.loads(line) for line in out.splitlines()]

    assert code == 0
    assert (first["type"], first["export"], first["user"]) == ("memory", 1, "alice")
    assert last == {"type": "end", "episodes": 3, "facts": 3, "blocks": 1}
    assert {each["partition"]["session"] for each in things if each["type"] == "episode"} == {None, "trip"}
    assert {"superseded_by", "valid_from", "quarantined"} <= next(
        t for t in things if t["type"] == "fact"
    ).keys()
    assert "bees" not in out

    assert invoke("memory", "export", STORE, *OF_ALICE, "-o", "alice.jsonl")[0] == 0
    assert len((folder / "alice.jsonl").read_text().splitlines()) == 9
    code, _, err = invoke("memory", "export", STORE, *OF_ALICE, "-o", "alice.jsonl")
    assert code == 1
    assert "File exists" in err


def test_an_export_that_could_not_be_finished_leaves_no_file(
    invoke: Invoke, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_memory(say)

    async def broken(*_: Any) -> Any:
        yield ALICE, None

    monkeypatch.setattr(opening_memory.Looked, "export", broken)
    assert invoke("memory", "export", STORE, *OF_ALICE, "-o", "alice.jsonl")[0] == 1
    assert not (folder / "alice.jsonl").exists()


# forgetting


def test_things_are_forgotten_by_id_by_age_and_by_what_they_say(invoke: Invoke) -> None:
    with_memory(say)

    assert shown(invoke, "forget", STORE, *OF_ALICE, "--id", "two", "--id", "nothing") == {"forgotten": 1}
    assert shown(invoke, "forget", STORE, *OF_ALICE, "--query", "ladder", "--yes") == {"forgotten": 0}
    code, out, err = invoke("memory", "forget", STORE, *OF_ALICE, "--query", "quince")
    assert code == 1
    assert "Alice likes quinces." in out
    assert "--yes" in err
    asked = ("forget", STORE, *OF_ALICE, "--query", "quince", "--yes")
    assert shown(invoke, *asked, "--before", "2001-01-01") == {"forgotten": 0}
    assert shown(invoke, *asked, "--before", "2002-01-01") == {"forgotten": 1}
    with_memory(say)
    assert shown(invoke, "forget", STORE, *OF_ALICE, "--before", "2002-01-01") == {"forgotten": 1}
    assert [each["id"] for each in shown(invoke, "list", STORE, *OF_ALICE)["episodes"]] == ["two"]


@pytest.mark.parametrize("options", [(), ("--id", "one", "--before", "1d"), ("--id", "one", "--query", "x")])
def test_what_is_to_be_forgotten_is_said_in_one_way(options: tuple[str, ...], invoke: Invoke) -> None:
    with_memory(say)

    assert invoke("memory", "forget", STORE, *OF_ALICE, *options)[0] == 2


def kept(folder: Path) -> bytes:
    """All bytes of the database."""
    return b"".join([path.read_bytes() for path in folder.glob("bot.db*") if path.is_file()])


def run(invoke: Invoke, target: str, prompt: str, *who: str) -> None:
    assert invoke("run", target, prompt, *who)[0] == 0


def test_erasing_with_an_agent_covers_its_journals(invoke: Invoke, folder: Path) -> None:
    run(invoke, "bot:agent", "I grow medlars.", *OF_ALICE)
    run(invoke, "bot:agent", "I grow figs.", *OF_BOB)

    code, _, err = invoke("memory", "erase", "bot:agent", *OF_ALICE)
    assert code == 1
    assert "--yes" in err
    done = shown(invoke, "erase", "bot:agent", *OF_ALICE, "--yes")["erased"]

    assert (done["records"], done["runs"]) == (2, 1)
    assert b"medlars" not in kept(folder)
    assert b"figs" in kept(folder)


def test_erasing_a_memory_alone_says_that_no_journal_is_covered(invoke: Invoke, folder: Path) -> None:
    run(invoke, "bot:agent", "I grow medlars.", *OF_ALICE)

    code, out, err = invoke("memory", "erase", STORE, *OF_ALICE, "--yes")
    assert (code, "No journal was erased" in out, "--journals" in err) == (0, True, True)
    assert b"medlars" in kept(folder)

    done = shown(invoke, "erase", STORE, *OF_ALICE, "--journals", STORE, "--yes")["erased"]
    assert (done["records"], done["runs"]) == (0, 1)
    assert b"medlars" not in kept(folder)
    assert invoke("memory", "erase", "bot:agent", *OF_ALICE, "--journals", STORE, "--yes")[0] == 1


def test_erasing_needs_no_embedder(invoke: Invoke) -> None:
    with_memory(say, SqliteMemory("bot.db", embedder=FakeEmbedder({}, otherwise=[1.0, 0.0])))

    assert shown(invoke, "erase", STORE, "--tenant", "acme", "--yes")["erased"]["records"] == 5
    assert [each["tenant"] for each in shown(invoke, "list", STORE, "--all")["partitions"]] == ["umbrella"]


# looking configures nothing


def looks(invoke: Invoke) -> None:
    """Look at a store in which nothing is yet, then use it with an embedder."""
    with_memory(lambda memory: memory.store.open())
    for command in (("list", STORE), ("search", STORE, "x"), ("export", STORE), ("erase", STORE, "--yes")):
        assert invoke("memory", *command, "--tenant", "acme")[0] == 0
    with_memory(say, SqliteMemory("bot.db", embedder=FakeEmbedder({}, otherwise=[1.0, 0.0])))


def test_looking_at_an_empty_store_does_not_say_whose_vectors_it_has(invoke: Invoke) -> None:
    looks(invoke)


def test_a_look_that_configures_the_store_is_caught(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening_memory.Looked, "open", Memory.open)

    with pytest.raises(EmbedderChanged):
        looks(invoke)


# reindexing


def test_a_reindex_that_is_interrupted_goes_on_where_it_was(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_memory(say)  # five episodes of four partitions, without vectors
    assert "shipworthy memory reindex" in invoke("run", "bot:near", "Hello, is anybody there?", *OF_ALICE)[2]

    monkeypatch.setenv("LEFT", "4")  # the first says how long the vectors are
    code, _, err = invoke("memory", "reindex", "bot:near")
    assert code == 130
    assert "goes on where this one was" in err

    monkeypatch.setenv("LEFT", "1000")
    again = shown(invoke, "reindex", "bot:near")
    assert again["embedder"] == "fake"
    assert again["changed"] == 5 - 3
    assert shown(invoke, "reindex", "bot:near")["changed"] == 0
    assert shown(invoke, "reindex", STORE, "--embedder", "none") == {
        "memory": f"sqlite:{Path('bot.db').resolve()}",
        "embedder": None,
        "changed": 5,
    }


# bad input


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("list", "sqlite:nothing.db", "--all"), "There is no database"),
        (("list", "inmemory", "--all"), "cannot be seen from outside"),
        (("list", "bot:bare", "--all"), "has no memory"),
        (("list", "bot:forgetful", "--all"), "cannot be seen from outside"),
        (("list", "bot:nobody", "--all"), "has no 'nobody'"),
        (("list", "mysql://somewhere", "--all"), "'mysql' is neither a memory nor an agent"),
        (("list", "bot.db", "--all"), "'bot.db' is neither a memory nor an agent"),
        (("list", STORE, "--tenant", " "), "--tenant ' ' is empty"),
        (("list", STORE, "--tenant", "acme", "--session", "s"), "A session belongs to a user"),
        (("search", STORE, "x", "--tenant", "acme", "--embedder", "word2vec"), "No embedder is named"),
        (("search", "bot:agent", "x", "--tenant", "acme", "--embedder", "none"), "has its own embedder"),
        (("forget", STORE, "--tenant", "acme", "--before", "long ago"), "neither an age nor a date"),
        (("reindex", STORE), "Whose vectors?"),
        (("reindex", "bot:agent", "--embedder", "none"), "has its own embedder"),
        (("erase", STORE, "--tenant", "acme", "--journals", "redis://h"), "not a runtime"),
    ],
)
def test_bad_input_is_refused_with_what_to_do(arguments: tuple[str, ...], says: str, invoke: Invoke) -> None:
    with_memory(say)

    code, _, err = invoke("memory", *arguments)

    assert code == 1
    assert says in err
    assert "fix: " in err


@pytest.mark.parametrize(
    "address",
    [
        "postgres://bot:hunter2@127.0.0.1:1/bot?connect_timeout=1",
        "redis://bot:hunter2@127.0.0.1:99999/0",
        "postgres://bot:hunter2@:::/",
        "mysql://bot:hunter2@127.0.0.1/bot",
    ],
)
def test_no_password_of_an_address_is_shown(address: str, invoke: Invoke) -> None:
    for form in ((), ("--json",)):
        code, out, err = invoke("memory", "list", address, "--all", *form)
        assert code == 1
        assert "hunter2" not in out + err


# on a server


def test_the_commands_work_on_postgres(invoke: Invoke, database: str) -> None:
    with_memory(say, PostgresMemory(database, embedder=None))

    async def runs() -> None:
        agent = Agent(
            model=ScriptedModel(["It is in the book."]),
            runtime=database,
            memory=PostgresMemory(database, embedder=None),
        )
        await agent.run("I grow medlars.", tenant_id="acme", user_id="alice")
        await agent.close()

    asyncio.run(runs())
    [found] = shown(invoke, "search", database, "quinces", *OF_ALICE)["found"]
    assert found["text"] == "Alice likes quinces."
    lines = invoke("memory", "export", database, *OF_ALICE)[1].splitlines()
    assert json.loads(lines[-1]) == {"type": "end", "episodes": 5, "facts": 0, "blocks": 1}
    done = shown(invoke, "erase", database, *OF_ALICE, "--journals", database, "--yes")["erased"]
    assert (done["records"], done["runs"]) == (6, 1)
    assert any("vacuum" in sentence.lower() for sentence in done["remains"])
    assert len(shown(invoke, "list", database, "--tenant", "acme")["partitions"]) == 1
