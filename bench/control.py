"""What it costs that calls are judged, that people are asked, and that runs wait for them, in one interleaved run.

    python bench/control.py [--quick] [--json FILE] [--dir FOLDER] [--rounds N] [--only WORD]

*Judging a call* is the engine's own path from a call of the model to "it may run", on a run that was begun: *raw* is
what it costs where nobody may object (look up the tool, parse and check the arguments), and ours is what is added to
it. In the rows of whole turns *raw* is the same agent without permissions, and *governed* the loop of `floors.py`,
which has a permission check of its own. `parked.py` has the rows of runs that wait. Ratios and figures as in
`overhead.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import hmac
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import parked
from measure import Row, as_json, cpu_of, interleave, machine, progress, repeat, table
from workloads import ARGUMENTS, DONE, OURS, PROMPT, TIMEOUT, USAGE, Trio, weather

from shipworthy import (
    Action,
    Agent,
    Approve,
    Decision,
    PolicyDocument,
    Scope,
    ScriptedModel,
    ScriptedTurn,
    StandardPermissions,
    Statement,
    ToolCall,
    policy,
    tool,
)
from shipworthy.domain.grants import SigningKey
from shipworthy.engine import gate
from shipworthy.rules import approvals
from shipworthy.rules.calls import Call

NOBODY = Scope("tenant-7")
ADA = Scope("tenant-7", "user-7")
KEY = SigningKey("bench", b"0123456789abcdef0123456789abcdef", 0)


class Sizes(msgspec.Struct, frozen=True):
    """How much work one sample is."""

    rounds: int = 15
    judged: int = 5_000
    waited: int = 300
    singles: int = 400
    tens: int = 40
    decisions: int = 5_000
    signatures: int = 5_000
    parked: parked.Sizes = parked.Sizes()


QUICK = Sizes(1, 20, 5, 5, 2, 10, 10, parked.QUICK)


# --- who may object -----------------------------------------------------------------------------


async def no_objection(ctx: Any, action: Action) -> Decision | None:
    return None


def no_objection_at_once(ctx: Any, action: Action) -> Decision | None:
    return None


@policy(version="1")
async def anything(scope: Scope, action: Action) -> Decision:
    """Allows everything, as a policy that may have to wait."""
    return Decision.allow_()


async def never(arguments: Any) -> bool:
    return False


async def yes(request: Any) -> Approve:
    return Approve(by="maria")


EXPECTING = tool(weather, effect="read", timeout=TIMEOUT, requires_approval=never)
APPROVED = tool(weather, effect="read", timeout=TIMEOUT, requires_approval=True)


def agent(turns: int = 0, each: Any = OURS["weather"], hook: Any = None, **who: Any) -> Agent[Any, str]:
    script = [ScriptedTurn(ToolCall("weather", ARGUMENTS), usage=USAGE)] * turns
    model = ScriptedModel([*script, ScriptedTurn(DONE, usage=USAGE)])
    made = Agent(
        "You are a travel assistant. Answer in one sentence.",
        model=model,
        tools=[each],
        name="bench",
        max_turns=1_000_000,
        **who,
    )
    if hook is not None:
        made.before_tool(hook)
    return made


# --- judging a call -----------------------------------------------------------------------------


def judged(made: Agent[Any, str], each: Any, times: int) -> float:
    """Microseconds of CPU time until a call may run."""

    async def measured() -> float:
        service = made._in_use()
        none: dict[str, Any] = dict.fromkeys(["run_id", "deps", "message_history", "settings", "timeout"])
        run = await service.begin(await service.asked(ADA, PROMPT, **none))
        assert run is not None
        call = Call(ToolCall("weather", ARGUMENTS, "call_1"))
        assert await gate._may_run(run, call, each) is not None
        begun = time.process_time_ns()
        for _ in range(times):
            await gate._may_run(run, call, each)
        return (time.process_time_ns() - begun) / 1000 / times

    return asyncio.run(measured())


def judging_rows(sizes: Sizes) -> list[Row]:
    plain = OURS["weather"]

    def row(name: str, times: int, limit: float | None = None, each: Any = plain, **who: Any) -> Row:
        def alone() -> float:
            return judged(agent(), plain, sizes.judged)

        return Row(
            name=f"judging a call: {name}",
            unit="us",
            sides={"raw": alone, "ours": lambda: judged(agent(each=each, **who), each, times) - alone()},
            against=None,
            limit=limit,
            note="raw: the call where nobody may object; ours: what is added to it",
        )

    many, few = sizes.judged, sizes.waited
    return [
        row("StandardPermissions", many, 5, permissions=StandardPermissions()),
        row("a document of 1,000 statements", many, permissions=of_tools(1_000)),
        row("an async policy", few, permissions=anything),
        row("an async hook", few, hook=no_objection),
        row("a hook in a thread", few, hook=no_objection_at_once),
        row("a tool's own requires_approval, async", few, each=EXPECTING),
    ]


# --- documents ----------------------------------------------------------------------------------


def of_tools(count: int) -> PolicyDocument:
    """Statements about *count* / 10 tools: for each an allow, and nine that deny with a condition."""
    names = ["weather", *[f"tool_{n}" for n in range(1, max(count // 10, 1))]]
    statements: list[Statement] = []
    for name in names:
        statements.append(Statement(effect="allow", actions=[f"tool:{name}"], id=name))
        for n in range(9):
            statements.append(_closed(name, n))
    return PolicyDocument(statements[:count])


def of_users(count: int) -> PolicyDocument:
    """One statement for each user, all of them about one tool."""
    return PolicyDocument(
        [
            Statement(effect="allow", actions=["tool:weather"], principals={"user": f"user-{n}"}, id=f"u{n}")
            for n in range(count)
        ]
    )


def of_patterns(count: int) -> PolicyDocument:
    """Names with `*`, of which one fits."""
    names = ["tool:wea*", *[f"tool:crm_{n}_*" for n in range(1, count)]]
    return PolicyDocument(
        [Statement(effect="allow", actions=[name], id=f"p{n}") for n, name in enumerate(names)]
    )


def of_arguments(count: int) -> PolicyDocument:
    """All about one tool and anybody, each with a condition on an argument: every one of them is asked."""
    closed = [_closed("weather", n) for n in range(count - 1)]
    return PolicyDocument([*closed, Statement(effect="allow", actions=["tool:weather"], id="open")])


def _closed(name: str, number: int) -> Statement:
    return Statement(
        effect="deny",
        actions=[f"tool:{name}"],
        conditions={"arguments.city": f"City {number}"},
        id=f"{name}-{number}",
    )


def action() -> Action:
    arguments = msgspec.json.decode(ARGUMENTS)
    return Action(
        kind="tool",
        name="weather",
        effect="read",
        arguments=arguments,
        path=("bench",),
        run_id="r",
        call_id="c",
    )


def decide_rows(sizes: Sizes) -> list[Row]:
    def row(name: str, policy: Any, scope: Scope = ADA, limit: float | None = None) -> Row:
        def sample() -> float:
            asked, times = action(), sizes.decisions
            assert policy.decide(scope, asked).ruling == "allow" or scope is NOBODY
            begun = time.process_time_ns()
            for _ in range(times):
                policy.decide(scope, asked)
            return (time.process_time_ns() - begun) / 1000 / times

        return Row(name=f"deciding: {name}", unit="us", sides={"ours": sample}, against=None, limit=limit)

    return [
        row("StandardPermissions", StandardPermissions()),
        *[row(f"{count:,} statements, ten a tool", of_tools(count)) for count in (10, 100)],
        row("1,000 statements, ten a tool", of_tools(1_000), limit=50),
        row("1,000 statements, one a user", of_users(1_000), limit=50),
        row("1,000 statements with * in their names", of_patterns(1_000), limit=50),
        row("1,000 statements, all about the call", of_arguments(1_000), limit=50),
        row("1,000 statements, one a user, of a run that names no user", of_users(1_000), NOBODY, limit=50),
    ]


# --- whole turns --------------------------------------------------------------------------------


def turn_rows(sizes: Sizes) -> list[Row]:
    def sampled(made: Callable[[], Callable[[int], Any]], turns: int) -> Callable[[], float]:
        times, parts = (sizes.tens, turns + 1) if turns else (sizes.singles, 1)

        def sample() -> float:
            ask = made()
            asyncio.run(ask(0))
            return cpu_of(repeat(times, lambda: ask(7))) / times / parts

        return sample

    def asking(turns: int, **who: Any) -> Callable[[], Callable[[int], Any]]:
        def made() -> Callable[[int], Any]:
            one = agent(turns, **who)
            return lambda n: one.run(PROMPT, tenant_id=f"tenant-{n % 100}", user_id=f"user-{n % 1000}")

        return made

    def row(name: str, turns: int, **who: Any) -> Row:
        return Row(
            name=f"{'one turn of a ten-tool run' if turns else 'single turn'}: {name}",
            unit="us",
            sides={
                "raw": sampled(asking(turns), turns),
                "governed": sampled(Trio(turns=turns).ask_governed, turns),
                "ours": sampled(asking(turns, **who), turns),
            },
            against="raw",
            note="raw: the same agent, where nobody may object",
        )

    return [
        row("StandardPermissions", 0, permissions=StandardPermissions()),
        row("StandardPermissions", 10, permissions=StandardPermissions()),
        row("a document of 1,000 statements", 10, permissions=of_tools(1_000)),
        row("an async policy", 10, permissions=anything),
        row("a handler approves of each call", 10, each=APPROVED, approval_handler=yes),
    ]


# --- signatures ---------------------------------------------------------------------------------


def signature_rows(sizes: Sizes) -> list[Row]:
    said = approvals.Approval(
        id="0123456789abcdef01234567",
        key=KEY.id,
        tenant="tenant-7",
        user="user-7",
        run="0123456789abcdef0123456789abcdef",
        address="call_1",
        agents=("bench",),
        tool="weather",
        digest="0" * 64,
        rule="StandardPermissions:default:ask-once",
        policy="0123456789abcdef",
        ruling="allow",
        approver="maria",
        at=1_700_000_000_000,
        expires_at=1_700_604_800_000,
    )
    payload = msgspec.json.encode(said)

    def timed(one: Callable[[], Any]) -> Callable[[], float]:
        def sample() -> float:
            begun = time.process_time_ns()
            for _ in range(sizes.signatures):
                one()
            return (time.process_time_ns() - begun) / 1000 / sizes.signatures

        return sample

    def bare() -> None:
        mac = hmac.digest(KEY.secret, payload, "sha256")
        assert hmac.compare_digest(mac, hmac.digest(KEY.secret, payload, "sha256"))

    def token() -> None:
        assert approvals.read(approvals.sign(KEY, said), [KEY]) == said

    def checkpoint() -> None:
        made = approvals.checkpoint(KEY, "tenant-7", said.run, 1_003)
        approvals.check_checkpoint(approvals.read_checkpoint(made), [KEY])

    def row(name: str, one: Callable[[], None]) -> Row:
        return Row(
            name=name,
            unit="us",
            sides={"raw": timed(bare), "ours": timed(one)},
            against="raw",
            note="raw: two bare HMACs of as many bytes, and their comparison",
        )

    return [row("an approval signed and verified", token), row("a checkpoint made and verified", checkpoint)]


# --- the run ------------------------------------------------------------------------------------


def rows_of(sizes: Sizes, waiting: parked.Waiting) -> list[Row]:
    return [
        *judging_rows(sizes),
        *decide_rows(sizes),
        *turn_rows(sizes),
        *signature_rows(sizes),
        *waiting.resume_rows(),
        *waiting.parked_rows(),
    ]


def asked_for(rows: Sequence[Row], word: str) -> list[Row]:
    return [row for row in rows if word in row.name]


def main() -> None:
    parser = argparse.ArgumentParser(description="What people in control cost.")
    parser.add_argument("--quick", action="store_true", help="every row once; the figures mean nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything, samples included")
    parser.add_argument("--dir", type=Path, default=Path(), help="where files are made (default: here)")
    parser.add_argument("--rounds", type=int, help="samples of each side")
    parser.add_argument("--only", default="", metavar="WORD", help="only rows whose name contains this")
    asked = parser.parse_args()
    sizes = QUICK if asked.quick else Sizes()
    rounds = asked.rounds or sizes.rounds
    with parked.Waiting(asked.dir, sizes.parked) as waiting:
        rows = asked_for(rows_of(sizes, waiting), asked.only)
        interleave(rows, rounds, progress)
    progress("")
    print(table(rows))
    print()
    print(f"{machine()}; medians of {rounds} interleaved rounds; ratios are the median of each round's own.")
    if asked.json:
        asked.json.write_text(as_json(rows, {"rounds": rounds, "quick": asked.quick}) + "\n")


if __name__ == "__main__":
    main()
