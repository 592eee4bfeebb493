"""`shipworthy memory`: what its commands take. What they do is in `shipworthy.app.commands.memories`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

memory = typer.Typer(
    help="What is remembered of whom: list, search, export, forget, erase, reindex.",
    no_args_is_help=True,
)

Where = Annotated[
    str,
    typer.Argument(
        metavar="MEMORY",
        help="sqlite:<path>, postgres://..., redis://..., dynamodb://<table>; or module:agent, for its memory.",
    ),
]
Tenant = Annotated[str, typer.Option("--tenant", "-t", help="Whose memory; there is no default.")]
MaybeTenant = Annotated[str | None, typer.Option("--tenant", "-t", help="Whose memory; or --all.")]
User = Annotated[str | None, typer.Option("--user", "-u", help="The tenant's user.")]
Session = Annotated[str | None, typer.Option("--session", "-s", help="The user's session.")]
Embedder = Annotated[
    str | None,
    typer.Option(
        "--embedder",
        help="local, openai:<model>, cohere:<model>, bedrock:<model>, or none; an agent has its own.",
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout.")]


@memory.command("list")
def list_memory(
    where: Where,
    tenant: MaybeTenant = None,
    user: User = None,
    session: Session = None,
    everybody: Annotated[
        bool,
        typer.Option("--all", help="The partitions of every tenant, and nothing in them. For operators."),
    ] = False,
    superseded: Annotated[
        bool, typer.Option("--superseded", help="Also facts that are believed no more.")
    ] = False,
    quarantined: Annotated[
        bool, typer.Option("--quarantined", help="Also facts that are not sure enough to be recalled.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many of each kind, the newest.")] = 50,
    as_json: AsJson = False,
) -> int:
    """What is in one partition, exactly the one that is named, and which other ones are within it.

    With --json: {"partitions", "blocks", "facts", "episodes", "counts"}, times in milliseconds since the epoch.
    """
    from shipworthy.app.commands import memories as commands

    if (tenant is None) != everybody:
        raise typer.BadParameter("pass --tenant, or --all for the partitions of every tenant")
    if everybody and (user is not None or session is not None):
        raise typer.BadParameter("--all is everybody: leave --user and --session out")
    if tenant is None:
        return commands.with_memory(where, as_json=as_json, work=lambda p, o: commands.everybody(p, o, limit))
    scope = commands.whose(tenant, user, session)
    shown = commands.Shown(superseded, quarantined, limit)
    return commands.with_memory(
        where, as_json=as_json, work=lambda p, o: commands.listing(p, o, scope, shown)
    )


@memory.command()
def search(
    where: Where,
    query: Annotated[str, typer.Argument(help="What to look for, in words.")],
    tenant: Tenant,
    user: User = None,
    session: Session = None,
    embedder: Embedder = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many, the best.")] = 8,
    as_json: AsJson = False,
) -> int:
    """What is recalled for QUERY from one partition, best first, and why.

    By vectors as well where the embedder of the store's vectors is the agent's, is named, or is the local one.
    With --json: {"found": [{"score", "why", ...}], "by": "words" or "words and vectors"}.
    """
    from shipworthy.app.commands import memories as commands

    scope = commands.whose(tenant, user, session)
    return commands.with_memory(
        where,
        embedder=embedder,
        as_json=as_json,
        work=lambda p, o: commands.search(p, o, scope, query, limit),
    )


@memory.command()
def export(
    where: Where,
    tenant: Tenant,
    user: User = None,
    session: Session = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A new file; stdout by default.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Errors as JSON; the export is JSON lines anyway.")
    ] = False,
) -> int:
    """Everything of a partition and of those within it as JSON lines, superseded and quarantined facts included."""
    from shipworthy.app.commands import memories as commands
    from shipworthy.app.commands.exporting_memory import export as go

    scope = commands.whose(tenant, user, session)
    return commands.with_memory(where, as_json=True, work=lambda p, o: go(p, o.memory, scope, output))


@memory.command()
def forget(
    where: Where,
    tenant: Tenant,
    user: User = None,
    session: Session = None,
    ids: Annotated[
        list[str] | None, typer.Option("--id", help="One thing's id; may be given several times.")
    ] = None,
    before: Annotated[
        str | None,
        typer.Option("--before", help="What was said or learned before: 30d, 12h, or an ISO date."),
    ] = None,
    query: Annotated[
        str | None, typer.Option("--query", help="What search finds for this; shown and asked for first.")
    ] = None,
    embedder: Embedder = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="With --query: how many at most.")] = 8,
    yes: Yes = False,
    as_json: AsJson = False,
) -> int:
    """Forget some things of one partition: they are not recalled again. That no byte is left is what erase does.

    With --json: {"forgotten": how many}; --query needs --yes then.
    """
    from shipworthy.app.commands import memories as commands

    if sum([bool(ids), before is not None or query is not None]) != 1:
        raise typer.BadParameter("pass --id, --before, --query, or the last two together")
    scope = commands.whose(tenant, user, session)
    what = commands.What(tuple(ids or ()), before, query, limit, yes)
    return commands.with_memory(
        where, embedder=embedder, as_json=as_json, work=lambda p, o: commands.forget(p, o, scope, what)
    )


@memory.command()
def erase(
    where: Where,
    tenant: Tenant,
    user: User = None,
    session: Session = None,
    journals: Annotated[
        str | None,
        typer.Option(
            "--journals",
            metavar="STORE",
            help="sqlite:<path> or postgres://...: where the runs are. An agent has its own.",
        ),
    ] = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> int:
    """Erase a session, a user or a tenant for good, with all that is within it, and their runs' journals.

    Name the agent if it writes an audit log: one elsewhere than the runs forgets through it alone, and only its key can
    enter that somebody was erased.
    May be interrupted, and done again. Exit code 1 if something could not be erased. With --json:
    {"erased": {"records", "runs", "remains": [...]}}; needs --yes.
    """
    from shipworthy.app.commands import memories as commands

    scope = commands.whose(tenant, user, session)
    return commands.with_memory(
        where, journals=journals, as_json=as_json, work=lambda p, o: commands.erase(p, o, scope, yes=yes)
    )


@memory.command()
def reindex(where: Where, embedder: Embedder = None, as_json: AsJson = False) -> int:
    """Make everybody's vectors anew, with another embedder. For operators; may be interrupted, and run again.

    With --json: {"memory", "embedder", "changed": how many things}.
    """
    from shipworthy.app.commands import memories as commands

    return commands.reindex(where, embedder, as_json=as_json)
