"""The way to a Redis server: a client per event loop, scripts by their digest, bounded waits, its errors as ours."""

from __future__ import annotations

import asyncio
import functools
import hashlib
from collections.abc import AsyncGenerator, Callable, Coroutine
from importlib import resources
from typing import Any, Literal, NamedTuple, TypeVar

from shipworthy.errors import (
    ConfigurationError,
    LedgerError,
    LedgerUnavailable,
    MemoryForeign,
    MemoryFull,
    MemoryReadOnly,
    MemoryStoreError,
    MemoryUnavailable,
    MissingExtra,
    ShipworthyError,
)
from shipworthy.rules.per_loop import PerLoop

try:
    from redis import asyncio as client_of
    from redis import exceptions as errors
    from redis.asyncio.connection import parse_url
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
except ImportError as error:
    raise MissingExtra(
        f"What is in Redis needs the package redis: {error}.", fix="pip install 'shipworthy[redis]'"
    ) from None

T = TypeVar("T")

CONNECTIONS = 16
"""Connections of one event loop; a server does one thing at a time, so that more of them wait there instead of here."""
PAUSE = 0.05
"""Seconds before the second attempt; twice as many before each further one, up to a second."""
_ADDRESS = "Pass redis://user@host:6379/0, or rediss:// for TLS (percent-encode special characters)."
_OURS = "protocol", "decode_responses", "retry", "retry_on_error", "retry_on_timeout"


class WrongType(errors.ResponseError):
    """A key that is not ours."""


_AGAIN = (
    errors.ConnectionError,
    errors.TimeoutError,
    errors.ReadOnlyError,
    errors.ClusterDownError,
    errors.TryAgainError,
    OSError,
)
"""Worth another attempt: the server may have it done or not, and each script may come twice."""


class Family(NamedTuple):
    """What is kept on the server, and its errors: in general; for a server that is away; for one that only reads; for
    one that has no room; for keys that are somebody else's. `keys`: how an administrator names its keys."""

    noun: str
    general: type[ShipworthyError]
    away: type[ShipworthyError]
    read_only: type[ShipworthyError]
    full: type[ShipworthyError]
    foreign: type[ShipworthyError]
    keys: str


LEDGER = Family(
    "ledger", LedgerError, LedgerUnavailable, LedgerUnavailable, LedgerError, LedgerError, "{<prefix>}*"
)
MEMORY = Family(
    "memory",
    MemoryStoreError,
    MemoryUnavailable,
    MemoryReadOnly,
    MemoryFull,
    MemoryForeign,
    "{<prefix>:memory*",
)
_MEANINGS: tuple[
    tuple[
        tuple[type[Exception], ...], Literal["general", "away", "read_only", "full", "foreign"], str | None
    ],
    ...,
] = (
    (
        (errors.AuthenticationError, errors.AuthorizationError, errors.AuthenticationWrongNumberOfArgsError),
        "general",
        "Put the right user and password into the address: redis://user:password@host:6379/0, percent-encoded.",
    ),
    (
        (errors.NoPermissionError,),
        "general",
        "As an administrator: ACL SETUSER <user> +@read +@write +@scripting +@connection +info +time "
        "'~%(keys)s' (the prefix is `shipworthy` unless the %(noun)s was given another).",
    ),
    (
        (errors.BusyLoadingError,),
        "away",
        "The server reads its data back; resume the run in a moment.",
    ),
    (
        (errors.ReadOnlyError,),
        "read_only",
        "This is a replica: give the address of the primary, or a name that follows it.",
    ),
    (
        (errors.OutOfMemoryError,),
        "full",
        "Raise the server's maxmemory; nothing of the %(noun)s was evicted.",
    ),
    (
        (errors.MovedError, errors.AskError, errors.ClusterCrossSlotError),
        "general",
        "This is one node of a cluster: pass a function that makes a redis.asyncio.RedisCluster.",
    ),
    (
        (WrongType,),
        "foreign",
        "Something else has these keys: use another prefix, or a database of its own.",
    ),
    (
        _AGAIN,
        "away",
        None,
    ),
)
"""What the client's errors are: which of a family's, and what to do."""
_STATES = {
    "READONLY": errors.ReadOnlyError,
    "OOM": errors.OutOfMemoryError,
    "NOPERM": errors.NoPermissionError,
    "ACL failure": errors.NoPermissionError,
    "BUSY ": errors.TryAgainError,
    "WRONGTYPE": WrongType,
}
"""What the client has no class for, and what older servers say in a script's error behind words of their own."""
_REFUSES = "MISCONF", "NOREPLICAS"
_WRITES = "The server refuses writes because it cannot keep them: look at its disk, its replicas and its log."


class Script:
    """A script and its digest, by which a server knows it."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text
        self.digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


@functools.cache
def script(name: str, common: str = "common") -> Script:
    """The script of this name, behind what all of its kind share."""
    folder = resources.files("shipworthy.adapters.redis")
    return Script(name, "\n".join([folder.joinpath(f"{part}.lua").read_text() for part in (common, name)]))


class _Client:
    """A loop's client. `turns`: who waits for a connection has not failed yet. `end` closes it: when it is told to, and
    when the loop ends, which ends its generators first."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.turns = asyncio.Semaphore(CONNECTIONS)
        self.used = False
        self.end = self._until_the_end()

    async def _until_the_end(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            await self.client.aclose()


class Connection:
    """Clients for whichever loops ask. *timeout*: seconds for one attempt's connecting and for its answer; *patience*:
    seconds in which attempts are begun again. *decode*: answers are text, and not bytes."""

    def __init__(
        self,
        server: str | Callable[[], Any],
        key: str,
        timeout: float,
        patience: float,
        *,
        family: Family = LEDGER,
        decode: bool = True,
    ) -> None:
        self._family, self._decode = family, decode
        self._options = _options(server, timeout, family, decode) if isinstance(server, str) else None
        self._make = None if isinstance(server, str) else server
        self._key = key
        self._timeout, self._patience = timeout, patience
        self._clients: PerLoop[_Client] = PerLoop()
        self._running: set[asyncio.Task[Any]] = set()

    @property
    def name(self) -> str:
        """The server in a message, without user or password."""
        if self._options is None:
            return "The Redis server"
        said = self._options
        where = said.get("path") or f"{said.get('host', 'localhost')}:{said.get('port', 6379)}"
        return f"The Redis server {where}"

    async def run(self, script: Script, *arguments: str | int | bytes, key: str = "") -> Any:
        """What *script* gives on the keys behind *key* (or its own). One that is cancelled goes on by itself, for at
        most as long as it would have waited: a connection in the middle of something is nobody's. Raises an error of
        the family."""
        return await self._apart(self._run(script, key or self._key, arguments))

    async def setting(self, name: str) -> str | None:
        """A setting of the server's; None where it does not say."""
        try:
            told = await self._apart((await self._client()).config_get(name))
        except (errors.RedisError, OSError):
            return None
        return _text(told.get(name, told.get(name.encode()))) if isinstance(told, dict) else None

    async def close(self) -> None:
        """Close this loop's connections, when what runs on them is over."""
        loop = asyncio.get_running_loop()
        if running := [task for task in list(self._running) if task.get_loop() is loop]:
            await asyncio.wait(running)
        client = self._clients.take(loop)
        if client is not None:
            await client.end.aclose()

    async def _apart(self, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def _client(self) -> Any:
        client = self._clients.get(asyncio.get_running_loop(), self._open)
        if not client.used:
            client.used = True
            await anext(client.end)
        return client.client

    def _turns(self) -> asyncio.Semaphore:
        return self._clients.get(asyncio.get_running_loop(), self._open).turns

    def _open(self) -> _Client:
        if self._options is None:
            assert self._make is not None
            return _Client(self._make())
        pool = client_of.BlockingConnectionPool(
            max_connections=CONNECTIONS, timeout=self._timeout, **self._options
        )
        return _Client(client_of.Redis.from_pool(pool))

    async def _run(self, script: Script, key: str, arguments: tuple[str | int | bytes, ...]) -> Any:
        """Attempts, until one is answered or patience is over. Time in which this process was stopped takes none of
        it: an attempt counts for no longer than it may take to be answered."""
        clock = asyncio.get_running_loop().time
        left, pause = self._patience, PAUSE
        client, turns = await self._client(), self._turns()
        while True:
            failed: Exception
            async with turns:
                began = clock()
                try:
                    said = await _ask(client, script, key, arguments)
                    return _text(said) if self._decode else said
                except (errors.RedisError, errors.RedisClusterException, OSError) as error:
                    failed = _plain(error)
                left -= min(clock() - began, self._timeout) + pause
            if not _is_worth_another(failed) or left < 0:
                break
            if isinstance(failed, errors.ReadOnlyError):  # its name may lead to another server by now
                await _disconnect(client)
            await asyncio.sleep(pause)
            pause = min(2 * pause, 1.0)
        # Raised out here, so that the client's exception, with whatever it holds, is no context of ours.
        raise self.translated(failed)

    def translated(self, error: Exception) -> ShipworthyError:
        """The one place where the client's errors become ours."""
        said = " ".join(str(error).split())[:300].rstrip(".")
        password = (self._options or {}).get("password")
        if password:
            said = said.replace(str(password), "***")
        family = self._family
        if any(word in said for word in _REFUSES):
            refused = family.general if family is LEDGER else family.read_only
            return refused(f"{self.name} refused: {said}.", fix=_WRITES)
        for classes, kind, fix in _MEANINGS:
            if isinstance(error, classes):
                fix = fix and fix % {"keys": family.keys, "noun": family.noun}
                meant: type[ShipworthyError] = getattr(family, kind)
                return meant(f"{self.name} failed: {said or type(error).__name__}.", fix=fix)
        return family.general(f"{self.name} failed: {said}.", fix="Look at the server's log.")


async def _ask(client: Any, script: Script, key: str, arguments: tuple[str | int | bytes, ...]) -> Any:
    try:
        return await client.evalsha(script.digest, 1, key, *arguments)
    except errors.NoScriptError:
        return await client.eval(script.text, 1, key, *arguments)


def _text(answer: Any) -> Any:
    """The answer as text, also of a client that was not told to decode."""
    if isinstance(answer, bytes):
        return answer.decode()
    return [_text(part) for part in answer] if isinstance(answer, list) else answer


def _plain(error: Exception) -> Exception:
    """The error that an older server wraps into the words of a script's failure."""
    if type(error) is errors.ResponseError:
        for word, kind in _STATES.items():
            if word in str(error):
                return kind(str(error))
    return error


def _is_worth_another(error: Exception) -> bool:
    refused = (errors.AuthenticationError, errors.AuthorizationError)
    return isinstance(error, _AGAIN) and not isinstance(error, refused)


async def _disconnect(client: Any) -> None:
    pool = getattr(client, "connection_pool", None)
    if pool is not None:
        await pool.disconnect(inuse_connections=False)


def _options(url: str, timeout: float, family: Family, decode: bool) -> dict[str, Any]:
    """The options of a connection. Raises ConfigurationError, which does not repeat a password."""
    try:
        said: dict[str, Any] = dict(parse_url(url))
        if "@" in str(said.get("host", "")):
            raise ValueError("a part of the password would be taken for an address")
    except (ValueError, AttributeError):
        raise ConfigurationError("The address of the Redis server cannot be read.", fix=_ADDRESS) from None
    refused = [name for name in _OURS if name in said]
    if refused:
        raise ConfigurationError(
            f"The address of the Redis server sets {', '.join(refused)}, which the {family.noun} sets itself.",
            fix="Leave it out.",
        )
    ours: dict[str, Any] = {"socket_timeout": timeout, "socket_connect_timeout": timeout}
    fixed = {"protocol": 2, "decode_responses": decode, "retry": Retry(NoBackoff(), 0)}
    return ours | said | fixed
