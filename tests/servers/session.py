"""The servers of one run of pytest: one folder for all of its processes, and nothing left when it is over.

The process that opens the session (pytest's own; a script's, when it uses a server without pytest) names its folder
in the environment, where the processes that it starts find it. See `keeper` for how servers end.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import IO

import psutil

from tests.servers import keeper

VARIABLE = "SHIPWORTHY_TEST_SERVERS"
KEEPER = Path(keeper.__file__)
PATIENCE = 60.0
"""Seconds after which a server that does not answer cannot be started."""
MEMORY = Path("/dev/shm")
ROOM = 6 << 30
"""Bytes of memory that have to be free: databases that no test removes take some eight million each."""
PORTS = range(20_000, 32_000)
"""Below those that a system gives to outgoing connections, so that a killed server finds its port free again."""
_alive: IO[bytes] | None = None
_opened_by = 0


class CannotStart(Exception):
    """A server cannot be had on this machine; the tests that need it fail."""


def open_session(*, in_memory: bool = False) -> None:
    """Make the folder, unless a process before this one has. *in_memory*: where there is room for it; the servers sync
    as ever, and what is written outlives them, though not the machine, whose power no test cuts."""
    global _alive, _opened_by
    if VARIABLE in os.environ:
        return
    place = MEMORY if in_memory and _has_room() else None
    folder = Path(tempfile.mkdtemp(prefix="shipworthy-servers-", dir=place))
    folder.chmod(0o711)  # a server that does not run as root has its own folder in it
    (folder / "keepers").touch()
    _alive = (folder / "alive").open("wb")
    fcntl.flock(_alive, fcntl.LOCK_EX)
    os.environ[VARIABLE], _opened_by = str(folder), os.getpid()
    atexit.register(close_session)


def _has_room() -> bool:
    """Whether servers can keep all of theirs in memory, and run programs that are there."""
    if "TMPDIR" in os.environ or not os.access(MEMORY, os.W_OK | os.X_OK):
        return False
    is_memory = any(
        part.mountpoint == str(MEMORY) and part.fstype == "tmpfs" for part in psutil.disk_partitions(all=True)
    )
    runs = not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC
    return (
        is_memory and runs and min(shutil.disk_usage(MEMORY).free, psutil.virtual_memory().available) > ROOM
    )


def close_session() -> None:
    """End every server and wait for it, where this process has opened the session."""
    global _alive
    if _alive is None or _opened_by != os.getpid():
        return
    folder = Path(os.environ.pop(VARIABLE))
    _alive.close()
    _alive = None
    with contextlib.suppress(FileNotFoundError), (folder / "keepers").open() as keepers:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(keepers, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(0.01)
    shutil.rmtree(folder, ignore_errors=True)


def folder() -> Path:
    """Where the servers of this session keep what is theirs."""
    open_session()
    return Path(os.environ[VARIABLE])


@contextlib.contextmanager
def own_folder(name: str) -> Iterator[Path]:
    """A folder for one server of one test, removed afterwards."""
    made = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=folder()))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def shared(name: str, start: Callable[[Path], dict[str, str]]) -> dict[str, str]:
    """What *start* says of the server called *name*; called once in a session, in whichever process comes first.

    A server that could not be started is not tried again: `CannotStart` with the same words.
    """
    with (folder() / f"{name}.json").open("a+") as told:
        fcntl.flock(told, fcntl.LOCK_EX)
        told.seek(0)
        words = told.read()
        if words:
            known: dict[str, str] = json.loads(words)
        else:
            try:
                known = start(Path(tempfile.mkdtemp(prefix=f"{name}-", dir=folder())))
            except CannotStart as error:
                known = {"error": str(error)}
            told.write(json.dumps(known))
    if "error" in known:
        raise CannotStart(known["error"])
    return known


def binary(package: str, name: str) -> Path:
    """The program *name* that *package* has installed, by that package's own list of its files."""
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        raise CannotStart(f"The package {package} is not installed. Run: make test") from None
    for file in files:
        if file.name == name and (found := Path(str(file.locate())).resolve()).is_file():
            return found
    raise CannotStart(f"The package {package} has no program {name} for this platform.")


def free_port() -> int:
    """A port on loopback where nobody listens."""
    for port in random.sample(PORTS, 200):
        with socket.socket() as tried, contextlib.suppress(OSError):
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(("127.0.0.1", port))
            return port
    raise CannotStart(f"No free port on 127.0.0.1 in {PORTS}.")


class _Keeper(subprocess.Popen[bytes]):
    def __del__(self, *_: object) -> None:
        """Nothing to warn of: a keeper is meant to outlive the process that started it."""


class Kept:
    """A server that runs under its keeper. *number* is the signal that ends it when the session is over."""

    def __init__(self, folder_: Path, command: list[str], *, number: int, user: str = "") -> None:
        self._log = folder_ / "log"
        with self._log.open("ab") as log:
            self._keeper = _Keeper(
                [sys.executable, "-I", KEEPER, folder(), folder_, user, str(number), *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        assert self._keeper.stdout is not None
        with self._keeper.stdout as told:
            said = told.readline()
        if not said:
            raise CannotStart(f"{command[0]} cannot be run:\n{self.log()}")
        self.pid = int(said)

    def log(self) -> str:
        """The end of what the server has written."""
        return self._log.read_text(errors="replace")[-4000:]

    def until(self, ready: Callable[[], bool]) -> None:
        """Wait until the server is *ready*; ends it and raises `CannotStart` with its log when it never is."""
        deadline = time.monotonic() + PATIENCE
        while not ready():
            if self._keeper.poll() is not None:
                raise CannotStart(f"The server ended as it started:\n{self.log()}")
            if time.monotonic() > deadline:
                self.signal(signal.SIGKILL)
                self.wait()
                raise CannotStart(f"The server does not answer after {PATIENCE:.0f} s:\n{self.log()}")
            time.sleep(0.02)

    def signal(self, number: int) -> None:
        """Send the server a signal."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self) -> None:
        """Until the server has ended."""
        self._keeper.wait(PATIENCE)
