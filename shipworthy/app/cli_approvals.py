"""`shipworthy approvals`: what its commands take. What they do is in `shipworthy.app.commands.approvals`."""

from __future__ import annotations

from typing import Annotated

import typer

approvals = typer.Typer(
    help="What runs want to do that a person has to say yes to: list, show, approve, deny.",
    no_args_is_help=True,
)

Tenant = Annotated[str, typer.Option("--tenant", "-t", help="Whose runs; there is no default.")]
StoreOption = Annotated[str | None, typer.Option("--store", help="sqlite:<path> or postgres://...")]
AgentOption = Annotated[
    str | None, typer.Option("--agent", help="module:agent, for its store and the keys of its runtime.")
]
KeyFile = Annotated[
    str | None,
    typer.Option(
        "--key-file",
        help="With --store: the keys that the agents' runtime is given as signing_keys=, one a line, newest first.",
    ),
]
RunOption = Annotated[str, typer.Option("--run", help="The outermost run's id.")]
Address = Annotated[
    str | None, typer.Option("--address", help="Which call of it; may be left out where one waits.")
]
By = Annotated[str | None, typer.Option("--by", help="Who answers; signed. Asked for on a terminal.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout.")]


@approvals.command("list")
def list_approvals(
    tenant: Tenant,
    store: StoreOption = None,
    agent: AgentOption = None,
    user: Annotated[str | None, typer.Option("--user", "-u", help="Only this user's runs.")] = None,
    as_json: AsJson = False,
) -> int:
    """What waits for a yes, of one tenant: who wants what, since when, why somebody is asked, until when.

    With --json: {"approvals": [...]}, times in milliseconds since the epoch.
    """
    from shipworthy.app.commands import approvals as commands
    from shipworthy.app.commands import runs

    scope = runs.whose(tenant, user)
    return runs.with_runtime(
        runs.Where(store, agent), as_json=as_json, work=lambda p, r: commands.listing(p, r, scope)
    )


@approvals.command()
def show(
    tenant: Tenant,
    run: RunOption,
    address: Address = None,
    store: StoreOption = None,
    agent: AgentOption = None,
    full: Annotated[bool, typer.Option("--full", help="All of what the run had seen.")] = False,
    as_json: AsJson = False,
) -> int:
    """One call: its exact arguments, with whatever cannot be seen in them escaped, and what the run had seen.

    With --json: {"approval": {...}}.
    """
    from shipworthy.app.commands import approvals as commands
    from shipworthy.app.commands import runs

    which = commands.Which(runs.whose(tenant), runs.known_as(run), address)
    return runs.with_runtime(
        runs.Where(store, agent), as_json=as_json, work=lambda p, r: commands.show(p, r, which, full=full)
    )


@approvals.command()
def approve(
    tenant: Tenant,
    run: RunOption,
    address: Address = None,
    store: StoreOption = None,
    agent: AgentOption = None,
    key_file: KeyFile = None,
    by: By = None,
    arguments: Annotated[
        str | None, typer.Option("--arguments", metavar="JSON", help="Other arguments, all of them.")
    ] = None,
    remember: Annotated[
        str | None, typer.Option("--remember", help="run or user: later calls of it are covered, too.")
    ] = None,
    covers: Annotated[
        str | None,
        typer.Option("--covers", help="With --remember: arguments (the same ones; the default), or tool."),
    ] = None,
    expires_in: Annotated[
        str | None, typer.Option("--expires-in", help="In which the call has to begin: 90s, 30m, 12h or 7d.")
    ] = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> int:
    """Say yes to one call, with exactly the arguments that are shown, and sign it. Nothing is carried out by this.

    Exit code 3 if the run waits for more answers. With --json: {"approved": {...}, "waiting": [...]}; needs --by and
    --yes.
    """
    from shipworthy.app.commands import approvals as commands
    from shipworthy.app.commands import runs

    if remember not in (None, "run", "user"):
        raise typer.BadParameter(f"--remember {remember!r} is none of run, user")
    if covers not in (None, "arguments", "tool"):
        raise typer.BadParameter(f"--covers {covers!r} is none of arguments, tool")
    if covers is not None and remember is None:
        raise typer.BadParameter("--covers goes with --remember")
    which = commands.Which(runs.whose(tenant), runs.known_as(run), address)
    said = commands.Said(by, yes, arguments, remember, covers or "arguments", expires_in)
    return runs.with_runtime(
        runs.Where(store, agent, key_file),
        as_json=as_json,
        work=lambda p, r: commands.approve(p, r, which, said),
    )


@approvals.command()
def deny(
    tenant: Tenant,
    run: RunOption,
    address: Address = None,
    store: StoreOption = None,
    agent: AgentOption = None,
    key_file: KeyFile = None,
    by: By = None,
    reason: Annotated[str, typer.Option("--reason", help="The model is told.")] = "",
    yes: Yes = False,
    as_json: AsJson = False,
) -> int:
    """Say no to one call, and sign it.

    Exit code 3 if the run waits for more answers. With --json: {"denied": {...}, "waiting": [...]}; needs --by and
    --yes.
    """
    from shipworthy.app.commands import approvals as commands
    from shipworthy.app.commands import runs

    which = commands.Which(runs.whose(tenant), runs.known_as(run), address)
    said = commands.Said(by, yes, reason=reason)
    return runs.with_runtime(
        runs.Where(store, agent, key_file),
        as_json=as_json,
        work=lambda p, r: commands.deny(p, r, which, said),
    )


@approvals.command()
def keys(
    store: StoreOption = None,
    agent: AgentOption = None,
    key_file: KeyFile = None,
    rotate: Annotated[
        bool, typer.Option("--rotate", help="Make a new one, with which is signed from now on.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """The names of the keys that approvals and checkpoints are signed with, newest first. For operators.

    With --json: {"keys": [{"id", "made_at"}], "set": whether they were set, "rotated"}.
    """
    from shipworthy.app.commands import approvals as commands
    from shipworthy.app.commands import runs

    return runs.with_runtime(
        runs.Where(store, agent, key_file),
        as_json=as_json,
        work=lambda p, r: commands.keys(p, r, rotate=rotate),
    )
