"""`shipworthy memory`: what is remembered of whom, forgetting it, and making its vectors anew."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator

import msgspec
import typer

from shipworthy.app.commands import opening_memory as opening
from shipworthy.app.commands.exporting_memory import data_of, whose_data
from shipworthy.app.commands.opening_memory import Looked, Opened, whose, with_memory
from shipworthy.app.commands.printing import OK, Printer, console, note
from shipworthy.app.commands.runs import moment_of
from shipworthy.app.commands.showing_memory import lines_of, lines_of_found, named, numbered, why_data
from shipworthy.app.commands.target import closing, load_agent
from shipworthy.domain.memory import Fact, Recalled, Remembered
from shipworthy.domain.scope import Operator, Scope
from shipworthy.engine.erasing import runs_of
from shipworthy.engine.memory.memory import Memory
from shipworthy.engine.memory.records import id_of, kind_of, readable
from shipworthy.errors import ConfigurationError, InputError
from shipworthy.ports.memory import MemoryStore

__all__ = [
    "Shown",
    "What",
    "erase",
    "everybody",
    "forget",
    "listing",
    "reindex",
    "search",
    "whose",
    "with_memory",
]

_OPERATOR = Operator("shipworthy memory")
_PAGE = 200
_KINDS = {"block": "blocks", "fact": "facts", "episode": "episodes"}


class Shown(msgspec.Struct, frozen=True):
    """What of a partition is listed."""

    superseded: bool
    quarantined: bool
    limit: int


class What(msgspec.Struct, frozen=True):
    """What is to be forgotten. `yes`: do not ask for confirmation."""

    ids: tuple[str, ...]
    before: str | None
    query: str | None
    limit: int
    yes: bool


# looking


async def everybody(printer: Printer, opened: Opened, limit: int) -> int:
    """The partitions of every tenant."""
    found: dict[Scope, None] = {}
    for store in opened.memory.stores:
        after = ""
        while len(found) <= limit and (page := await store.everything(_OPERATOR, after)):
            after = page[-1][0]
            found |= dict.fromkeys([scope for _, scope in page])
    partitions = list(found)[:limit]
    if printer.as_json:
        printer.emit({"partitions": [whose_data(scope) for scope in partitions]})
        return OK
    for scope in partitions:
        printer.say(named(scope))
    if len(found) > limit:
        note(f"There are more: --limit is {limit}.")
    if not found:
        printer.say("Nothing is remembered.")
    return OK


async def listing(printer: Printer, opened: Opened, scope: Scope, shown: Shown) -> int:
    """What is in the partition, the newest of each kind, and which partitions are within it."""
    memory = opened.memory
    within = [each for store in memory.stores for each in await store.within(scope) if each != scope]
    partitions = list(dict.fromkeys(within))
    kept: dict[str, deque[Remembered]] = {kind: deque(maxlen=shown.limit) for kind in _KINDS}
    counts = dict.fromkeys(_KINDS, 0)
    async for item in _things(memory, scope):
        if not isinstance(item, Fact) or _is_shown(item, shown):
            kept[kind_of(item)].append(item)
            counts[kind_of(item)] += 1
    if printer.as_json:
        things = {_KINDS[kind]: [data_of(item) for item in items] for kind, items in kept.items()}
        numbers = {"partitions": len(partitions)} | {_KINDS[kind]: n for kind, n in counts.items()}
        some = [whose_data(each) for each in partitions[: shown.limit]]
        printer.emit({**whose_data(scope), "partitions": some, **things, "counts": numbers})
        return OK
    _say_partitions(printer, scope, partitions, shown.limit)
    for kind, items in kept.items():
        if items:
            more = "" if counts[kind] == len(items) else f", the newest {len(items)}"
            printer.say(f"\n{numbered(counts[kind], kind)}{more}")
            _say(printer, lines_of(items))
    if not any(counts.values()):
        printer.say(f"Nothing is remembered in the partition {named(scope)} itself.")
    return OK


def _say(printer: Printer, lines: Iterator[str]) -> None:
    for line in lines:
        printer.say(line)


def _say_partitions(printer: Printer, scope: Scope, partitions: list[Scope], limit: int) -> None:
    if not partitions:
        return
    printer.say(f"{numbered(len(partitions), 'partition')} within {named(scope)}:")
    for each in partitions[:limit]:
        printer.say(f"  {named(each)}")
    if len(partitions) > limit:
        printer.say(f"  ... and {len(partitions) - limit} more")


async def _things(memory: Memory, scope: Scope) -> AsyncIterator[Remembered]:
    for store in memory.stores:
        after = 0
        while page := await store.page(scope, after, _PAGE):
            after = page[-1].n
            for record in page:
                if record.kind != "topic" and (item := readable(record)) is not None:
                    yield item


def _is_shown(fact: Fact, shown: Shown) -> bool:
    if fact.quarantined and not shown.quarantined:
        return False
    return fact.superseded_at is None or shown.superseded


async def search(printer: Printer, opened: Opened, scope: Scope, query: str, limit: int) -> int:
    """What is recalled of the partition, and why."""
    found, by = await _found(opened.memory, scope, query, limit)
    if printer.as_json:
        told = [
            {
                "score": each.score,
                "why": why_data(each.why),
                "kind": kind_of(each.item),
                **data_of(each.item),
            }
            for each in found
        ]
        printer.emit({"found": told, "by": by})
        return OK
    if found:
        _say(printer, lines_of_found(found))
    else:
        printer.say(f"Nothing in {named(scope)} is found by that.")
    note(f"Searched by {by}.")
    return OK


async def _found(
    memory: Looked, scope: Scope, query: str, limit: int, before: int | None = None
) -> tuple[list[Recalled], str]:
    """What is found, and by what. Raises EmbedderError where one was to be asked."""
    await memory.ready(scope)
    if await memory.is_empty():
        return [], "words: nothing is remembered of anybody"
    await memory.settle()
    embedder = memory.vectors.embedder
    if isinstance(embedder, opening.Unasked):
        found = await memory.find([scope], query, None, limit, until=before)
        return found, f"words: its vectors are of {embedder.name}, which --embedder would have to name"
    vector, problem = await memory.vectors.of_query(query)
    if problem is not None:
        raise problem
    found = await memory.find([scope], query, vector, limit, until=before)
    return found, "words" if vector is None else "words and vectors"


# forgetting


async def forget(printer: Printer, opened: Opened, scope: Scope, what: What) -> int:
    """Forget some things of the partition."""
    memory, before = opened.memory, None if what.before is None else moment_of(what.before)
    if what.query is None:
        gone = await memory.forget(scope, ids=what.ids, before=before)
    else:
        found, by = await _found(memory, scope, what.query, what.limit, before)
        if found and not printer.as_json:
            _say(printer, lines_of_found(found))
            note(f"Searched by {by}.")
        if found:
            _confirm(printer, f"Forget {numbered(len(found), 'thing')} of {named(scope)}?", yes=what.yes)
        gone = await memory.forget(scope, ids=[id_of(each.item) for each in found]) if found else 0
    if printer.as_json:
        printer.emit({"forgotten": gone})
    else:
        printer.say(f"{numbered(gone, 'thing')} of {named(scope)} forgotten.")
    return OK


async def erase(printer: Printer, opened: Opened, scope: Scope, *, yes: bool) -> int:
    """Erase the scope from memory, and from journals where they are known."""
    memory, runtime = opened.memory, opened.runtime
    partitions = {each for store in memory.stores for each in await store.within(scope)}
    runs = 0 if runtime is None else len(await runs_of(runtime, scope))
    if not printer.as_json:
        where = "" if runtime is None else f", and {numbered(runs, 'run')}"
        printer.say(f"{named(scope)}: {numbered(len(partitions), 'partition')} of {memory.name}{where}.")
        if runtime is None:
            note("No journals are covered: --journals names where the runs are, or name the agent.")
    _confirm(printer, f"Erase {_everything_of(scope)} for good?", yes=yes)
    if runtime is not None:
        memory.covers(runtime)
    erased = await memory.erase(scope)
    if printer.as_json:
        done = {"records": erased.records, "runs": runs, "remains": erased.remains}
        printer.emit({"erased": {**whose_data(scope), **done}})
        return OK
    printer.say(f"Erased: {numbered(erased.records, 'remembered thing')}, {numbered(runs, 'run')}.")
    if erased.remains:
        printer.say("\nWhat may still hold copies:")
    for sentence in erased.remains:
        printer.say(f"- {sentence}")
    return OK


def _everything_of(scope: Scope) -> str:
    if scope.session is not None:
        return f"the session {named(scope)}"
    return (
        f"everything of the user {named(scope)}" if scope.user else f"EVERYBODY of the tenant {named(scope)}"
    )


def _confirm(printer: Printer, question: str, *, yes: bool) -> None:
    if yes:
        return
    if printer.as_json or not sys.stdin.isatty():
        raise InputError(f"{question} Nobody is there to say so.", fix="Pass --yes.")
    typer.confirm(question, abort=True, err=True)


# vectors


def reindex(where: str, embedder: str | None, *, as_json: bool) -> int:
    """Make everybody's vectors anew; gives the exit code."""
    printer = Printer(as_json=as_json)
    try:
        with printer.user_code():
            return asyncio.run(_reindex(printer, where, embedder))
    except KeyboardInterrupt:
        note("What was done is kept: the same command goes on where this one was.")
        raise


async def _reindex(printer: Printer, where: str, embedder: str | None) -> int:
    if not opening.is_address(where):
        opening.refuse_embedder(embedder)
        async with closing(load_agent(where)) as agent:
            return await _renew(printer, opening.durable(agent.memory, where))
    if embedder is None:
        raise ConfigurationError(
            "Whose vectors?",
            fix="Pass --embedder local, openai:<model>, cohere:<model>, bedrock:<model> or none.",
        )
    store = opening.existing(where)
    memory = Memory(store, embedder=None if embedder == "none" else opening.named(embedder))
    try:
        return await _renew(printer, memory)
    finally:
        await memory.close()


async def _renew(printer: Printer, memory: Memory) -> int:
    with _progress(printer) as bar:
        if bar is not None:
            bar(sum([await _partitions_of(store) for store in memory.stores]))
        changed = await memory.reindex(None if bar is None else lambda scope, changed: bar(None))
    made = memory.vectors.embedder
    name = None if made is None else made.name
    if printer.as_json:
        printer.emit({"memory": memory.name, "embedder": name, "changed": changed})
        return OK
    printer.say(f"{memory.name}: {numbered(changed, 'thing')} made anew; vectors: {name or 'none'}.")
    printer.say("Agents that were running with another embedder have to be started again.")
    return OK


async def _partitions_of(store: MemoryStore) -> int:
    await store.open()
    count, after = 0, ""
    while page := await store.everything(_OPERATOR, after):
        count, after = count + len(page), page[-1][0]
    return count


@contextlib.contextmanager
def _progress(printer: Printer) -> Iterator[Callable[[int | None], None] | None]:
    """A bar on stderr, where somebody looks at it: told the number of partitions, and then of each that is done."""
    if printer.as_json or not sys.stderr.isatty():
        yield None
        return
    from rich.progress import Progress

    with Progress(console=console(sys.stderr), transient=True) as progress:
        task = progress.add_task("reindexing", total=None)

        def told(total: int | None) -> None:
            progress.advance(task) if total is None else progress.update(task, total=total)

        yield told
