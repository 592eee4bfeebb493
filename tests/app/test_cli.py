"""The command line, on real SQLite files: in this process where that is enough, in one of its own where it is not."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shipworthy import InMemoryStore
from shipworthy.app import cli
from shipworthy.app.runtimes import SqliteRuntime
from shipworthy.domain.events import AnyEvent
from shipworthy.domain.journal import Batch
from shipworthy.domain.scope import Scope
from shipworthy.rules.codec import encode_event

ROOT = Path(__file__).parents[2]

BOT = """
    import os, signal, sys
    from shipworthy import Agent, DidNotHappen, EchoModel, ScriptedModel, SqliteRuntime, ToolCall, tool

    print("the user's own print")

    @tool(effect="once")
    def charge(amount: int) -> str:
        "Charge."
        if os.environ.get("DIE"):
            os.kill(os.getpid(), signal.SIGKILL)
        if amount > 100:
            raise RuntimeError("the line went dead")
        with open("effects", "a") as file:
            file.write("charged\\n")
        return "charged"

    runtime = SqliteRuntime("bot.db")

    def scripted(amount):
        script = [["Let me see. ", ToolCall("charge", {"amount": amount})], "It is paid."]
        return Agent("Pay.", model=ScriptedModel(script), tools=[charge], runtime=runtime, name="bot")

    agent = scripted(50)
    doubtful = scripted(500)
    echo = Agent("x" * 5000, model=EchoModel(), runtime=runtime, name="echo")
    failing = Agent(model=ScriptedModel([ValueError("no model today")]), runtime=runtime)
    number = 17

    def make():
        return echo

    def broken():
        raise KeyError("no settings")

    async def late():
        return echo
"""

Invoke = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a bot in it, as the current one, whatever it leaves in this process taken back."""
    (tmp_path / "bot.py").write_text(textwrap.dedent(BOT))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("bot", None)


@pytest.fixture
def invoke(folder: Path, capsys: pytest.CaptureFixture[str]) -> Invoke:
    """Exit code, stdout and stderr of a command, each with the bot imported anew."""

    def call(*arguments: str) -> tuple[int, str, str]:
        for name in ("bot", "_shipworthy_target_bot"):
            sys.modules.pop(name, None)
        capsys.readouterr()
        code = cli.invoke(arguments)
        out, err = capsys.readouterr()
        return code, out, err

    return call


ADA = ("--tenant", "acme", "--user", "ada", "--session", "s1")
STORE = ("--store", "sqlite:bot.db")


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


def process(folder: Path, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    more = options.pop("env", {})
    command = [sys.executable, "-m", "shipworthy.app.cli", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment(**more), capture_output=True, text=True, timeout=60, **options
    )


def effects(folder: Path) -> int:
    file = folder / "effects"
    return len(file.read_text().splitlines()) if file.exists() else 0


# --- run --------------------------------------------------------------------------------------


def test_run_prints_the_output(invoke: Invoke) -> None:
    code, out, _ = invoke("run", "bot:agent", "Pay 50.", *ADA)

    assert code == 0
    assert out == "the user's own print\nIt is paid.\n"


def test_run_finds_an_agent_in_a_file_and_behind_a_function(invoke: Invoke, folder: Path) -> None:
    assert invoke("run", str(folder / "bot.py") + ":make", "Hello.", *ADA)[:2] == (
        0,
        "the user's own print\nHello.\n",
    )


def test_run_with_json_prints_one_document_and_nothing_else(invoke: Invoke) -> None:
    code, out, err = invoke("run", "bot:agent", "Pay 50.", *ADA, "--run-id", "r1", "--json")

    document = json.loads(out)
    assert code == 0
    assert "the user's own print" in err
    assert (document["run_id"], document["tenant"], document["status"]) == ("r1", "acme", "completed")
    assert document["output"] == "It is paid."
    assert document["usage"]["requests"] == 2


def test_the_same_run_id_gives_the_same_run(invoke: Invoke, folder: Path) -> None:
    first, again = [
        json.loads(invoke("run", "bot:agent", "Pay 50.", *ADA, "--run-id", "r1", "--json")[1])
        for _ in range(2)
    ]

    assert first["seq"] == again["seq"]
    assert effects(folder) == 1


def test_run_with_json_and_stream_prints_a_line_for_each_item(invoke: Invoke) -> None:
    code, out, _ = invoke("run", "bot:agent", "Pay 50.", *ADA, "--json", "--stream")

    lines = [json.loads(line) for line in out.splitlines()]
    events = [line["event"] for line in lines if "event" in line]
    assert code == 0
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert (
        "".join([line["delta"].get("text", "") for line in lines if "delta" in line])
        == "Let me see. It is paid."
    )
    assert lines[-1]["result"]["status"] == "completed"


def test_run_streams_text(invoke: Invoke) -> None:
    assert invoke("run", "bot:agent", "Pay 50.", *ADA, "--stream")[1].endswith("Let me see. \nIt is paid.\n")


def test_run_reads_the_prompt_from_stdin(folder: Path) -> None:
    done = process(folder, "run", "bot:echo", "-", *ADA, input="from a pipe")

    assert done.stdout.endswith("from a pipe\n")


def test_a_run_that_pauses_says_what_to_do(invoke: Invoke) -> None:
    code, out, err = invoke("run", "bot:doubtful", "Pay 500.", *ADA, "--run-id", "r1")

    assert code == 3
    assert "runs resume r1 --tenant acme --agent bot:doubtful --settle call_" in err
    assert out == "the user's own print\n"


def test_a_run_that_fails_says_why(invoke: Invoke) -> None:
    code, _, err = invoke("run", "bot:failing", "Hello.", *ADA)

    assert code == 1
    assert "no model today" in err
    assert "Traceback" not in err


def test_ctrl_c_cancels_the_run_and_records_it(folder: Path) -> None:
    (folder / "slow.py").write_text(
        textwrap.dedent("""
            import time
            from shipworthy import Agent, ScriptedModel, ToolCall, tool

            @tool(effect="read")
            async def wait() -> str:
                "Wait."
                import asyncio
                print("inside", flush=True)
                await asyncio.sleep(60)

            model = ScriptedModel([ToolCall("wait"), "Done."])
            agent = Agent(model=model, tools=[wait], runtime="sqlite:bot.db")
        """)
    )
    command = [
        sys.executable,
        "-m",
        "shipworthy.app.cli",
        "run",
        "slow:agent",
        "Wait.",
        *ADA,
        "--run-id",
        "r1",
    ]
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        ),  # a shell's job in the background ignores it
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "inside\n"
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=30)

    assert running.returncode == 130
    assert "Traceback" not in err
    shown = json.loads(process(folder, "runs", "show", "r1", "--tenant", "acme", *STORE, "--json").stdout)
    assert shown["run"]["status"] == "cancelled"


def test_a_prompt_that_is_not_text_is_refused(folder: Path) -> None:
    command = [sys.executable, "-m", "shipworthy.app.cli", "run", "bot:echo", "-", *ADA, "--json"]
    done = subprocess.run(
        command, cwd=folder, env=environment(), input=b"caf\xe9", capture_output=True, timeout=60
    )

    assert done.returncode == 1
    assert json.loads(done.stdout)["error"]["type"] == "InvalidPrompt"


# --- errors -----------------------------------------------------------------------------------

MISTAKES = {
    "no colon": (("run", "bot", "hi"), "does not say where"),
    "no module": (("run", "nowhere:agent", "hi"), "no module 'nowhere'"),
    "no file": (("run", "nowhere.py:agent", "hi"), "no file nowhere.py"),
    "no attribute": (("run", "bot:agnet", "hi"), "It has: agent, doubtful, echo"),
    "not an agent": (("run", "bot:number", "hi"), "is a int, not an Agent"),
    "a function that raises": (("run", "bot:broken", "hi"), "raised KeyError: 'no settings'"),
    "an async function": (("run", "bot:late", "hi"), "is an async function"),
    "an empty prompt": (("run", "bot:echo", " ", *ADA), "prompt is empty"),
    "a user without a tenant": (
        ("run", "bot:echo", "hi", "--user", "ada"),
        "user_id was given without tenant_id",
    ),
    "no such database": (
        ("runs", "list", "--tenant", "acme", "--store", "sqlite:no.db"),
        "no database at no.db",
    ),
    "no such kind of store": (("runs", "list", "--tenant", "acme", "--store", "redis:x"), "is not a runtime"),
    "a tenant that is no text": (
        ("runs", "list", "--tenant", "\udcff", *STORE),
        "is empty, or no valid text",
    ),
    "a run id that is no text": (("runs", "show", "\udcff", "--tenant", "acme", *STORE), "is not a text"),
    "no store": (("runs", "list", "--tenant", "acme"), "Which store?"),
    "two stores": (("runs", "list", "--tenant", "acme", *STORE, "--agent", "bot:echo"), "Which store?"),
    "no date": (("runs", "prune", "--before", "soon", *STORE), "neither an age nor a date"),
    "no verdict": (
        ("runs", "resume", "r", "--tenant", "acme", "--agent", "bot:echo", "--settle", "c=maybe"),
        "settles nothing",
    ),
    "no JSON": (
        ("runs", "resume", "r", "--tenant", "acme", "--agent", "bot:echo", "--settle", "c=happened:{"),
        "not JSON",
    ),
}


@pytest.mark.parametrize(("arguments", "says"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_said_in_words_and_in_json(
    invoke: Invoke, arguments: tuple[str, ...], says: str
) -> None:
    code, out, err = invoke(*arguments)
    assert code == 1
    assert says in err.replace("\n", " ")
    assert "fix:" in err
    assert "Traceback" not in err

    code, out, err = invoke(*arguments, "--json")
    error = json.loads(out)["error"]
    assert code == 1
    assert says in error["what"]
    assert error["fix"]
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def f(:", "SyntaxError"),
        ("import not_installed_anywhere", "needs 'not_installed_anywhere', which is not installed"),
        ("raise SystemExit(0)", "SystemExit"),
        ("from shipworthy import tool\n@tool\ndef f(): ...", "does not say what repeating it means"),
    ],
)
def test_a_module_that_cannot_be_imported_is_named_with_its_line(
    invoke: Invoke, folder: Path, source: str, says: str
) -> None:
    (folder / "badly.py").write_text(f"# a comment\n{source}\n")
    for place in ("badly", "badly.py"):
        sys.modules.pop("badly", None)
        code, _, err = invoke("run", f"{place}:agent", "hi")
        assert code == 1
        assert says in err.replace("\n", " ")
        assert "Traceback" not in err
        assert "line 2" in err or "tool" in source


@pytest.mark.parametrize(
    "arguments", [("run",), ("runs", "show", "r1"), ("no-such",), ("runs", "list", "-t", "a", "--limit", "x")]
)
def test_wrong_usage_has_an_exit_code_of_its_own(invoke: Invoke, arguments: tuple[str, ...]) -> None:
    assert invoke(*arguments)[0] == 2
    code, out, _ = invoke(*arguments, "--json")
    assert code == 2
    assert json.loads(out)["error"]["type"] == "UsageError"


def test_looking_creates_no_database(invoke: Invoke, folder: Path) -> None:
    invoke("runs", "list", "--tenant", "acme", "--store", "sqlite:typo.db")

    assert not list(folder.glob("typo*"))


# --- runs -------------------------------------------------------------------------------------


def test_runs_are_listed_by_tenant(invoke: Invoke) -> None:
    invoke("run", "bot:agent", "Pay 50.", *ADA, "--run-id", "r1")
    invoke("run", "bot:echo", "Hello.", "--tenant", "other", "--run-id", "r2")

    def listed(*arguments: str) -> list[str]:
        return [run["run_id"] for run in json.loads(invoke("runs", "list", *arguments, "--json")[1])["runs"]]

    assert listed("--tenant", "acme", *STORE) == ["r1"]
    assert listed("--tenant", "other", "--agent", "bot:echo") == ["r2"]
    assert listed("--tenant", "acme", *STORE, "--status", "failed") == []
    assert listed("--tenant", "acme", *STORE, "--user", "bob") == []
    assert listed("--tenant", "nobody", *STORE) == []
    assert listed("--tenant", "acme", *STORE, "--before", "1h") == []
    table = invoke("runs", "list", "--tenant", "acme", *STORE)[1]
    assert "r1" in table
    assert "completed" in table


def test_a_name_in_a_listing_is_shown_as_it_is_and_never_as_markup(invoke: Invoke) -> None:
    invoke("run", "bot:echo", "Hello.", "--tenant", "acme", "--user", "[/b]", "--run-id", "[red]:ok:")

    code, out, _ = invoke("runs", "list", "--tenant", "acme", *STORE)

    assert code == 0
    assert "[red]:ok:" in out
    assert "[/b]" in out


def test_show_prints_a_timeline(invoke: Invoke) -> None:
    invoke("run", "bot:agent", "Pay 50.", *ADA, "--run-id", "r1")

    code, out, _ = invoke("runs", "show", "r1", "--tenant", "acme", *STORE)
    shown = json.loads(invoke("runs", "show", "r1", "--tenant", "acme", *STORE, "--json")[1])

    assert code == 0
    kinds = [line.split()[2] for line in out.splitlines() if line.strip()[:1].isdigit()]
    assert kinds == [event["kind"] for event in shown["events"]]
    assert 'charge({"amount":50})' in out
    assert "charge, attempt 1" in out
    assert max(map(len, out.splitlines())) <= 100


def test_what_a_tool_says_cannot_move_the_cursor(invoke: Invoke) -> None:
    invoke("run", "bot:echo", "\x1b[2Jgone\r\nand back", *ADA, "--run-id", "r1")

    assert "\x1b" not in invoke("runs", "show", "r1", "--tenant", "acme", *STORE)[1]


def test_a_foreign_run_is_answered_like_an_unknown_one(invoke: Invoke) -> None:
    invoke("run", "bot:agent", "Pay 50.", *ADA, "--run-id", "r1")

    for command in (("show", *STORE), ("export", *STORE), ("resume", "--agent", "bot:agent")):
        name, *rest = command
        foreign = invoke("runs", name, "r1", "--tenant", "other", *rest)
        unknown = invoke("runs", name, "r9", "--tenant", "other", *rest)
        assert foreign[0] == unknown[0] == 1
        assert foreign[1].replace("r1", "r9") == unknown[1]
        assert foreign[2].replace("r1", "r9") == unknown[2]


def test_a_person_settles_a_call_in_doubt(invoke: Invoke, folder: Path) -> None:
    paused = json.loads(invoke("run", "bot:doubtful", "Pay 500.", *ADA, "--run-id", "r1", "--json")[1])
    call = paused["pending"][0]["call_id"]
    resume = ("runs", "resume", "r1", "--tenant", "acme", "--agent", "bot:doubtful")

    assert paused["status"] == "paused"
    assert call in invoke("runs", "show", "r1", "--tenant", "acme", *STORE)[1]
    assert invoke(*resume)[0] == 3
    assert invoke(*resume, "--settle", "other=happened")[0] == 1
    code, out, _ = invoke(*resume, "--settle", f'{call}=happened:{{"receipt": 7}}', "--json")

    assert code == 0
    assert json.loads(out)["output"] == "It is paid."
    assert effects(folder) == 0
    events = json.loads(invoke("runs", "show", "r1", "--tenant", "acme", *STORE, "--json")[1])["events"]
    settled = next(event for event in events if event["kind"] == "tool_settled")
    assert (settled["by"], settled["happened"]) == ("person", True)
    assert settled["content"][0]["text"] == '{"receipt":7}'


def test_orphans_are_recovered_and_their_doubts_kept(folder: Path) -> None:
    died = process(folder, "run", "bot:agent", "Pay 50.", *ADA, "--run-id", "r1", env={"DIE": "1"})
    recover = ("runs", "recover", "--agent", "bot:agent", "--json")
    others = process(folder, "runs", "recover", "--agent", "bot:echo", "--json")
    first = process(folder, *recover)
    again = process(folder, *recover)

    assert died.returncode == -signal.SIGKILL
    assert json.loads(others.stdout) == {"recovered": []}
    assert first.returncode == 3
    outcome = json.loads(first.stdout)["recovered"][0]
    assert (outcome["run_id"], outcome["tenant"], outcome["status"]) == ("r1", "acme", "paused")
    assert json.loads(again.stdout) == {"recovered": []}
    assert effects(folder) == 0


def test_prune_forgets_what_ended_before(invoke: Invoke) -> None:
    invoke("run", "bot:agent", "Pay 50.", *ADA)

    assert json.loads(invoke("runs", "prune", "--before", "1d", *STORE, "--json")[1])["forgotten"] == 0
    assert (
        json.loads(invoke("runs", "prune", "--before", "2999-01-01", *STORE, "--json")[1])["forgotten"] == 1
    )
    assert json.loads(invoke("runs", "list", "--tenant", "acme", *STORE, "--json")[1]) == {"runs": []}


# --- export -----------------------------------------------------------------------------------


def exported(text: str) -> tuple[list[AnyEvent], dict[str, bytes]]:
    """Events and bodies of an export, as a reader of its documentation would take them."""
    lines = [json.loads(line) for line in text.splitlines()]
    events = msgspec.convert([line["event"] for line in lines if line["type"] == "event"], list[AnyEvent])
    bodies = {line["digest"]: line["text"].encode() for line in lines if line["type"] == "body"}
    end = {"type": "end", "events": len(events), "bodies": len(bodies)}
    assert lines[0]["type"] == "run"
    assert lines[-1] == end
    return events, bodies


async def stored(path: Path, run_id: str, digests: list[str]) -> tuple[list[AnyEvent], dict[str, bytes]]:
    store = SqliteRuntime(path).store
    scope = Scope("acme")
    await store.open()
    try:
        events = await store.read(scope, run_id)
        return events, {digest: await store.body(scope, run_id, digest) for digest in digests}
    finally:
        await store.close()


def test_an_export_has_the_whole_run(invoke: Invoke, folder: Path) -> None:
    invoke("run", "bot:echo", "y" * 9000, *ADA, "--run-id", "r1")

    code, out, _ = invoke("runs", "export", "r1", "--tenant", "acme", *STORE)
    events, bodies = exported(out)
    kept = asyncio.run(stored(folder / "bot.db", "r1", list(bodies)))

    assert code == 0
    assert len(bodies) >= 2  # the instructions and the prompt
    assert [encode_event(event) for event in events] == [encode_event(event) for event in kept[0]]
    assert bodies == kept[1]

    async def imported() -> list[AnyEvent]:
        store = InMemoryStore()
        await store.open()
        await store.begin(Scope("acme", "ada", "s1"), "r1", Batch(events, bodies, "completed", True))
        return await store.read(Scope("acme"), "r1")

    assert asyncio.run(imported()) == events


def test_an_export_replaces_no_file(invoke: Invoke, folder: Path) -> None:
    invoke("run", "bot:echo", "Hello.", *ADA, "--run-id", "r1")
    export = ("runs", "export", "r1", "--tenant", "acme", *STORE, "--output", "r1.jsonl")

    assert invoke(*export)[0] == 0
    exported((folder / "r1.jsonl").read_text())
    assert invoke(*export)[0] == 1


# --- chat -------------------------------------------------------------------------------------


def test_chat_stays_in_one_session(folder: Path) -> None:
    done = process(
        folder, "chat", "bot:echo", "-t", "acme", "-u", "ada", "-s", "s9", "--json", input="one\n\ntwo\n"
    )

    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0
    assert [(r["output"], r["session"]) for r in results] == [("one", "s9"), ("two", "s9")]


def test_a_call_in_doubt_is_settled_in_the_chat(folder: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "shipworthy.app.cli",
        "chat",
        "bot:doubtful",
        "-t",
        "a",
        "-u",
        "b",
        "--json",
    ]
    with subprocess.Popen(
        command, cwd=folder, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as chat:
        assert chat.stdin is not None
        assert chat.stdout is not None
        chat.stdin.write("Pay 500.\n")
        chat.stdin.flush()
        paused = json.loads(chat.stdout.readline())
        chat.stdin.write(f"/settle {paused['pending'][0]['call_id']}=happened\n/settle x=happened\n")
        chat.stdin.close()
        settled, refused = [json.loads(line) for line in chat.stdout]

    assert paused["status"] == "paused"
    assert settled["output"] == "It is paid."
    assert "No run waits" in refused["error"]["what"]


# --- weight -----------------------------------------------------------------------------------


def test_the_command_line_is_light_until_a_command_needs_more() -> None:
    code = "import sys, shipworthy.app.cli; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )

    heavy = {"rich", "pydantic", "apsw", "asyncio", "shipworthy.app.agent", "shipworthy.engine"}
    assert not heavy & set(done.stdout.split())


def test_the_version_is_printed(invoke: Invoke) -> None:
    import shipworthy

    assert invoke("--version")[1] == f"{shipworthy.__version__}\n"
