"""`shipworthy budget`: what its commands take. What they do is in `shipworthy.app.commands.budgets`."""

from __future__ import annotations

from typing import Annotated

import typer

budget = typer.Typer(
    help="Who spent what of a budget, and what operators do about it: show, top, set, reset.",
    no_args_is_help=True,
)

Target = Annotated[
    str | None,
    typer.Argument(metavar="AGENT", help="module:agent, for the ledger and the limits of its budget."),
]
Ledger = Annotated[
    str | None,
    typer.Option("--ledger", help="sqlite:<path>, postgres://... or redis://..., without an agent."),
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout.")]
MaybeTenant = Annotated[str | None, typer.Option("--tenant", "-t", help="Whose counter.")]
MaybeUser = Annotated[str | None, typer.Option("--user", "-u", help="The tenant's user.")]
MaybeSession = Annotated[str | None, typer.Option("--session", "-s", help="The user's session.")]
MaybeRun = Annotated[str | None, typer.Option("--run-id", help="The tenant's run.")]
MaybeName = Annotated[
    str | None, typer.Option("--agent-name", help="The agent's name=; that of AGENT by default.")
]
Anonymous = Annotated[
    bool, typer.Option("--anonymous", help="The one counter of runs that name no user, or no tenant either.")
]
Per = Annotated[str, typer.Option("--per", help="user, tenant, session, run, agent or global.")]
Unit = Annotated[
    str,
    typer.Option("--unit", help="cost_usd, tokens, input_tokens, output_tokens, requests or tool_calls."),
]
MaybeWindow = Annotated[
    str | None,
    typer.Option("--window", help="hour, day, month, total or run; that of AGENT's limit by default."),
]
By = Annotated[str, typer.Option("--by", help="Who does it; kept in the ledger.")]
Why = Annotated[str, typer.Option("--why", help="Why; kept in the ledger.")]


@budget.command()
def show(
    agent: Target = None,
    ledger: Ledger = None,
    tenant: Annotated[
        str | None,
        typer.Option("--tenant", "-t", help="Its counters; without it, those of everybody together."),
    ] = None,
    user: MaybeUser = None,
    every_window: Annotated[
        bool, typer.Option("--all", help="Earlier windows too, not the latest of each counter alone.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """What is spent and held of a tenant's, a user's or everybody's counters, and the latest changes to them.

    With --json: {"counters": [...], "changes": [...]}, money in US dollars, times in milliseconds since the epoch.
    """
    from shipworthy.app.commands import budgets as commands

    commands.check_names(tenant, user)
    return commands.with_ledger(
        commands.Where(agent, ledger),
        as_json=as_json,
        work=lambda p, books: commands.show(p, books, tenant, user, every_window=every_window),
    )


@budget.command()
def top(
    agent: Target = None,
    ledger: Ledger = None,
    unit: Unit = "cost_usd",
    window: Annotated[
        str | None, typer.Option("--window", help="hour, day, month, total or run; all of them by default.")
    ] = None,
    per: Per = "user",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many of each window.")] = 20,
    as_json: AsJson = False,
) -> int:
    """Who spent most in the latest window, over all tenants, most first. For operators.

    With --json: {"counters": [...]}.
    """
    from shipworthy.app.commands import budgets as commands

    kind = commands.kind_of(per, unit, window)
    return commands.with_ledger(
        commands.Where(agent, ledger),
        as_json=as_json,
        work=lambda p, books: commands.top(p, books, kind, limit),
    )


@budget.command("set")
def set_cap(
    per: Per,
    unit: Unit,
    by: By,
    why: Why,
    agent: Target = None,
    ledger: Ledger = None,
    tenant: MaybeTenant = None,
    user: MaybeUser = None,
    session: MaybeSession = None,
    run_id: MaybeRun = None,
    agent_name: MaybeName = None,
    anonymous: Anonymous = False,
    window: MaybeWindow = None,
    cap: Annotated[
        str | None, typer.Option("--cap", help="US dollars, or a number of the unit; 0 lets nothing through.")
    ] = None,
    remove: Annotated[
        bool, typer.Option("--remove", help="Take the override back: the configured cap counts.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Override one cap, at once, in every process that draws on the ledger; recorded with who and why.

    With --json: {"set": {...}}.
    """
    from shipworthy.app.commands import budgets as commands

    kind = commands.kind_of(per, unit, window)
    amount = commands.cap_of(cap, kind.unit, remove=remove)
    whose = commands.Whose(tenant, user, session, run_id, agent_name, anonymous)
    return commands.with_ledger(
        commands.Where(agent, ledger),
        as_json=as_json,
        work=lambda p, books: commands.set_cap(p, books, kind, whose, amount, commands.record_of(by, why)),
    )


@budget.command()
def reset(
    per: Per,
    unit: Unit,
    by: By,
    why: Why,
    agent: Target = None,
    ledger: Ledger = None,
    tenant: MaybeTenant = None,
    user: MaybeUser = None,
    session: MaybeSession = None,
    run_id: MaybeRun = None,
    agent_name: MaybeName = None,
    anonymous: Anonymous = False,
    window: MaybeWindow = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    as_json: AsJson = False,
) -> int:
    """Take what one counter has spent back to 0, in all its windows; what is held stays. Recorded with who and why.

    With --json: {"reset": {...}}, with what had been spent; needs --yes.
    """
    from shipworthy.app.commands import budgets as commands

    kind = commands.kind_of(per, unit, window)
    whose = commands.Whose(tenant, user, session, run_id, agent_name, anonymous)
    return commands.with_ledger(
        commands.Where(agent, ledger),
        as_json=as_json,
        work=lambda p, books: commands.reset(p, books, kind, whose, commands.record_of(by, why), yes=yes),
    )
