"""`shipworthy runs`: looking at what a store holds, and going on with it."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec

from shipworthy.app.commands import results, timeline
from shipworthy.app.commands.answering import waiting_words
from shipworthy.app.commands.printing import OK, PAUSED, Printer
from shipworthy.app.commands.target import closing, load_agent
from shipworthy.app.commands.visible import visible
from shipworthy.app.inputs import run_id_of
from shipworthy.app.runtimes import runtime_for
from shipworthy.app.signing import keys_of
from shipworthy.domain.effects import DidNotHappen, Happened, Settlement
from shipworthy.domain.grants import SigningKey
from shipworthy.domain.journal import RunFilter, RunSummary
from shipworthy.domain.scope import ERASED_RUN, Operator, Scope
from shipworthy.engine.pending import pending_of
from shipworthy.engine.runtime import Runtime
from shipworthy.errors import ConfigurationError, IdentityMissing, InputError
from shipworthy.ports.store import Store
from shipworthy.rules.spending import spent
from shipworthy.rules.state import replay
from shipworthy.rules.text import clean

_STORES = "Pass sqlite:<path> or postgres://user@host/database."


class Where(msgspec.Struct, frozen=True):
    """Which store is meant: its own address, or that of an agent which has it."""

    store: str | None
    agent: str | None
    key_file: str | None = None


def with_store(
    where: Where, *, as_json: bool, work: Callable[[Printer, Store], Coroutine[Any, Any, int]]
) -> int:
    """Do *work* on the store; gives its exit code."""
    return with_runtime(where, as_json=as_json, work=lambda printer, runtime: work(printer, runtime.store))


def with_runtime(
    where: Where, *, as_json: bool, work: Callable[[Printer, Runtime], Coroutine[Any, Any, int]]
) -> int:
    """Do *work* on the store and its keys; gives its exit code."""
    printer = Printer(as_json=as_json)

    async def go() -> int:
        async with opened(where) as runtime:
            return await work(printer, runtime)

    with printer.user_code():
        return asyncio.run(go())


@contextlib.asynccontextmanager
async def opened(where: Where) -> AsyncIterator[Runtime]:
    """The runtime that is meant, in which nothing is driven. Raises ConfigurationError."""
    if (where.store is None) == (where.agent is None):
        raise ConfigurationError(
            "Which store?",
            fix="Pass one of --store sqlite:<path> (or postgres://...) and --agent module:agent.",
        )
    if where.agent is not None:
        if where.key_file is not None:
            raise ConfigurationError(
                "--agent has the keys of its own runtime.", fix="Leave --key-file out, or name --store."
            )
        async with closing(load_agent(where.agent)) as agent:
            await agent.runtime.open()
            yield agent.runtime
        return
    runtime = existing(where.store or "")
    if where.key_file is not None:
        runtime = Runtime(runtime.store, runtime.driver, signing_keys=keys_in(where.key_file))
    await runtime.open()
    try:
        yield runtime
    finally:
        await runtime.close()


def keys_in(file: str) -> tuple[SigningKey, ...]:
    """The keys in a file: one a line, newest first; empty lines, and those that begin with #, are left out. Raises
    ConfigurationError, which quotes none of it."""
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigurationError(
            f"The key file {file} cannot be read: {why}.", fix="Name a file with a key on each line."
        ) from None
    keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not keys:
        raise ConfigurationError(f"The key file {file} has no key.", fix="Write a key on each line.")
    return keys_of(keys)


def existing(address: str) -> Runtime:
    """A runtime on what is there already: looking must not create a file."""
    place_of(address)
    if address.startswith("sqlite:") and not os.path.exists(path := address.removeprefix("sqlite:")):
        raise ConfigurationError(f"There is no database at {path}.", fix=_STORES)
    return runtime_for(address)


def place_of(address: str) -> str:
    """What a store is called in texts and journals: without user, password and settings. Raises ConfigurationError for
    what is no durable store."""
    kind, _, path = address.partition(":")
    if kind == "sqlite" and path:
        return f"sqlite:{os.path.realpath(path)}"
    if kind not in ("postgres", "postgresql") or not path.startswith("//"):
        named = repr(kind) if kind.isidentifier() else "That"
        raise ConfigurationError(f"{named} is not a runtime that keeps its runs.", fix=_STORES)
    try:
        said = urlsplit(address)
        options = dict(parse_qsl(said.query))
        hosts = [urlsplit(f"//{host}") for host in said.netloc.rpartition("@")[2].split(",")]
        where = [
            f"{h.hostname or options.get('host', '')}:{h.port or options.get('port', 5432)}" for h in hosts
        ]
    except ValueError:
        raise ConfigurationError("The address of the server cannot be read.", fix=_STORES) from None
    return f"postgres://{','.join(where)}/{options.get('dbname', said.path.lstrip('/'))}"


async def listing(printer: Printer, store: Store, scope: Scope, which: RunFilter) -> int:
    """The tenant's runs, newest first."""
    found = await store.list(scope, which)
    if printer.as_json:
        printer.emit({"runs": [summary_data(run) for run in found]})
        return OK
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("run", "status", "user", "session", "started", "events"):
        table.add_column(column, overflow="fold", justify="right" if column == "events" else "left")
    for run in found:
        scope = run.scope
        started = timeline.moment(run.started_at)
        cells = (run.run_id, run.status, scope.user or "", scope.session or "", started, str(run.events))
        table.add_row(*[timeline.one_line(cell) for cell in cells])
    printer.console.print(table) if found else printer.say("No runs.")
    return OK


async def show(printer: Printer, store: Store, scope: Scope, run_id: str, *, full: bool) -> int:
    """One run's journal, as a timeline."""
    run = await store.find(scope, run_id)
    events = await store.read(scope, run_id)
    state = replay(events)
    waiting, used = await pending_of(store, state), spent(state)
    if printer.as_json:
        told = {"run": summary_data(run), "charged": used.charged, "pending": waiting, "events": events}
        printer.emit(told)
        return OK
    whose = " / ".join([part for part in (run.scope.tenant, run.scope.user, run.scope.session) if part])
    printer.say(
        f"{run.run_id}: {run.status}, {run.events} events, {whose}, {timeline.moment(run.started_at)}\n"
    )
    if run.run_id.startswith(ERASED_RUN):
        printer.say("This run was erased: what was said in it, by whom and for whom, is gone.\n")
    printer.console.print(timeline.table(events, full=full))
    if used.charged is not None:
        printer.say(f"\ncharged: {timeline.charge_words(used.charged)}")
    for call in waiting:
        for line in waiting_words(call, run_id, run.scope.tenant):
            printer.say(line)
    return OK


def cancel(target: str, tenant: str, run_id: str, *, as_json: bool) -> int:
    """End a paused run as cancelled; gives the exit code."""
    printer = Printer(as_json=as_json)

    async def go() -> int:
        async with closing(load_agent(target)) as agent:
            result = await agent.cancel(run_id, tenant_id=tenant)
        if printer.as_json or result.status == "paused":
            results.show(printer, result, agent=target)
        else:
            printer.say(f"{visible(run_id)}: {result.status}.")
        return PAUSED if result.status == "paused" else OK

    with printer.user_code():
        return asyncio.run(go())


async def prune(printer: Printer, store: Store, before: int) -> int:
    """Forget what ended before this time."""
    forgotten = await store.prune(Operator("shipworthy runs prune"), before)
    if printer.as_json:
        printer.emit({"forgotten": forgotten, "ended_before": before})
    else:
        printer.say(f"{forgotten} runs that ended before {timeline.moment(before)} were forgotten.")
    return OK


def resume(target: str, tenant: str, run_id: str, settle: dict[str, Settlement], *, as_json: bool) -> int:
    """Go on with one run; gives the exit code."""
    printer = Printer(as_json=as_json)

    async def go() -> int:
        async with closing(load_agent(target)) as agent:
            result = await agent.resume(run_id, tenant_id=tenant, settle=settle)
            return results.show(printer, result, agent=target)

    with printer.user_code():
        return asyncio.run(go())


# what people write, as values


def whose(tenant: str, user: str | None = None, session: str | None = None) -> Scope:
    """Whose runs are meant. Raises IdentityMissing for names that nobody can have."""
    for name, value in (("tenant", tenant), ("user", user), ("session", session)):
        if value is not None and (not value.strip() or clean(value) != value):
            raise IdentityMissing(
                f"--{name} {value!r} is empty, or no valid text.", fix="Pass the name itself."
            )
    return Scope(tenant, user, session)


def known_as(run_id: str) -> str:
    """A run's id. Raises InvalidPrompt for one that no run can have."""
    return run_id_of(run_id) or ""


def settlement_of(text: str) -> tuple[str, Settlement]:
    """`CALL=happened`, `CALL=happened:<json>` or `CALL=did_not_happen`, with the call's address. Raises InputError."""
    address, _, verdict = text.partition("=")
    word, colon, result = verdict.partition(":")
    if address and verdict == "did_not_happen":
        return address, DidNotHappen()
    if not address or word != "happened":
        raise InputError(
            f"--settle {text!r} settles nothing.",
            fix="Write CALL=happened, =happened:<json> or =did_not_happen.",
        )
    try:
        return address, Happened(msgspec.json.decode(result.encode()) if colon else None)
    except (msgspec.DecodeError, UnicodeEncodeError):
        raise InputError(
            f"The result in --settle {text!r} is not JSON.",
            fix="Quote a text: CALL='happened:\"the text\"'.",
        ) from None


def value_of(text: str) -> Any:
    """A JSON value. Raises InputError."""
    try:
        return msgspec.json.decode(clean(text).encode())
    except (msgspec.DecodeError, RecursionError):
        raise InputError("--json-value is no JSON.", fix="Quote a text: --json-value '\"blue\"'.") from None


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def moment_of(text: str) -> int:
    """Milliseconds since the epoch, from an age (`30d`, `12h`) or an ISO date; local time unless it says otherwise.
    Raises InputError."""
    if age := re.fullmatch(r"(\d{1,9})([smhdw])", text.strip()):
        return int((time.time() - int(age[1]) * _UNITS[age[2]]) * 1000)
    try:
        return int(datetime.datetime.fromisoformat(text.strip()).timestamp() * 1000)
    except (ValueError, OverflowError, OSError):
        raise InputError(
            f"{text!r} is neither an age nor a date.", fix="Write 30d, 12h, 2026-01-31 or 2026-01-31T12:00."
        ) from None


def summary_data(run: RunSummary) -> dict[str, Any]:
    """A run in a listing, as JSON has it."""
    return {
        "run_id": run.run_id,
        "tenant": run.scope.tenant,
        "user": run.scope.user,
        "session": run.scope.session,
        "status": run.status,
        "started_at": run.started_at,
        "updated_at": run.updated_at,
        "events": run.events,
    }
