"""What a memory in DynamoDB does where something fails: every change is whole, and every error says what to do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from shipworthy.adapters.dynamodb import partitions
from shipworthy.adapters.dynamodb.connection import Connection
from shipworthy.adapters.dynamodb.layout import Place
from shipworthy.adapters.dynamodb.memory import DynamoDBMemoryStore
from shipworthy.domain.memory import Mark, Record
from shipworthy.domain.scope import Scope
from shipworthy.errors import (
    ConfigurationError,
    MemoryClosed,
    MemoryConflict,
    MemoryForeign,
    MemoryFull,
    MemoryReadOnly,
    MemoryStoreError,
    MemoryUnavailable,
    RecordTooLarge,
)
from tests.servers.dynamodb import REGION, Table, client
from tests.servers.proxy import How, Proxy
from tests.servers.session import free_port

ROOT = Path(__file__).parents[2]
ACME, ALICE = Scope("acme"), Scope("acme", "alice")
WRITES = {"put_item", "delete_item", "transact_write_items"}


def record(id: str, text: str = "said", size: int = 0) -> Record:
    return Record(id=id, kind="episode", data=text.encode() + bytes(size), at=1)


def several(text: str, size: int = 0, many: int = 3) -> list[Record]:
    return [record(str(number), text, size) for number in range(many)]


def made(table: Table, **options: Any) -> DynamoDBMemoryStore:
    return DynamoDBMemoryStore(table.name, **{"client": table.client(), "create": True} | options)


@contextlib.asynccontextmanager
async def opened(table: Table, **options: Any) -> AsyncIterator[DynamoDBMemoryStore]:
    store = made(table, **options)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits long for somebody who is not there."""
    monkeypatch.setattr(partitions, "HELP_AFTER", 0.02)


# killed at every step


class Killed(BaseException):
    """As if the process were gone."""


@contextlib.contextmanager
def dying(at: int) -> Iterator[list[int]]:
    """Whoever writes is gone before its write number *at*, and what it has written counts. Others live on."""
    right, written, mine = Connection.ask, [0], threading.local()

    def ask(self: Connection, operation: str, **request: Any) -> Any:
        if operation in WRITES and self.patience == 1.0:  # that of who is to die
            if written[0] >= at or getattr(mine, "dead", False):
                raise Killed
            written[0] += 1
        return right(self, operation, **request)

    Connection.ask = ask  # type: ignore[method-assign]
    try:
        yield written
    finally:
        Connection.ask = right  # type: ignore[method-assign]


async def said(store: DynamoDBMemoryStore) -> list[bytes]:
    """What the records say, in order."""
    return [found.data for found in await store.page(ALICE, limit=1000)]


Change = Callable[[DynamoDBMemoryStore], Any]


async def survives(table: Table, change: Change, before: list[Record], after: list[bytes]) -> int:
    """Kill whoever does *change* before each of its writes in turn: others see all of it or nothing, and one of both
    for good. How many writes it takes."""
    async with opened(table, patience=5.0) as other:
        for at in range(100):
            await other.erase(ACME)
            await other.put(ALICE, before)
            first = await said(other)
            doomed = made(table, patience=1.0)
            await doomed.open()
            with dying(at) as written:
                try:
                    await change(doomed)
                    done = True
                except Killed:
                    done = False
                assert written[0] == at or done
            seen = [await said(other) for _ in range(2)]
            news = await other.changes(ALICE, Mark(0, 0))
            assert seen[0] in (first, after), (at, seen[0])
            assert seen[0] == seen[1], at
            assert len(news.entries) == len(seen[0])
            assert await other.within(ACME) == [ALICE] * bool(seen[0])
            if done:
                assert seen[0] == after
                return at
            await other.put(ALICE, [record("later")])
            assert await said(other) == [*seen[0], b"said"]
            assert (await other.erase(ACME)).records == len(seen[0]) + 1
            assert b"first" not in every_byte(table)
            await doomed.close()
    raise AssertionError("it never ends")


def every_byte(table: Table) -> bytes:
    """All that the table has."""
    pages = table.client().get_paginator("scan").paginate(TableName=table.name)
    return repr([page["Items"] for page in pages]).encode()


@pytest.mark.parametrize(
    ("change", "after", "least"),
    [
        (lambda store: store.put(ALICE, several("second"), replace=True), [b"second"] * 3, 3),
        (
            lambda store: store.put(ALICE, several("second", 120_000), replace=True),
            [b"second" + bytes(120_000)] * 3,
            6,
        ),
        (lambda store: store.put(Scope("acme", "alice"), several("x", many=200)[3:]), None, 5),
        (lambda store: store.remove(ALICE, ["0", "1"]), [b"first"], 3),
        (lambda store: store.remove(ALICE, ["0", "1", "2"]), [], 2),
        (lambda store: store.erase(ACME), [], 2),
    ],
    ids=["replace", "replace much", "put many", "remove", "remove all", "erase"],
)
def test_a_change_whose_process_dies_is_whole_or_nothing(
    change: Change, after: list[bytes] | None, least: int, dynamodb_table: Table
) -> None:
    wanted = [b"first"] * 3 + [b"x"] * 197 if after is None else after
    steps = asyncio.run(survives(dynamodb_table, change, several("first"), wanted))
    assert steps >= least


def who_reads_does_not_look(monkeypatch: pytest.MonkeyPatch) -> None:
    right = partitions.Partitions._settled

    def settled(self: Any, place: Place, *, for_reading: bool = False) -> Any:
        return self.meta(place) if for_reading else right(self, place)

    monkeypatch.setattr(partitions.Partitions, "_settled", settled)
    monkeypatch.setattr(
        partitions.Partitions,
        "steady",
        lambda self, place, read, nothing: read(m) if (m := self.there(place)) else nothing,
    )


def nobody_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def help_(self: Any, place: Place, meta: Any) -> int:
        work = partitions.work_from(meta.head.work) if not meta.head.parts else None
        if work is not None:
            self._conclude(place, meta.token, work)
        return 0

    monkeypatch.setattr(partitions.Partitions, "_help", help_)


def what_is_done_is_not_decided_first(monkeypatch: pytest.MonkeyPatch) -> None:
    right = partitions.Partitions._begin

    def begin(self: Any, place: Place, meta: Any, token: str, work: Any) -> int:
        for put in work.puts:
            self._write([{"Put": {"Item": place.item(put)}}])
        return right(self, place, meta, token, work)

    monkeypatch.setattr(partitions.Partitions, "_begin", begin)


@pytest.mark.parametrize(
    "mutant", [who_reads_does_not_look, nobody_goes_on, what_is_done_is_not_decided_first]
)
def test_a_protocol_without_one_of_its_steps_is_caught(
    mutant: Callable[[pytest.MonkeyPatch], None], dynamodb_table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutant(monkeypatch)
    with pytest.raises((AssertionError, MemoryStoreError)):
        asyncio.run(
            survives(
                dynamodb_table,
                lambda store: store.put(ALICE, several("second", many=120), replace=True),
                several("first", many=120),
                [b"second"] * 120,
            )
        )


def anything(place: Place) -> dict[str, Any]:
    """A check that always holds."""
    return {"ConditionCheck": {"Key": place.meta, "ConditionExpression": "attribute_not_exists(nothing)"}}


@pytest.mark.parametrize("asks", [True, False])
def test_who_is_slow_does_nothing_of_a_change_that_others_have_done(
    dynamodb_table: Table, monkeypatch: pytest.MonkeyPatch, *, asks: bool
) -> None:
    """Nor brings back what was removed since: each step asks whether it is the present one. The mutant does not."""
    if not asks:
        monkeypatch.setattr(partitions.Partitions, "_during", lambda self, place, token: anything(place))

    async def scenario() -> None:
        async with opened(dynamodb_table) as slow, opened(dynamodb_table) as quick:
            finish = slow._partitions._finish

            def later(*arguments: Any) -> None:
                assert asyncio.run(quickly()) == 3
                finish(*arguments)

            async def quickly() -> int:
                async with opened(dynamodb_table) as other:
                    return (await other.erase(ALICE)).records

            slow._partitions._finish = later  # type: ignore[method-assign]
            await slow.put(ALICE, several("gone"))
            assert await quick.within(ACME) == []
            assert (b"gone" not in every_byte(dynamodb_table)) is asks

    asyncio.run(scenario())


def test_what_was_written_down_and_not_begun_is_thrown_away(
    dynamodb_table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with opened(dynamodb_table) as other:
            await other.put(ALICE, several("first"))
            doomed = made(dynamodb_table, patience=1.0)
            await doomed.open()
            with dying(2), pytest.raises(Killed):
                await doomed.put(ALICE, several("secret", 200_000), replace=True)
            await doomed.close()
            assert b"secret" in every_byte(dynamodb_table)
            await other.remove(ALICE, ["0"])
            assert b"secret" in every_byte(dynamodb_table)
            monkeypatch.setattr(partitions, "STALE", -10)
            await other.remove(ALICE, ["1"])
            assert b"secret" not in every_byte(dynamodb_table)

    asyncio.run(scenario())


DIES = """
import asyncio, os, signal, sys
from shipworthy.adapters.dynamodb.connection import Connection
from shipworthy.adapters.dynamodb.memory import DynamoDBMemoryStore
from shipworthy.domain.memory import Record
from shipworthy.domain.scope import Scope

right, left = Connection.ask, [int(sys.argv[3])]

def ask(self, operation, **request):
    if operation == "transact_write_items":
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
    return right(self, operation, **request)

async def main(table, url, *_):
    store = DynamoDBMemoryStore(table, region="eu-central-1", endpoint_url=url, create=True)
    await store.open()
    Connection.ask = ask
    records = [Record(id=str(n), kind="episode", data=b"second", at=1) for n in range(120)]
    await store.put(Scope("acme", "alice"), records, replace=True)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("writes", [0, 2])
def test_a_process_that_is_killed_leaves_whole_puts(writes: int, dynamodb_table: Table) -> None:
    async def scenario() -> None:
        async with opened(dynamodb_table) as store:
            await store.put(ALICE, several("first"))
            done = await asyncio.to_thread(
                subprocess.run,
                [sys.executable, "-c", DIES, *dynamodb_table, str(writes)],
                cwd=ROOT,
                env={
                    "AWS_ACCESS_KEY_ID": "test",
                    "AWS_SECRET_ACCESS_KEY": "test",
                    "AWS_EC2_METADATA_DISABLED": "true",
                },
            )
            assert done.returncode == -9
            found = [one.data for one in await store.page(ALICE)]
            assert found == ([b"second"] * 120 if writes else [b"first"] * 3)

    asyncio.run(scenario())


# what is lost on the way


@pytest.mark.parametrize("how", ["lose the request", "lose the answer", "stall"])
def test_what_is_lost_on_the_way_is_done_once(how: How, dynamodb_table: Table) -> None:
    """Also where it may be done only if nobody else has written; while it is waited for, the event loop goes on."""

    async def scenario(proxy: Proxy) -> None:
        url = f"http://127.0.0.1:{proxy.port}"
        lossy = client(url, timeout=0.5)
        async with opened(dynamodb_table) as other, opened(dynamodb_table, client=lossy) as store:
            mark = await store.put(ALICE, several("first"))
            for writes in range(1, 4):
                proxy.fault(b"TransactWriteItems", how)
                putting = asyncio.create_task(store.put(ALICE, several("second"), replace=True, at=mark))
                ticks = 0
                while not putting.done():
                    await asyncio.sleep(0.005)
                    ticks += 1
                assert ticks > (50 if how == "stall" else 0)
                assert proxy.struck == writes
                mark = putting.result()
                assert mark.n == 3 + 3 * writes
                assert await other.put(ALICE, []) == mark

    with Proxy(int(dynamodb_table.url.rpartition(":")[2])) as proxy:
        asyncio.run(scenario(proxy))


def test_what_is_asked_for_again_as_something_new_is_caught(
    dynamodb_table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Connection.ask

    def ask(self: Connection, operation: str, **request: Any) -> Any:
        request.pop("ClientRequestToken", None)
        return right(self, operation, **request)

    monkeypatch.setattr(Connection, "ask", ask)
    with pytest.raises((AssertionError, MemoryConflict)):
        test_what_is_lost_on_the_way_is_done_once("lose the answer", dynamodb_table)


def test_a_server_that_was_away_is_used_again(dynamodb_table: Table) -> None:
    async def scenario(proxy: Proxy) -> None:
        url = f"http://127.0.0.1:{proxy.port}"
        async with opened(dynamodb_table, client=client(url), patience=0.2) as store:
            await store.put(ALICE, several("first"))
            proxy.refuse()
            for ask in (store.page(ALICE), store.put(ALICE, several("second")), store.erase(ACME)):
                with pytest.raises(MemoryUnavailable):
                    await ask
            async with opened_never(dynamodb_table, client=client(url)) as error:
                assert isinstance(error, MemoryUnavailable)
            proxy.accept()
            assert await said(store) == [b"first"] * 3

    with Proxy(int(dynamodb_table.url.rpartition(":")[2])) as proxy:
        asyncio.run(scenario(proxy))
    asyncio.run(nobody_is_there(dynamodb_table))


async def nobody_is_there(table: Table) -> None:
    async with opened_never(table, client=client(f"http://127.0.0.1:{free_port()}")) as error:
        assert isinstance(error, MemoryUnavailable)


@contextlib.asynccontextmanager
async def opened_never(table: Table, **options: Any) -> AsyncIterator[MemoryStoreError]:
    """The error of a store that cannot be opened."""
    store = made(table, **{"patience": 0.0} | options)
    with pytest.raises(MemoryStoreError) as raised:
        await store.open()
    await store.close()
    assert raised.value.fix
    assert raised.value.__context__ is None
    yield raised.value


# tables and servers that cannot be used


def test_a_table_that_is_not_there_is_made_only_where_that_was_said(dynamodb_table: Table) -> None:
    async def scenario() -> None:
        async with opened_never(dynamodb_table, create=False) as error:
            assert "create=True" in error.fix
            assert dynamodb_table.name in error.what
        async with opened(dynamodb_table), opened(dynamodb_table, create=False):
            pass

    asyncio.run(scenario())


def test_a_table_of_somebody_else_is_refused(dynamodb_table: Table) -> None:
    async def scenario() -> None:
        known = dynamodb_table.client()
        known.create_table(
            TableName=dynamodb_table.name,
            KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        async with opened_never(dynamodb_table) as error:
            assert isinstance(error, MemoryForeign)
        known.delete_table(TableName=dynamodb_table.name)
        async with opened(dynamodb_table):
            key = {"pk": {"S": "store"}, "sk": {"S": "format"}}
            known.put_item(TableName=dynamodb_table.name, Item=key | {"f": {"S": "2"}})
        async with opened_never(dynamodb_table) as error:
            assert isinstance(error, MemoryForeign)

    asyncio.run(scenario())


class _Refuses(BaseHTTPRequestHandler):
    """Answers with the errors of its server, one after the other, and with the last one for good."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        said: list[Any] = self.server.said  # type: ignore[attr-defined]
        code = said.pop(0) if len(said) > 1 else said[0]
        body = json.dumps({"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": "No."}).encode()
        self.send_response(400)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def refusing(*codes: str) -> Iterator[str]:
    """A server that says nothing but these errors, in DynamoDB's words."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Refuses) as server:
        server.daemon_threads = True
        server.said = list(codes)  # type: ignore[attr-defined]
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            serving.join()


@pytest.mark.parametrize(
    ("code", "operation", "kind", "fix"),
    [
        ("AccessDeniedException", "query", MemoryStoreError, "UpdateItem"),
        ("AccessDeniedException", "transact_write_items", MemoryReadOnly, "UpdateItem"),
        ("UnrecognizedClientException", "query", MemoryStoreError, "credentials"),
        ("ProvisionedThroughputExceededException", "query", MemoryUnavailable, "capacity"),
        ("ItemCollectionSizeLimitExceededException", "transact_write_items", MemoryFull, "narrower"),
        ("ValidationException", "query", MemoryStoreError, "table"),
    ],
)
def test_every_refusal_says_what_to_do(
    code: str, operation: str, kind: type[MemoryStoreError], fix: str
) -> None:
    request = (
        {"TransactItems": [{"Delete": {"TableName": "bot", "Key": {}}}]}
        if operation == "transact_write_items"
        else {"TableName": "bot"}
    )

    def asks(url: str) -> None:
        server = Connection("bot", REGION, url, client(url), 1.0, 0.1)
        with pytest.raises(MemoryStoreError) as raised:
            server.ask(operation, **request)
        assert type(raised.value) is kind
        assert fix in raised.value.fix

    with refusing(code) as url:
        asks(url)


def test_who_is_throttled_comes_again() -> None:
    throttled = ["ThrottlingException"] * 3
    with refusing(*throttled, "ValidationException") as url:
        server = Connection("bot", REGION, url, client(url), 1.0, 5.0)
        with pytest.raises(MemoryStoreError, match="ValidationException"):
            server.ask("query", TableName="bot")


def test_without_credentials_or_a_region_it_says_so(
    dynamodb_table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_DEFAULT_REGION",
        "AWS_REGION",
        "AWS_PROFILE",
    ):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/nowhere")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")

    async def scenario() -> None:
        url = dynamodb_table.url
        async with opened_never(dynamodb_table, client=None, region=REGION, endpoint_url=url) as error:
            assert "credentials" in error.fix
        store = DynamoDBMemoryStore("bot-memory")
        with pytest.raises(ConfigurationError, match="region"):
            await store.open()
        await store.close()

    asyncio.run(scenario())


def test_what_was_closed_or_is_too_large_is_refused(dynamodb_table: Table) -> None:
    async def scenario() -> None:
        async with opened(dynamodb_table) as store:
            for size in (10 << 20, 400 << 10):
                with pytest.raises(RecordTooLarge):
                    await store.put(ALICE, [record("a", size=size)])
            await store.put(ALICE, [record("a", size=380 << 10)])
            found = Record(id="b", kind="episode", data=b"", at=1, terms=bytes(190 << 10))
            await store.put(ALICE, [found])
            assert [len(one.data) + len(one.terms) for one in await store.page(ALICE)] == [
                4 + (380 << 10),
                190 << 10,
            ]
        with pytest.raises(MemoryClosed):
            await store.page(ALICE)
        await store.open()
        assert len(await store.page(ALICE)) == 2
        await store.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("options", [{"table": "a b"}, {"table": ""}, {"timeout": 0}, {"patience": -1}])
def test_options_that_cannot_be_meant_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        DynamoDBMemoryStore(**{"table": "bot"} | options)
