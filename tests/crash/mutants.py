"""Deliberately broken variants of the product, switched on in a child: each must be caught by its proof.

They replace parts of the product from outside; where one is not there any more, that is an error.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from typing import Any

import psycopg


def _replace(owner: Any, name: str, made: Callable[[Any], Any]) -> None:
    setattr(owner, name, made(getattr(owner, name)))


def _record_intents(run: Any, attempts: Any) -> None:
    from shipworthy.domain.events import ToolAttempted

    for each in attempts:
        run.record(
            ToolAttempted(
                call_id=each.call.call.call_id,
                attempt=each.call.attempts + 1,
                start_by=run.store.start_by(),
                timeout=each.timeout,
            )
        )


def effect_before_intent() -> None:
    """The body starts before its intent is durable."""
    from shipworthy.engine import execute

    async def intend(run: Any, attempts: Any) -> None:
        _record_intents(run, attempts)

    _replace(execute, "_intend", lambda _: intend)


def late_start() -> None:
    """A body starts however much time went by since its intent was recorded."""
    from shipworthy.engine import execute

    async def intend(run: Any, attempts: Any) -> None:
        _record_intents(run, attempts)
        await run.commit()

    _replace(execute, "_intend", lambda _: intend)


def no_fence() -> None:
    """The store writes for whoever asks: token, owner and place in the journal are ignored."""
    from shipworthy.adapters.sqlite import operations

    def open_to_all(query: str) -> str:
        for column in ("fence", "head", "worker"):
            assert f"AND {column} = ?" in query
            query = query.replace(f"AND {column} = ?", f"AND ({column} = ? OR 1)")
        return query

    _replace(operations, "_GO_ON", open_to_all)
    _replace(operations, "_CHANGE", open_to_all)


def no_fsync() -> None:
    """SQLite is told not to sync."""
    from shipworthy.adapters.sqlite import connection

    def careless(connect: Callable[..., Any]) -> Callable[..., Any]:
        def connect_carelessly(*args: Any, **options: Any) -> Any:
            made = connect(*args, **options)
            made.pragma("synchronous", 0)
            return made

        return connect_carelessly

    _replace(connection, "connect", careless)


def doubt_forgotten() -> None:
    """After a resume an attempted `once` call is as good as one that was never made."""
    from shipworthy.rules import state

    def forgetful(resumed: Callable[..., None]) -> Callable[..., None]:
        def resume(run: Any, event: Any) -> None:
            resumed(run, event)
            for call in run.calls.values():
                if call.status == "in_doubt":
                    call.status, call.open_attempt = "unjudged", False

        return resume

    _replace(state, "_resumed", forgetful)


def shown_before_durable() -> None:
    """Whoever reads along is told of events before they are committed."""
    from shipworthy.engine.live import LiveRun

    publish = LiveRun._publish

    def eager(commit: Callable[..., Any]) -> Callable[..., Any]:
        async def show_and_commit(self: Any) -> None:
            publish(self, list(self._pending))
            for _ in range(3):
                await asyncio.sleep(0)
            await commit(self)

        return show_and_commit

    _replace(LiveRun, "commit", eager)
    _replace(LiveRun, "_publish", lambda _: lambda self, events: None)


def replayed_by_position() -> None:
    """A call is given the result that an earlier call of the same tool had in the same place of its answer."""
    from shipworthy.domain.events import ToolReturned
    from shipworthy.domain.messages import ToolCall, ToolResult
    from shipworthy.engine import gate

    def remembering(may_run: Callable[..., Any]) -> Callable[..., Any]:
        async def answer_from_memory(run: Any, call: Any, tool: Any) -> Any:
            place = list(run.state.calls).index(call.call.call_id)
            for asked, told in zip(run.state.messages, run.state.messages[1:], strict=False):
                made = [p for p in asked.parts if isinstance(p, ToolCall)]
                old = [p for p in told.parts if isinstance(p, ToolResult)]
                if old and place < len(made) and made[place].name == call.call.name:
                    run.record(ToolReturned(call_id=call.call.call_id, content=old[place].content))
                    return None
            return await may_run(run, call, tool)

        return answer_from_memory

    _replace(gate, "_may_run", remembering)


def settled_too_early() -> None:
    """That an effect did not happen is believed of a stopped worker's call while it could still happen."""
    from shipworthy.engine import settle

    _replace(settle, "still_possible_for", lambda _: lambda run, call: 0)


def resend_is_new() -> None:
    """A group that is sent again after a lost answer is said to be sent for the first time."""
    from shipworthy.adapters.postgres import writer

    _replace(writer, "_values", lambda values: lambda me, again, batches: values(me, False, batches))


def left_to_the_server() -> None:
    """The server is not asked to sync what it acknowledges."""
    from shipworthy.adapters.postgres import store

    _replace(store, "Server", lambda server: lambda dsn, durable, patience: server(dsn, False, patience))


def answered_before_commit() -> None:
    """Whoever waits for a group is told of it while its transaction is still open."""
    from shipworthy.adapters.postgres.writer import Writer

    def within(perform: Callable[..., None]) -> Callable[..., None]:
        def begin_and_perform(self: Any, group: Any) -> None:
            self._connection = self._connection or self._connect()
            self._connection.autocommit = False
            perform(self, group)

        return begin_and_perform

    def commit_late(self: Any) -> None:
        time.sleep(0.3)
        self._connection.commit()
        self._connection.autocommit = True

    _replace(Writer, "_perform", within)
    _replace(Writer, "_after", lambda _: commit_late)


_REWRITTEN: dict[str, tuple[str, dict[str, str]]] = {
    # as `no_fence` of SQLite: whoever asks, and wherever in the journal
    "no_fence": (
        "append",
        {
            r"AND r\.fence = b\.token AND r\.head = b\.first - 1 AND r\.worker = me": "",
            r"(INSERT INTO journal VALUES \([^)]*\))": r"\1 ON CONFLICT DO NOTHING",
        },
    ),
    # a worker whose session is lost is taken for a dead one
    "lost_is_dead": ("claim", {r"previous := 'expired';(\s*END IF;\s*IF)": r"previous := 'dead';\1"}),
    # who takes over, and takes the run again before anything is recorded, knows nothing of the stopped worker
    "expired_forgotten": ("claim", {r"IF r\.expired THEN .*? END IF;": ""}),
    # one batch that fails takes the others of its group with it
    "no_savepoint": ("append", {r"EXCEPTION\s+WHEN .*?SQLERRM;": ""}),
}
"""Functions of the Postgres schema, and what is said there instead of what."""


def rewrite(name: str, database: str) -> None:
    """Break the schema of a database, once; its comment says so."""
    function, changes = _REWRITTEN[name]
    with psycopg.connect(database) as connection:
        connection.execute("LOCK TABLE shipworthy.meta")
        if connection.execute("SELECT obj_description('shipworthy'::regnamespace)").fetchall() != [(None,)]:
            return
        where = f"'shipworthy.{function}'::regproc"
        [(text,)] = connection.execute(f"SELECT pg_get_functiondef({where})").fetchall()
        for old, new in changes.items():
            text, found = re.subn(old, new, text, flags=re.DOTALL)
            assert found == 1, old
        connection.execute(text)
        connection.execute("COMMENT ON SCHEMA shipworthy IS 'broken'")


_MUTANTS: dict[str, Callable[[], None]] = {
    made.__name__: made
    for made in (
        effect_before_intent,
        no_fence,
        no_fsync,
        doubt_forgotten,
        shown_before_durable,
        replayed_by_position,
        settled_too_early,
        late_start,
        resend_is_new,
        answered_before_commit,
        left_to_the_server,
    )
}


def switch_on(name: str, database: str = "") -> None:
    """Break this process."""
    if database and name in _REWRITTEN:
        rewrite(name, database)
    else:
        _MUTANTS[name]()
