"""`shipworthy audit`: what its commands take. What they do is in `shipworthy.app.commands`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shipworthy.app.cli_witness import witness

audit = typer.Typer(
    help="Audit logs: verify, show, follow, export, prove, keys, witness.",
    no_args_is_help=True,
)
keys = typer.Typer(help="The keys of audit logs: new, seal, show, rotate.", no_args_is_help=True)
audit.add_typer(keys, name="keys")
audit.command()(witness)

Log = Annotated[
    str,
    typer.Argument(
        metavar="LOG",
        help="The path of a log's file, sqlite:<path> or postgres://...; #name after the last two.",
    ),
]
SecretEnv = Annotated[
    list[str] | None,
    typer.Option(
        "--secret-env",
        metavar="NAME",
        help="An environment variable that has a secret. May be given several times.",
    ),
]
SecretFile = Annotated[
    list[Path] | None,
    typer.Option(
        "--secret-file", metavar="FILE", help="A file that has a secret. May be given several times."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout.")]
Tenant = Annotated[str | None, typer.Option("--tenant", "-t", help="Only this tenant's.")]
User = Annotated[str | None, typer.Option("--user", "-u", help="Only this user's.")]
Run = Annotated[str | None, typer.Option("--run-id", help="Only this run's.")]
Action = Annotated[
    str | None, typer.Option("--action", help='Only this action, or all that begin with it: "tool.".')
]
Actor = Annotated[
    str | None, typer.Option("--actor", help='Only this actor\'s, or all that begin with it: "approver:".')
]
Since = Annotated[
    str | None, typer.Option("--since", help="Only what happened since: 30d, 12h, or an ISO date.")
]


@audit.command()
def verify(
    log: Log,
    secret_env: SecretEnv = None,
    secret_file: SecretFile = None,
    anchor: Annotated[
        list[str] | None,
        typer.Option(
            "--anchor",
            metavar="ANCHOR",
            help="A file, postgres://..., s3://bucket/prefix or https://witness. May be given several times.",
        ),
    ] = None,
    expect_log: Annotated[
        str | None, typer.Option("--expect-log", metavar="ID", help="The id that the log must have.")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", help="What the anchors know the log by; by default what it says itself."),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Whether a log is as it was written: each entry, its end, and what its checkpoints say. Exit code 1 if it is not,
    2 if an anchor could not be asked.

    Names the first entry that is wrong and what was done to it, and says what could have been done without a trace.
    With --json: {"audit": {"verdict", "entry", "what", "means", "fix", ...}}.
    """
    from shipworthy.app.commands.opening_audit import Given
    from shipworthy.app.commands.verifying_audit import Request
    from shipworthy.app.commands.verifying_audit import verify as go
    from shipworthy.rules.audit.formed import LOG

    if expect_log is not None and not LOG.match(expect_log):
        raise typer.BadParameter("--expect-log takes the id of a log: 32 hexadecimal digits, in lower case")
    given = Given(secret_env or (), secret_file or ())
    return go(Request(log, given, anchor or (), expect_log, name, as_json))


@audit.command()
def show(
    log: Log,
    tenant: Tenant = None,
    user: User = None,
    run_id: Run = None,
    action: Action = None,
    actor: Actor = None,
    since: Since = None,
    until: Annotated[
        str | None, typer.Option("--until", help="Only what happened before: 30d, 12h, or an ISO date.")
    ] = None,
    last: Annotated[int | None, typer.Option("--last", min=1, help="Only the last so many.")] = None,
    bodies: Annotated[bool, typer.Option("--bodies", help="What was said, too.")] = False,
    holding: Annotated[
        bool,
        typer.Option(
            "--holding", help="Only entries that hold: not those that a crash kept from the journal."
        ),
    ] = False,
    sums: Annotated[
        bool, typer.Option("--sums", help="In place of entries what those that hold add up to.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """The entries of a log, in its order. They are not verified, and no secret is needed.

    With --json: a line for each, {"entry": {...}}, with --bodies {"entry", "body"}; with --sums {"sums": {...}}.
    """
    from shipworthy.app.commands import showing_audit as commands
    from shipworthy.app.commands.runs import moment_of

    if sums and any([each is not None for each in (action, actor, since, until, last)]):
        raise typer.BadParameter("--sums takes --tenant, --user and --run-id, and nothing else of these")
    times = [None if each is None else moment_of(each) for each in (since, until)]
    wanted = commands.Wanted(tenant, user, run_id, action, actor, *times)
    how = commands.How(bodies, holding, last, as_json)
    return commands.sums(log, wanted, how) if sums else commands.show(log, wanted, how)


@audit.command()
def follow(
    log: Log,
    tenant: Tenant = None,
    user: User = None,
    run_id: Run = None,
    action: Action = None,
    actor: Actor = None,
    last: Annotated[int, typer.Option("--last", min=0, help="How many of those that are there, first.")] = 10,
    as_json: AsJson = False,
) -> int:
    """The last entries of a log, and each that comes, until Ctrl-C. With --json: a line for each, {"entry": {...}}."""
    from shipworthy.app.commands import showing_audit as commands

    wanted = commands.Wanted(tenant, user, run_id, action, actor)
    return commands.follow(log, wanted, commands.How(last=last, as_json=as_json))


@audit.command()
def export(
    log: Log,
    output: Annotated[Path, typer.Option("--output", "-o", help="A new file; two more are made beside it.")],
    as_json: AsJson = False,
) -> int:
    """A log as the files that `shipworthy-verify`, or anybody's verifier, reads: lines, seal and checkpoints.

    With --json: {"exported": {"files", "entries", "bodies", "checkpoints"}}.
    """
    from shipworthy.app.commands.exporting_audit import export as go

    return go(log, output, as_json=as_json)


@audit.command()
def prove(
    log: Annotated[str | None, typer.Argument(metavar="LOG", help="The log; not with --check.")] = None,
    entry: Annotated[
        int | None, typer.Option("--entry", min=0, help="Prove that this entry is under a checkpoint.")
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option("--checkpoint", help="Which: a file with its line, or how many entries it covers."),
    ] = None,
    earlier: Annotated[
        str | None, typer.Option("--from", help="Prove that a later checkpoint only added to this one.")
    ] = None,
    later: Annotated[str | None, typer.Option("--to", help="The later one.")] = None,
    check: Annotated[
        Path | None, typer.Option("--check", metavar="FILE", help="Check this proof instead.")
    ] = None,
    signer: Annotated[
        list[str] | None,
        typer.Option(
            "--signer",
            metavar="HEX",
            help="Who signs checkpoints; needed with --check. May be given several times.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """A proof for somebody who has neither the log nor a secret, on one line; or whether one holds (else exit code 1).

    With --check --json: {"proof": {"holds", "what"}}.
    """
    from shipworthy.app.commands import exporting_audit as commands

    if check is not None:
        if not signer or log is not None:
            raise typer.BadParameter("--check takes --signer, and no LOG")
        return commands.check(check, signer, as_json=as_json)
    if log is None or (entry is None) == (earlier is None) or (earlier is None) != (later is None):
        raise typer.BadParameter("pass LOG with --entry, or with --from and --to; or --check")
    return commands.prove(log, commands.Asked(entry, checkpoint, earlier, later))


@keys.command()
def new(as_json: AsJson = False) -> int:
    """Print a new secret, once; it is kept nowhere. With --json: {"key": {"secret", "id"}}."""
    from shipworthy.app.commands import audit_keys

    return audit_keys.new(as_json=as_json)


MaybeLog = Annotated[str | None, typer.Option("--log", metavar="LOG", help="The log, where there is one.")]


@keys.command()
def seal(
    output: Annotated[Path, typer.Option("--output", "-o", help="A new file, for the log's writers.")],
    secret_env: SecretEnv = None,
    secret_file: SecretFile = None,
    log: MaybeLog = None,
    name: Annotated[str | None, typer.Option("--name", help="What the log is to be called.")] = None,
    as_json: AsJson = False,
) -> int:
    """Make the sealed key file of a log: whoever steals it cannot change what was entered before.

    With --json: {"sealed": {"file", "key", "log", "name", "signer"}}.
    """
    from shipworthy.app.commands import audit_keys
    from shipworthy.app.commands.opening_audit import Given

    return audit_keys.seal(output, Given(secret_env or (), secret_file or ()), log, name, as_json=as_json)


@keys.command("show")
def show_keys(
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="A sealed key file.")] = None,
    secret_env: SecretEnv = None,
    secret_file: SecretFile = None,
    log: MaybeLog = None,
    as_json: AsJson = False,
) -> int:
    """The ids of keys, and with --log who signs its checkpoints. With --json: {"keys": [{"key", "log", "signer"}]}."""
    from shipworthy.app.commands import audit_keys
    from shipworthy.app.commands.opening_audit import Given

    return audit_keys.show(file, Given(secret_env or (), secret_file or ()), log, as_json=as_json)


@keys.command()
def rotate(
    log: Log,
    by: Annotated[str, typer.Option("--by", help="Who does it; kept in the log.")],
    why: Annotated[str, typer.Option("--why", help="Why; kept in the log.")],
    secret_env: SecretEnv = None,
    secret_file: SecretFile = None,
    to_env: Annotated[
        str | None, typer.Option("--to-env", metavar="NAME", help="A variable that has the new one.")
    ] = None,
    to_file: Annotated[
        Path | None, typer.Option("--to-file", metavar="FILE", help="A file that has the new one.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Let a new secret take over from the one that is in use (--secret-env, --secret-file). Verifiers need both.

    With --json: {"rotated": {"log", "key", "signer"}}.
    """
    from shipworthy.app.commands import audit_keys
    from shipworthy.app.commands.opening_audit import Given

    to = Given((to_env,) if to_env else (), (to_file,) if to_file else ())
    return audit_keys.rotate(log, Given(secret_env or (), secret_file or ()), to, by, why, as_json=as_json)
