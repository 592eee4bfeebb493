"""`shipworthy policy`: what its commands take. What they do is in `commands.policies` and `commands.replaying`."""

from __future__ import annotations

from typing import Annotated

import typer

policy = typer.Typer(
    help="What a policy document says: check, explain, replay over recorded runs.",
    no_args_is_help=True,
)

File = Annotated[str, typer.Argument(metavar="FILE", help="A policy document: .toml or .json.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout.")]
Agent = Annotated[
    str | None,
    typer.Option("--agent", help="module:agent, whose tools say their kind, effect, labels and source."),
]


@policy.command()
def check(file: File, as_json: AsJson = False) -> int:
    """Whether FILE is a policy document; says what is wrong with it, and how to mend it.

    With --json: {"policy": {"file", "version", "statements"}}.
    """
    from shipworthy.app.commands import policies as commands

    return commands.check(file, as_json=as_json)


@policy.command()
def explain(
    file: File,
    tool: Annotated[str, typer.Option("--tool", help="The tool, or the nested agent, that is called.")],
    kind: Annotated[str | None, typer.Option("--kind", help="tool (the default), agent or memory.")] = None,
    effect: Annotated[
        str | None, typer.Option("--effect", help="read, idempotent or once; once by default.")
    ] = None,
    arguments: Annotated[str, typer.Option("--args", help="The call's arguments, a JSON object.")] = "{}",
    tenant: Annotated[str | None, typer.Option("--tenant", "-t", help="Whose call it is.")] = None,
    user: Annotated[str | None, typer.Option("--user", "-u", help="The tenant's user.")] = None,
    session: Annotated[str | None, typer.Option("--session", "-s", help="The user's session.")] = None,
    path: Annotated[
        str, typer.Option("--path", help="Names of agents from the outermost one on, joined with /.")
    ] = "",
    label: Annotated[
        list[str] | None, typer.Option("--label", help="A label of the tool; may be given several times.")
    ] = None,
    source: Annotated[str | None, typer.Option("--source", help="Where the tool comes from.")] = None,
    returned: Annotated[
        list[str] | None,
        typer.Option("--returned", metavar="TOOL=COUNT", help="Results that the run has had from a tool."),
    ] = None,
    allowed: Annotated[
        list[str] | None,
        typer.Option("--allowed", metavar="TOOL=COUNT", help="Calls of a tool that were allowed before."),
    ] = None,
    at: Annotated[
        str | None, typer.Option("--at", help="When: an ISO date, or 12h for so long ago; now by default.")
    ] = None,
    agent: Agent = None,
    as_json: AsJson = False,
) -> int:
    """Which statement decides a call, which others match, and what keeps the rest of those about it from matching.

    Exit code 0 if the call is allowed, 3 if people are asked, 4 if it is denied. With --json: {"explanation": {...}}.
    """
    from shipworthy.app.commands import policies as commands

    question = commands.Question(
        tool=tool,
        kind=kind,
        effect=effect,
        arguments=arguments,
        tenant=tenant,
        user=user,
        session=session,
        path=path,
        labels=label or (),
        source=source,
        returned=returned or (),
        allowed=allowed or (),
        at=at,
        agent=agent,
    )
    return commands.explain(file, question, as_json=as_json)


@policy.command()
def replay(
    file: File,
    tenant: Annotated[str, typer.Option("--tenant", "-t", help="Whose runs; there is no default.")],
    store: Annotated[str | None, typer.Option("--store", help="sqlite:<path> or postgres://...")] = None,
    agent: Annotated[
        str | None,
        typer.Option("--agent", help="module:agent, for its store, and for its tools' kinds and labels."),
    ] = None,
    user: Annotated[str | None, typer.Option("--user", "-u", help="The tenant's user.")] = None,
    since: Annotated[
        str | None, typer.Option("--since", help="Only runs started since: 30d, 12h, or an ISO date.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many runs, the newest.")] = 1000,
    as_json: AsJson = False,
) -> int:
    """What FILE would have changed: each call of recorded runs that it judges otherwise than it was judged then.

    What a call found is what its run found when it was first judged: its arguments, its time, the results so far.
    Journals do not say what a tool is labelled with; --agent does. Exit code 1 if anything would have changed, or a run
    could not be read. With --json: {"policy", "runs", "calls", "changed": [...], "unread": [...]}.
    """
    from shipworthy.app.commands import replaying
    from shipworthy.app.commands import runs as commands
    from shipworthy.app.policy_documents import PolicyDocument

    scope = commands.whose(tenant, user)
    started = None if since is None else commands.moment_of(since)
    asked = replaying.Replay(PolicyDocument.load(file), started, limit, agent)
    where = commands.Where(store, None if store else agent)
    return commands.with_store(where, as_json=as_json, work=lambda p, s: replaying.replay(p, s, scope, asked))
