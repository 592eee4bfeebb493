"""However a call is nested, read and continued: what the outermost agent's policy, or the own one's, says holds.

{direct, nested two deep, hand-off, parallel} x {run, stream} x {allow, deny, ask, raise, hang} x {whose policy} x
{same process, other process}. In another process the run goes on that was parked and approved of, under what the policy
says there and then.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest

from shipworthy import (
    Agent,
    Approve,
    Decision,
    Inbox,
    InMemoryRuntime,
    ScriptedModel,
    SqliteRuntime,
    ToolCall,
    handoff,
    parallel,
    tool,
)
from shipworthy.domain.scope import Operator, Scope
from shipworthy.engine.governance import Governance
from shipworthy.engine.runtime import Runtime
from shipworthy.rules.state import replay
from tests.engine import control_world as w
from tests.engine.world import ALICE, go, valid

Ruling = Literal["allow", "deny", "ask", "raise", "hang"]
RULINGS: tuple[Ruling, ...] = ("allow", "deny", "ask", "raise", "hang")
TASK = {"input": "Pay."}


class Ruled:
    """Rules on the calls of tools in one way, and allows that agents work for one another."""

    version, immediate = "1", True

    def __init__(self, ruling: Ruling) -> None:
        self.ruling = ruling

    def decide(self, scope: Scope, action: Any) -> Any:
        if action.kind != "tool":
            return w.ALLOW
        match self.ruling:
            case "allow":
                return w.ALLOW
            case "deny":
                return Decision.deny_("It is too much.", rule="pay")
            case "ask":
                return Decision.ask_("It is much.", rule="pay")
            case "raise":
                raise ValueError("It broke.")
            case "hang":
                return asyncio.sleep(30, w.ALLOW)


class Built(msgspec.Struct):
    """What a form is made of: agents of the outer one's policies and of the inner ones'."""

    outer: dict[str, Any]
    inner: dict[str, Any]
    pay: Any

    def payer(self, name: str = "payer", **options: Any) -> Agent[Any, Any]:
        """The agent that has the tool."""
        model = ScriptedModel([ToolCall("pay", {"amount": 50}), "Paid."])
        return Agent("Pay.", name=name, model=model, tools=[self.pay], **(options or self.inner))

    def desk(self, *tools: Any) -> Agent[Any, Any]:
        """The outermost agent, which has no other tool than these agents."""
        (only,) = tools
        model = ScriptedModel([ToolCall(only.spec.name, TASK), "Done."])
        return Agent("Delegate.", name="desk", model=model, tools=tools, **self.outer)


def _direct(built: Built) -> Agent[Any, Any]:
    return built.payer("desk", **{**built.inner, **built.outer})


def _nested(built: Built) -> Agent[Any, Any]:
    clerk = Agent(
        "Delegate.",
        name="clerk",
        model=ScriptedModel([ToolCall("payer", TASK), "Passed on."]),
        tools=[built.payer().as_tool()],
    )
    return built.desk(clerk.as_tool())


class Form(msgspec.Struct, frozen=True):
    """How the paying agent is reached; `pays`: how many do."""

    build: Callable[[Built], Agent[Any, Any]]
    pays: int = 1
    owners: tuple[str, ...] = ("outer", "inner")


FORMS: Mapping[str, Form] = {
    "direct": Form(_direct, owners=("outer",)),
    "nested": Form(_nested),
    "handoff": Form(lambda built: built.desk(handoff(built.payer()))),
    "parallel": Form(
        lambda built: built.desk(parallel(built.payer("one"), built.payer("two"), name="both")), pays=2
    ),
}
CELLS = [
    (form, owner, stream, ruling)
    for form, made in FORMS.items()
    for owner in made.owners
    for stream in (False, True)
    for ruling in RULINGS
]


def name_of(form: str, owner: str, stream: bool, ruling: str) -> str:
    return f"{form}-{owner}-{'stream' if stream else 'run'}-{ruling}"


def build(form: str, owner: str, ruling: Ruling, runtime: Runtime, pay: Any) -> Agent[Any, Any]:
    """The outermost agent of a form, in which *owner*'s policy rules so."""
    policies: dict[str, Any] = {owner: {"permissions": Ruled(ruling), "tuning": w.HURRY}}
    outer = {"approval_handler": Inbox(), "runtime": runtime, **policies.get("outer", {})}
    return FORMS[form].build(Built(outer, policies.get("inner", {}), pay))


async def conversations(runtime: Runtime) -> dict[str, list[Any]]:
    """By outermost run, its conversation and those of all runs that were made for it."""
    found: dict[str, list[Any]] = {}
    page = await runtime.store.everything(Operator("test"))
    while page:
        for _, run in page:
            messages = replay(await runtime.store.read(Scope("acme"), run.run_id)).messages
            found.setdefault(run.root or run.run_id, []).append(messages)
        page = await runtime.store.everything(Operator("test"), page[-1][0])
    return found


def answers(result: Any) -> dict[str, Approve]:
    return {call.address: Approve(by="maria") for call in result.pending}


# --------------------------------------------------------------------------------------------- same process


@pytest.mark.parametrize(("form", "owner", "stream", "ruling"), CELLS)
def test_what_the_policy_says_holds_in_this_process(
    form: str, owner: str, stream: bool, ruling: Ruling
) -> None:
    paid: list[int] = []

    @tool(effect="once")
    async def pay(amount: int) -> str:
        paid.append(amount)
        return "paid"

    async def law() -> None:
        a = build(form, owner, ruling, InMemoryRuntime(), pay)
        result = await w.finish(a, stream, run_id="r")
        if ruling == "ask":
            assert (result.status, paid) == ("paused", [])
            assert [call.tool for call in result.pending] == ["pay"] * FORMS[form].pays
            result = await a.resume(result.checkpoint, answer=answers(result))
        assert result.status == "completed"
        talks = (await conversations(a.runtime))["r"]
        assert [valid(messages) for messages in talks] == [True] * len(talks)
        denied = _denials(talks)
        if ruling in ("allow", "ask"):
            assert (paid, denied) == ([50] * FORMS[form].pays, 0)
        else:
            assert (paid, denied) == ([], FORMS[form].pays)

    go(law())


def _denials(talks: list[Any]) -> int:
    """How often a model was told that its call is denied."""
    parts = [
        part for messages in talks for message in messages if message.role == "tool" for part in message.parts
    ]
    return len([part for part in parts if part.content[0].text.startswith("Denied: ")])


# -------------------------------------------------------------------------------------------- other process


class Cell(msgspec.Struct):
    """What came of a run that another process went on with."""

    status: str
    pending: int
    denials: int = -1
    valid: bool = False


def _filed(folder: Path, run_id: str) -> Any:
    @tool(effect="once")
    async def pay(amount: int) -> str:
        with (folder / "paid").open("a") as file:
            file.write(f"{run_id}\n")
        return "paid"

    return pay


@pytest.fixture(scope="module")
def continued(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Cell], Counter[str]]:
    """Every run parked here, and approved of and gone on with in one other process; and what was paid."""
    folder = tmp_path_factory.mktemp("matrix")

    async def park() -> None:
        runtime = SqliteRuntime(folder / "runs.db")

        async def one(form: str, owner: str, stream: bool, ruling: Ruling) -> None:
            run_id = name_of(form, owner, stream, ruling)
            a = build(form, owner, "ask", runtime, _filed(folder, run_id))
            result = await w.finish(a, stream, run_id=run_id)
            assert (result.status, len(result.pending)) == ("paused", FORMS[form].pays)

        await asyncio.gather(*[one(*cell) for cell in CELLS])
        await runtime.close()

    go(park())
    assert not (folder / "paid").exists()
    here = "from tests.engine import test_control_matrix as m; m.child()"
    subprocess.run([sys.executable, "-c", here, str(folder)], check=True, timeout=300, cwd=Path.cwd())
    cells = msgspec.json.decode((folder / "told").read_bytes(), type=dict[str, Cell])
    paid = (folder / "paid").read_text().split()
    return cells, Counter(paid)


def child() -> None:
    """Approve of all and go on, each under a policy that rules as its cell says."""
    folder = Path(sys.argv[1])

    async def work() -> dict[str, Cell]:
        runtime, told = SqliteRuntime(folder / "runs.db"), dict[str, Cell]()

        async def one(form: str, owner: str, stream: bool, ruling: Ruling) -> None:
            run_id = name_of(form, owner, stream, ruling)
            inbox = Inbox(runtime=runtime)
            for request in await inbox.requests("acme", run_id=run_id):
                await inbox.approve(request, Approve(by="maria"))
            a = build(form, owner, ruling, runtime, _filed(folder, run_id))
            result = await a.resume(run_id, tenant_id="acme")
            told[run_id] = Cell(result.status, len(result.pending))

        await asyncio.gather(*[one(*cell) for cell in CELLS])
        for run_id, talks in (await conversations(runtime)).items():
            told[run_id].denials, told[run_id].valid = _denials(talks), all(map(valid, talks))
        await runtime.close()
        return told

    (folder / "told").write_bytes(msgspec.json.encode(asyncio.run(work())))


@pytest.mark.parametrize(("form", "owner", "stream", "ruling"), CELLS)
def test_what_the_policy_says_now_holds_in_another_process(
    form: str, owner: str, stream: bool, ruling: Ruling, continued: tuple[dict[str, Cell], Counter[str]]
) -> None:
    cells, paid = continued
    run_id = name_of(form, owner, stream, ruling)
    pays = FORMS[form].pays

    allowed = ruling in ("allow", "ask")
    assert cells[run_id] == Cell("completed", 0, 0 if allowed else pays, True)
    assert paid[run_id] == (pays if allowed else 0)


# -------------------------------------------------------------------------------------------------- mutants


def _pays_of(form: str, owner: str) -> int:
    """How often a tool runs that is denied."""
    paid: list[int] = []

    @tool(effect="once")
    async def pay(amount: int) -> str:
        paid.append(amount)
        return "paid"

    go(build(form, owner, "deny", InMemoryRuntime(), pay).run("Go.", **ALICE))
    return len(paid)


@pytest.mark.parametrize("form", [form for form in FORMS if form != "direct"])
def test_a_mutant_in_which_nested_agents_escape_the_policy_around_them_is_caught(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _pays_of(form, "outer") == 0
    monkeypatch.setattr(Governance, "around", lambda self, inner: inner)
    assert _pays_of(form, "outer") == FORMS[form].pays


@pytest.mark.parametrize("form", [form for form in FORMS if form != "direct"])
def test_a_mutant_in_which_nested_agents_lose_their_own_policy_is_caught(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _pays_of(form, "inner") == 0
    monkeypatch.setattr(Governance, "around", lambda self, inner: self)
    assert _pays_of(form, "inner") == FORMS[form].pays
