"""`shipworthy budget`, on real ledgers: what it shows is what runs spent, and what it sets is in force."""

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from shipworthy.app import cli
from shipworthy.app.commands import budgets
from shipworthy.app.commands.accounts import who, window_words
from shipworthy.domain.ledger import Account
from shipworthy.domain.scope import Scope
from shipworthy.errors import InputError
from shipworthy.rules.ledger import account_of

ROOT = Path(__file__).parents[2]

# An answer costs 90 * $3 + 7 * $15 a million tokens = $0.000375.
BOT = """
    import os, sys
    from shipworthy import (
        Agent, BudgetConfig, NoBudget, PriceTable, ScriptedModel, ScriptedTurn, SqliteRuntime, StandardBudget, Usage,
        price_usd,
    )

    turn = ScriptedTurn("Done.", usage=Usage(input_tokens=90, output_tokens=7))
    prices = PriceTable({"scripted": price_usd(input=3, output=15)})
    runtime = os.environ.get("RUNTIME") or SqliteRuntime("bot.db")
    config = BudgetConfig(
        per_user_max_cost_usd=0.5, per_tenant_max_tokens=100_000, global_max_requests=100, max_tokens=50_000,
        window="day", time_zone="Europe/Berlin",
    )

    def with_budget(budget, **more):
        return Agent(model=ScriptedModel([turn]), budget=budget, name="bot", **{"runtime": runtime, **more})

    def plan(scope):
        return BudgetConfig(per_user_max_cost_usd=9 if scope.user == "ada" else 1, max_tokens=50_000, window="month")

    def strict(scope):
        return {"acme": BudgetConfig(global_max_cost_usd=9, window="month")}[scope.tenant]

    strict = with_budget(StandardBudget(strict, prices=prices))
    agent = with_budget(StandardBudget(config, prices=prices, ledger=os.environ.get("LEDGER")))
    planned = with_budget(StandardBudget(plan, prices=prices))
    forgetful = with_budget(StandardBudget(config, prices=prices), runtime=None)
    free = with_budget(NoBudget())
    bare = with_budget(None)

    if __name__ == "__main__":
        for line in sys.stdin:
            result = agent.run_sync("Hello", tenant_id="acme", user_id=line.strip())
            print(result.status, result.stop_reason, flush=True)
"""
LEDGER = ("--ledger", "sqlite:bot.db")
MIA = ("--by", "mia", "--why", "ticket 17")
ADA = ("--per", "user", "--tenant", "acme", "--user", "ada", "--unit", "cost_usd")
COST = 0.000375

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


def spend(invoke: Invoke, *users: str, agent: str = "bot:agent") -> None:
    for user in users:
        tenant, _, name = user.partition("/")
        assert invoke("run", agent, "Hello", "--tenant", tenant, "--user", name)[0] == 0


def shown(invoke: Invoke, *arguments: str) -> dict[str, Any]:
    code, out, err = invoke("budget", *arguments, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


def counter(data: dict[str, Any], unit: str, **of: Any) -> dict[str, Any]:
    [found] = [
        each
        for each in data["counters"]
        if each["unit"] == unit and all([each[name] == value for name, value in of.items()])
    ]
    return found


# --- show ---------------------------------------------------------------------------------------


def test_show_says_what_was_spent_of_which_cap(invoke: Invoke) -> None:
    spend(invoke, "acme/ada", "acme/ada", "acme/bob", "umbrella/ada")

    data = shown(invoke, "show", "bot:agent", "--tenant", "acme")

    ada = counter(data, "cost_usd", user="ada")
    assert (ada["per"], ada["tenant"], ada["spent"], ada["held"]) == ("user", "acme", 2 * COST, 0)
    assert (ada["cap"], ada["overridden"], ada["used"]) == (0.5, False, 2 * COST / 0.5)
    assert counter(data, "tokens", per="tenant")["spent"] == 3 * 97
    assert {each["tenant"] for each in data["counters"]} == {"acme"}
    assert counter(shown(invoke, "show", "bot:agent"), "requests", per="global")["spent"] == 4


def test_show_of_a_user_has_that_user_alone(invoke: Invoke) -> None:
    spend(invoke, "acme/ada", "acme/bob", "umbrella/ada")

    data = shown(invoke, "show", *LEDGER, "--tenant", "acme", "--user", "ada")

    assert [(each["tenant"], each["user"]) for each in data["counters"]] == [("acme", "ada")]


def test_a_person_is_shown_a_table_in_a_hundred_columns(invoke: Invoke) -> None:
    spend(invoke, "acme/ada")
    invoke("budget", "set", "bot:agent", *ADA, "--cap", "0.25", "--by", "mia", "--why", "too much " * 30)

    code, out, _ = invoke("budget", "show", "bot:agent", "--tenant", "acme")

    assert code == 0
    for words in ("user ada", "$0.000375", "$0.25 *", "0.1%", "Europe/Berlin", "100,000", "too much"):
        assert words in out
    assert max(map(len, out.splitlines())) <= 100
    assert "\x1b" not in out


def test_without_the_agent_a_cap_is_unknown_unless_it_was_set(invoke: Invoke) -> None:
    spend(invoke, "acme/ada")

    before = counter(shown(invoke, "show", *LEDGER, "--tenant", "acme"), "cost_usd")
    invoke("budget", "set", "bot:agent", *ADA, "--cap", "2", *MIA)
    after = counter(shown(invoke, "show", *LEDGER, "--tenant", "acme"), "cost_usd")

    assert (before["cap"], before["used"], before["overridden"]) == (None, None, False)
    assert (after["cap"], after["overridden"]) == (2.0, True)


def test_a_plans_caps_are_those_of_each_scope(invoke: Invoke) -> None:
    spend(invoke, "acme/ada", "acme/bob", agent="bot:planned")

    data = shown(invoke, "show", "bot:planned", "--tenant", "acme")

    assert counter(data, "cost_usd", user="ada")["cap"] == 9
    assert counter(data, "cost_usd", user="bob")["cap"] == 1


def test_what_is_not_there_is_said_and_no_error(invoke: Invoke) -> None:
    spend(invoke, "acme/ada")

    assert invoke("budget", "show", "bot:agent", "--tenant", "acme", "--user", "eve")[:2] == (
        0,
        "No counters of eve of acme: nothing was spent.\n",
    )
    assert invoke("budget", "top", "bot:agent", "--per", "session")[0] == 0
    assert shown(invoke, "show", *LEDGER, "--tenant", "eve") == {"counters": [], "changes": []}


@pytest.mark.filterwarnings("ignore::shipworthy.errors.IdentityWarning")
def test_runs_that_name_nobody_have_a_counter_together(invoke: Invoke) -> None:
    for _ in range(2):
        assert invoke("run", "bot:agent", "Hello")[0] == 0
    data = shown(invoke, "show", "bot:agent")

    assert counter(data, "cost_usd", anonymous=True)["spent"] == 2 * COST
    assert (
        invoke(
            "budget",
            "set",
            "bot:agent",
            "--per",
            "user",
            "--anonymous",
            "--unit",
            "cost_usd",
            "--cap",
            "0",
            *MIA,
        )[0]
        == 0
    )
    assert invoke("run", "bot:agent", "Hello")[0] == 4


def test_earlier_windows_are_shown_when_they_are_asked_for() -> None:
    from shipworthy.app.commands.accounts import latest
    from shipworthy.domain.ledger import Balance

    ada = account_of("user", Scope("acme", "ada"))
    days = [Balance(ada, "tokens", "day", start, 1, 0) for start in (1000, 3000, 2000)]

    assert latest(days) == [days[1]]


# --- top ----------------------------------------------------------------------------------------


def test_top_says_who_spent_most_over_all_tenants(invoke: Invoke) -> None:
    spend(invoke, "acme/ada", "umbrella/bob", "umbrella/bob", "acme/eve", "umbrella/bob", "acme/ada")

    data = shown(invoke, "top", "bot:agent", "--limit", "2")

    assert [(each["tenant"], each["user"], each["spent"]) for each in data["counters"]] == [
        ("umbrella", "bob", 0.001125),
        ("acme", "ada", 2 * COST),
    ]
    tenants = shown(invoke, "top", *LEDGER, "--per", "tenant", "--unit", "tokens", "--window", "day")
    assert {each["spent"] for each in tenants["counters"]} == {3 * 97}
    assert shown(invoke, "top", *LEDGER, "--window", "hour") == {"counters": []}
    assert "user bob of umbrella" in invoke("budget", "top", *LEDGER)[1]


# --- set and reset ------------------------------------------------------------------------------


class Running:
    """The bot in a process of its own, which is asked to run and says how it went."""

    def __init__(self, folder: Path, **env: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "bot.py"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), **env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def run(self, user: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{user}\n")
        return self._process.stdout.readline().strip()

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


SPENT = "stopped budget:per_user_max_cost_usd"
DONE = "completed None"


def a_process_obeys_at_once(invoke: Invoke, folder: Path, ledger: tuple[str, ...], **env: str) -> None:
    """What is set, taken back and reset counts for a process that was running before."""
    day = (*ledger, "--window", "day")
    with Running(folder, **env) as bot:
        assert bot.run("ada") == DONE
        assert invoke("budget", "set", *day, *ADA, "--cap", "0.0003", *MIA)[0] == 0
        assert bot.run("ada") == SPENT
        assert bot.run("bob") == DONE
        assert invoke("budget", "set", *day, *ADA, "--remove", "--by", "max", "--why", "a mistake")[0] == 0
        assert bot.run("ada") == DONE
        assert invoke("budget", "set", *day, *ADA, "--cap", "0.0008", *MIA)[0] == 0
        assert bot.run("ada") == SPENT
        assert invoke("budget", "reset", *day, *ADA, "--yes", "--by", "max", "--why", "goodwill")[0] == 0
        assert bot.run("ada") == DONE

    data = shown(invoke, "show", *ledger, "--tenant", "acme", "--user", "ada")
    ada = counter(data, "cost_usd")
    assert (ada["spent"], ada["held"], ada["cap"]) == (COST, 0, 0.0008)
    assert [(each["action"], each["amount"], each["by"], each["why"]) for each in data["changes"]] == [
        ("reset", 2 * COST, "max", "goodwill"),
        ("set", 0.0008, "mia", "ticket 17"),
        ("set", None, "max", "a mistake"),
        ("set", 0.0003, "mia", "ticket 17"),
    ]


def test_a_running_process_obeys_at_once(invoke: Invoke, folder: Path) -> None:
    spend(invoke, "acme/bob")  # the file is there
    a_process_obeys_at_once(invoke, folder, LEDGER)


def test_a_running_process_obeys_at_once_on_redis(invoke: Invoke, folder: Path, redis_url: str) -> None:
    a_process_obeys_at_once(invoke, folder, ("--ledger", redis_url), LEDGER=redis_url)


def test_a_running_process_obeys_at_once_on_postgres(invoke: Invoke, folder: Path, database: str) -> None:
    a_process_obeys_at_once(invoke, folder, ("--ledger", database), RUNTIME=database)


def test_an_override_that_nobody_asks_for_is_seen_not_to_be_obeyed(
    invoke: Invoke, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant: an account that is composed in another way than the engine's."""
    spend(invoke, "acme/bob")
    monkeypatch.setattr(
        budgets, "account_of", lambda level, scope, **_: Account(level, scope.tenant, f"{scope.user}")
    )
    with pytest.raises(AssertionError):
        a_process_obeys_at_once(invoke, folder, LEDGER)


def test_with_the_agent_the_window_need_not_be_said_and_a_wrong_one_is_refused(invoke: Invoke) -> None:
    spend(invoke, "acme/ada")

    done = shown(invoke, "set", "bot:agent", *ADA, "--cap", "1.5", *MIA)
    code, _, err = invoke("budget", "set", "bot:agent", *ADA, "--window", "hour", "--cap", "1", *MIA)

    assert (done["set"]["window"], done["set"]["cap"], done["set"]["by"]) == ("day", 1.5, "mia")
    assert code == 1
    assert "does not limit cost_usd per user (hour)" in err
    assert "per_user_max_cost_usd (day)" in err


def test_a_cap_of_who_was_never_seen_says_so(invoke: Invoke) -> None:
    nobody = [*ADA[:-3], "adda", *ADA[-2:]]
    code, out, err = invoke("budget", "set", "bot:agent", *nobody, "--cap", "0.000000001", *MIA)

    assert code == 0
    assert "no such counter yet; the cap holds from its first use" in err
    assert "is $0.000000001 from now on" in out

    spend(invoke, "acme/ada")
    assert "counter" not in invoke("budget", "set", "bot:agent", *ADA, "--cap", "1", *MIA)[2]


def test_a_plan_that_knows_nobody_asks_for_the_window(invoke: Invoke) -> None:
    everybody = ("--per", "global", "--unit", "cost_usd", "--cap", "5", *MIA)
    code, _, err = invoke("budget", "set", "bot:strict", *everybody)

    assert code == 1
    assert "KeyError" in err
    assert "--window" in err

    code, out, _ = invoke("budget", "set", "bot:strict", *everybody, "--window", "month")
    assert code == 0
    assert "the cap of cost_usd (month) is $5" in out


def test_reset_asks_and_is_refused_where_nobody_answers(invoke: Invoke) -> None:
    spend(invoke, "acme/ada")

    code, _, err = invoke("budget", "reset", "bot:agent", *ADA, *MIA)
    refused = json.loads(invoke("budget", "reset", "bot:agent", *ADA, *MIA, "--json")[1])

    assert code == 1
    assert "$0.000375" in err
    assert "--yes" in err
    assert refused["error"]["fix"] == "Pass --yes."
    assert counter(shown(invoke, "show", *LEDGER, "--tenant", "acme"), "cost_usd")["spent"] == COST


def test_reset_asks_a_person_who_may_say_no(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    spend(invoke, "acme/ada")
    answers = iter([False, True])

    class Terminal:
        def isatty(self) -> bool:
            return True

    def confirm(question: str, **_: Any) -> None:
        assert "$0.000375" in question
        if not next(answers):
            raise typer.Abort

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr("typer.confirm", confirm)
    assert invoke("budget", "reset", "bot:agent", *ADA, *MIA)[0] == 130
    assert counter(shown(invoke, "show", *LEDGER, "--tenant", "acme"), "cost_usd")["spent"] == COST
    assert invoke("budget", "reset", "bot:agent", *ADA, *MIA)[0] == 0
    assert counter(shown(invoke, "show", *LEDGER, "--tenant", "acme"), "cost_usd")["spent"] == 0


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        pytest.param(("show",), 1, "Which ledger?", id="no ledger"),
        pytest.param(("show", "bot:agent", *LEDGER), 1, "Which ledger?", id="two ledgers"),
        pytest.param(("show", "--ledger", "inmemory"), 1, "in memory", id="in memory"),
        pytest.param(("show", "bot:forgetful"), 1, "in memory", id="an agent's in memory"),
        pytest.param(("show", "bot:bare"), 1, "bot:bare has no budget", id="no budget"),
        pytest.param(("show", "bot:free"), 1, "bot:free has no budget", id="a budget of nothing"),
        pytest.param(("show", "--ledger", "sqlite:no.db"), 1, "There is no database at no.db", id="no file"),
        pytest.param(("show", "--ledger", "mysql://x:secret@y"), 1, "'mysql'", id="no such kind"),
        pytest.param(("show", "bot:agent", "--user", "ada"), 1, "Pass --tenant", id="a user of nobody"),
        pytest.param(("show", "bot:agent", "--tenant", " "), 1, "--tenant ' ' is empty", id="blank"),
        pytest.param(("top", "bot:agent", "--unit", "beans"), 2, "--unit 'beans' is none of", id="unit"),
        pytest.param(("top", "bot:agent", "--per", "model"), 2, "--per 'model' is none of", id="level"),
        pytest.param(("top", "bot:agent", "--window", "week"), 2, "--window 'week' is none of", id="window"),
        pytest.param(("top", "bot:agent", "--window", "run"), 2, "per run", id="a run's window"),
        pytest.param(("set", "bot:agent", *ADA, *MIA), 2, "--cap and --remove", id="neither"),
        pytest.param(
            ("set", "bot:agent", *ADA, *MIA, "--cap", "1", "--remove"), 2, "--cap and --remove", id="both"
        ),
        pytest.param(("set", "bot:agent", *ADA, *MIA, "--cap", "-1"), 1, "is no cap", id="negative"),
        pytest.param(("set", "bot:agent", *ADA, *MIA, "--cap", "nan"), 1, "is no cap", id="nan"),
        pytest.param(("set", "bot:agent", *ADA, *MIA, "--cap", "1e-10"), 1, "is no cap", id="too fine"),
        pytest.param(("set", "bot:agent", *ADA, *MIA, "--cap", "1e99"), 1, "is no cap", id="too much"),
        pytest.param(("set", "bot:agent", *ADA, "--cap", "1", "--by", "mia"), 2, "--why", id="no why"),
        pytest.param(("set", "bot:agent", *ADA, "--cap", "1", "--why", "x"), 2, "--by", id="no who"),
        pytest.param(
            ("set", "bot:agent", *ADA, "--cap", "1", "--by", "mia", "--why", " "),
            1,
            "says nothing",
            id="blank why",
        ),
        pytest.param(
            ("set", "bot:agent", *ADA, "--session", "s", "--cap", "1", *MIA), 1, "no place", id="one too many"
        ),
        pytest.param(("set", *LEDGER, *ADA, "--cap", "1", *MIA), 1, "Which window?", id="no window"),
        pytest.param(("reset", "bot:agent", *ADA, *MIA, "--yes"), 1, "There is no counter", id="no counter"),
    ],
)
def test_what_cannot_be_is_refused_with_its_fix(
    invoke: Invoke, arguments: tuple[str, ...], code: int, says: str
) -> None:
    spend(invoke, "acme/bob")

    given, out, err = invoke("budget", *arguments)
    told = json.loads(invoke("budget", *arguments, "--json")[1])["error"]

    assert (given, out) == (code, "")
    assert says in err
    assert says in f"{told['what']} {told['fix']}"
    assert code == 2 or told["fix"]
    assert "secret" not in err
    assert shown(invoke, "show", *LEDGER, "--tenant", "acme")["changes"] == []


@pytest.mark.parametrize("level", ["user", "tenant", "session", "run", "agent", "global"])
def test_an_account_is_named_by_exactly_what_it_is_made_of(level: Any) -> None:
    names = {"tenant": "acme", "user": "ada", "session": "s1", "run_id": "r1", "agent_name": "bot"}
    needed = budgets._NEEDS[level]
    nobody = budgets.Whose(None, None, None, None, None, anonymous=False)
    exactly = nobody._replace(**{name: names[name] for name in needed})

    _, account = budgets.account_meant(level, exactly, None)

    scope = Scope("acme", "ada" if "user" in needed else None, "s1" if "session" in needed else None)
    assert account == account_of(level, scope, run_id="r1", agent="bot")
    assert who(account, across=False)
    for name in needed:
        with pytest.raises(InputError):
            budgets.account_meant(level, exactly._replace(**{name: None}), None)


def test_a_window_is_said_by_the_clocks_of_its_zone() -> None:
    midnight = 1_795_302_000_000  # 2026-11-22 in Berlin

    assert window_words("day", midnight, "Europe/Berlin") == "day 2026-11-22"
    assert window_words("day", midnight, "UTC") == "day 2026-11-21 23:00"
    assert window_words("hour", midnight, "UTC") == "hour 2026-11-21 23:00"
    assert window_words("total", 0, "UTC") == "total"


# --- runs show ----------------------------------------------------------------------------------


def test_runs_show_says_what_a_run_is_charged_and_why_it_stopped(invoke: Invoke) -> None:
    spend(invoke, "acme/ada")
    invoke("budget", "set", "bot:agent", *ADA, "--cap", "0.0001", *MIA)
    run = ("run", "bot:agent", "Hello", "--tenant", "acme", "--user", "ada", "--run-id")
    assert invoke(*run, "stopped")[0] == 4
    invoke("budget", "set", "bot:agent", *ADA, "--remove", *MIA)
    assert invoke(*run, "done")[0] == 0
    where = ("--tenant", "acme", "--store", "sqlite:bot.db")

    stopped = invoke("runs", "show", "stopped", *where, "--full")[1]
    done = invoke("runs", "show", "done", *where)[1]
    data = json.loads(invoke("runs", "show", "done", *where, "--json")[1])

    assert "budget_reached" in stopped
    assert "budget:per_user_max_cost_usd" in stopped
    assert "charged: 90 + 7 tokens, $0.000375" in done
    assert data["charged"] == {"input_tokens": 90, "output_tokens": 7, "cost": 375_000}
