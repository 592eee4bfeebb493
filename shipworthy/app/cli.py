"""The command line: what each command takes. What it does is in `shipworthy.app.commands`, imported when it runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from shipworthy.app.cli_approvals import approvals
from shipworthy.app.cli_audit import audit
from shipworthy.app.cli_budget import budget
from shipworthy.app.cli_memory import memory
from shipworthy.app.cli_policy import policy

_EXIT_CODES = """Exit codes: 0 done; 1 error, or the run failed; 2 wrong usage; 3 paused, a person is waited for; \
4 stopped or cancelled; 130 interrupted. With --json, stdout has JSON and nothing else, errors included \
({"error": {"type", "what", "fix"}}); logs and remarks go to stderr."""

app = typer.Typer(
    name="shipworthy",
    help="Durable AI agents: run them, look at their journals, go on after a crash.",
    epilog=_EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
runs = typer.Typer(
    help="What a store holds: list, show, answer, resume, cancel, check, recover, export, migrate, prune.",
    epilog=_EXIT_CODES,
    no_args_is_help=True,
)
app.add_typer(runs, name="runs")
app.add_typer(approvals, name="approvals", epilog=_EXIT_CODES)
app.add_typer(budget, name="budget", epilog=_EXIT_CODES)
app.add_typer(memory, name="memory", epilog=_EXIT_CODES)
app.add_typer(policy, name="policy", epilog=_EXIT_CODES)
app.add_typer(audit, name="audit", epilog=_EXIT_CODES)

Target = Annotated[
    str,
    typer.Argument(metavar="AGENT", help="module:agent or path/to/file.py:agent; a function may return it."),
]
Tenant = Annotated[str, typer.Option("--tenant", "-t", help="Whose runs; there is no default.")]
MaybeTenant = Annotated[str | None, typer.Option("--tenant", "-t", help="Whose run it is.")]
MaybeUser = Annotated[str | None, typer.Option("--user", "-u", help="The tenant's user.")]
MaybeSession = Annotated[
    str | None, typer.Option("--session", "-s", help="The user's session, to go on with.")
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout.")]
StoreOption = Annotated[str | None, typer.Option("--store", help="sqlite:<path> or postgres://...")]
AgentOption = Annotated[str | None, typer.Option("--agent", help="module:agent, for its store.")]
TheAgent = Annotated[str, typer.Option("--agent", help="module:agent that goes on with the run.")]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="The run's id.")]


@app.callback(invoke_without_command=True)
def _shipworthy(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        import shipworthy

        typer.echo(shipworthy.__version__)
        raise typer.Exit()


@app.command()
def run(
    agent: Target,
    prompt: Annotated[str, typer.Argument(help="What to say; - reads it from stdin.")],
    tenant: MaybeTenant = None,
    user: MaybeUser = None,
    session: MaybeSession = None,
    run_id: Annotated[
        str | None,
        typer.Option(help="Your id for the run: the same call again continues it, or gives its result."),
    ] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds for the run.")] = None,
    stream: Annotated[
        bool | None,
        typer.Option("--stream/--no-stream", help="Text as it comes (by default on a terminal)."),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Run an agent once.

    With --json: one document, the result. With --json --stream: a line for each item, {"event": ...} or
    {"delta": ...}, and last {"result": ...}.
    """
    from shipworthy.app.commands.running import Request
    from shipworthy.app.commands.running import run as go

    return go(
        Request(
            agent=agent,
            prompt=prompt,
            tenant=tenant,
            user=user,
            session=session,
            run_id=run_id,
            timeout=timeout,
            stream=stream,
            as_json=as_json,
        )
    )


@app.command()
def chat(
    agent: Target,
    tenant: Tenant,
    user: Annotated[str, typer.Option("--user", "-u", help="The tenant's user.")],
    session: MaybeSession = None,
    as_json: AsJson = False,
) -> int:
    """Talk to an agent in one session. Ctrl-C cancels an answer, Ctrl-D leaves.

    With --json: prompts are lines of stdin, and each gives a line with its result.
    """
    import uuid

    from shipworthy.app.commands.chatting import chat as go

    return go(agent, tenant, user, session or f"chat-{uuid.uuid4().hex[:8]}", as_json=as_json)


@app.command()
def worker(
    agent: Target,
    temporal: Annotated[
        str | None,
        typer.Option(
            "--temporal", metavar="ADDRESS", help="host:port; by default that of the agent's runtime."
        ),
    ] = None,
    namespace: Annotated[str | None, typer.Option(help="By default the runtime's, or default.")] = None,
    task_queue: Annotated[str | None, typer.Option(help="By default the runtime's, or shipworthy.")] = None,
    as_json: AsJson = False,
) -> int:
    """Take steps of the agent's runs for Temporal, until SIGTERM or Ctrl-C; then other workers go on with them.

    With --json: {"serving": ...} once it listens.
    """
    from shipworthy.app.commands.working import Request, work

    return work(
        Request(agent=agent, address=temporal, namespace=namespace, task_queue=task_queue, as_json=as_json)
    )


@runs.command("list")
def list_runs(
    tenant: Tenant,
    store: StoreOption = None,
    agent: AgentOption = None,
    user: MaybeUser = None,
    session: MaybeSession = None,
    status: Annotated[
        str | None, typer.Option(help="running, paused, completed, stopped, cancelled or failed.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many.")] = 50,
    before: Annotated[
        str | None, typer.Option(help="Only runs started before: 30d, 12h, or an ISO date.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """A tenant's runs, newest first. With --json: {"runs": [...]}, times in milliseconds since the epoch."""
    from typing import get_args

    from shipworthy.app.commands import runs as commands
    from shipworthy.domain.events import RunStatus
    from shipworthy.domain.journal import RunFilter

    if status is not None and status not in get_args(RunStatus):
        raise typer.BadParameter(f"status {status!r} is none of {', '.join(get_args(RunStatus))}")
    started_before = None if before is None else commands.moment_of(before)
    which = RunFilter(status, limit, started_before)  # type: ignore[arg-type]
    scope = commands.whose(tenant, user, session)
    return commands.with_store(
        commands.Where(store, agent), as_json=as_json, work=lambda p, s: commands.listing(p, s, scope, which)
    )


@runs.command()
def show(
    run_id: RunId,
    tenant: Tenant,
    store: StoreOption = None,
    agent: AgentOption = None,
    full: Annotated[bool, typer.Option("--full", help="Whole texts, not a line each.")] = False,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what comes, until the run ends or Ctrl-C.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """A run's journal as a timeline. With --json: {"run": ..., "events": [...]}.

    With --follow, also what any process adds to it; the exit code says how the run ended. With --follow --json: a line
    for each {"event": ...}, and last {"run": ...}.
    """
    from shipworthy.app.commands import runs as commands

    scope, known = commands.whose(tenant), commands.known_as(run_id)
    if follow:
        from shipworthy.app.commands.following import follow as go

        return commands.with_store(
            commands.Where(store, agent), as_json=as_json, work=lambda p, s: go(p, s, scope, known, full=full)
        )
    return commands.with_store(
        commands.Where(store, agent),
        as_json=as_json,
        work=lambda p, s: commands.show(p, s, scope, known, full=full),
    )


@runs.command()
def resume(
    run_id: RunId,
    tenant: Tenant,
    agent: TheAgent,
    settle: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CALL=VERDICT",
            help="What is known of a call in doubt, by its address: CALL=happened, CALL=happened:<json of its "
            "result>, or CALL=did_not_happen. May be given several times.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Go on with a run that crashed or is paused; an ended one gives its result again."""
    from shipworthy.app.commands import runs as commands

    settlements = dict([commands.settlement_of(text) for text in settle or []])
    return commands.resume(agent, tenant, run_id, settlements, as_json=as_json)


@runs.command()
def answer(
    run_id: RunId,
    tenant: Tenant,
    json_value: Annotated[str, typer.Option("--json-value", metavar="JSON", help="The answer, as JSON.")],
    address: Annotated[
        str | None, typer.Option("--address", help="Which call asks; may be left out where one does.")
    ] = None,
    store: StoreOption = None,
    agent: AgentOption = None,
    as_json: AsJson = False,
) -> int:
    """Answer what a tool of a paused run asks (ask_human, pause_here). Nothing is carried out by this.

    Exit code 3 if the run waits for more answers. With --json: {"answered": {...}, "waiting": [...]}.
    """
    from shipworthy.app.commands import runs as commands
    from shipworthy.app.commands.answering import answer as go

    scope, known, value = commands.whose(tenant), commands.known_as(run_id), commands.value_of(json_value)
    return commands.with_runtime(
        commands.Where(store, agent),
        as_json=as_json,
        work=lambda p, r: go(p, r, scope, known, address, value),
    )


@runs.command()
def cancel(run_id: RunId, tenant: Tenant, agent: TheAgent, as_json: AsJson = False) -> int:
    """End a paused run as cancelled, with the nested runs it waits for; an ended one is left as it is.

    Exit code 3 if a call of it is in doubt: it ends when that is settled. With --json: the result.
    """
    from shipworthy.app.commands import runs as commands

    commands.whose(tenant)
    return commands.cancel(agent, tenant, commands.known_as(run_id), as_json=as_json)


@runs.command()
def check(
    agent: Target,
    tenant: MaybeTenant = None,
    store: StoreOption = None,
    as_json: AsJson = False,
) -> int:
    """Which paused runs of the agent would break with the code as it is now, and why. Nothing is changed, and no tool,
    model or hook is called.

    Of every tenant, unless one is named. Exit code 1 if any would break. With --json: {"runs", "broken": [...],
    "not_asked": [...]}.
    """
    from shipworthy.app.commands import runs as commands
    from shipworthy.app.commands.checking import check as go

    if tenant is not None:
        commands.whose(tenant)
    return go(agent, tenant, store, as_json=as_json)


@runs.command()
def recover(agent: TheAgent, as_json: AsJson = False) -> int:
    """Resume every run of the agent that lost its process, of all tenants. For operators."""
    from shipworthy.app.commands.recovering import recover as go

    return go(agent, as_json=as_json)


@runs.command()
def export(
    run_id: RunId,
    tenant: Tenant,
    store: StoreOption = None,
    agent: AgentOption = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A new file; stdout by default.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Errors as JSON; the export is JSON lines anyway.")
    ] = False,
) -> int:
    """A whole run as JSON lines: its summary, every event, every body, and an end line with their numbers."""
    from shipworthy.app.commands import runs as commands
    from shipworthy.app.commands.exporting import export as go

    scope, known = commands.whose(tenant), commands.known_as(run_id)
    return commands.with_store(
        commands.Where(store, agent), as_json=True, work=lambda p, s: go(p, s, scope, known, output)
    )


@runs.command()
def migrate(
    source: Annotated[
        str, typer.Option("--from", metavar="STORE", help="sqlite:<path> or postgres://..., which is left.")
    ],
    destination: Annotated[
        str, typer.Option("--to", metavar="STORE", help="sqlite:<path> or postgres://..., which is gone to.")
    ],
    tenant: MaybeTenant = None,
    as_json: AsJson = False,
) -> int:
    """Bring every run to another store, of every tenant unless one is named. For operators; may be interrupted, and
    run again.

    Exit code 1 if a run was left behind: it is named, with what to do. With --json: {"from", "to", "runs", "copied",
    "moved", "there", "counters", "left": [...]}.
    """
    from shipworthy.app.commands import runs as commands
    from shipworthy.app.commands.migrating import migrate as go

    if tenant is not None:
        commands.whose(tenant)
    return go(source, destination, tenant, as_json=as_json)


@runs.command()
def prune(
    before: Annotated[str, typer.Option(help="Forget what ended before: 30d, 12h, or an ISO date.")],
    store: StoreOption = None,
    agent: AgentOption = None,
    as_json: AsJson = False,
) -> int:
    """Forget ended runs of every tenant, for good. For operators; what a session still reaches is kept."""
    from shipworthy.app.commands import runs as commands

    ended_before = commands.moment_of(before)
    return commands.with_store(
        commands.Where(store, agent), as_json=as_json, work=lambda p, s: commands.prune(p, s, ended_before)
    )


@app.command()
def demo(
    model: Annotated[
        str | None,
        typer.Option(
            help="openai:<model>, anthropic:<model> (their keys are needed), or local; scripted by default."
        ),
    ] = None,
    keep: Annotated[
        Path | None, typer.Option(help="A new folder that keeps the database and the rest.")
    ] = None,
    fast: Annotated[bool, typer.Option("--fast", help="No pauses for reading.")] = False,
    mutant: Annotated[
        str | None, typer.Option(help="Break the demo on purpose (twice): a check must then fail.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Two tenants, real tools, processes killed in the middle of a tool call; then every claim is checked.

    Needs no key and no network. Exit code 1 if a check fails. With --json: one document with the claims.
    """
    from shipworthy.app.demo.main import demo as go

    return go(model, keep, fast=fast, mutant=mutant, as_json=as_json)


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point; ends the process with the exit code."""
    from shipworthy.app.commands.printing import quiet_logs

    quiet_logs()
    sys.exit(invoke(sys.argv[1:] if arguments is None else arguments))


def invoke(arguments: Sequence[str]) -> int:
    """Run one command and give its exit code. Every error is said here, and nowhere else."""
    try:
        code: Any = app(args=list(arguments), prog_name="shipworthy", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), 1
        )  # whoever read stdout has left; nothing more is to be said
        return 1
    except Exception as error:
        from shipworthy.app.commands.printing import Printer, failed, misused

        printer = Printer(as_json="--json" in arguments)
        misuse = getattr(error, "format_message", None)  # typer's own errors, whatever its release calls them
        return failed(error, printer) if misuse is None else misused(misuse(), printer)


if __name__ == "__main__":
    main()
